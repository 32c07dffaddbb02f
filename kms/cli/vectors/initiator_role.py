"""The Initiators of a vector: REQUEST_INIT, TRANSFER_INIT and CSB updates made anew, the answers to them verified."""

from dataclasses import replace

from kms.cli.vectors.entries import BrokenVector
from kms.cli.vectors.kms_role import put_keys
from kms.cli.vectors.party_role import PartyRole
from kms.cli.vectors.report import Mismatch, equal
from kms.cli.vectors.setting import Setting
from kms.cli.vectors.steps import Step, sessions_of
from kms.crypto import base_ticket
from kms.crypto.interface import Use
from kms.crypto.protection import MessageProtection
from kms.crypto.suite import suite_of
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError, ReceivedError
from kms.mikey.exchange import Role
from kms.mikey.labels import INITIAL
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, Sp, Ticket, Tp
from kms.mikey.registry import DataType, IdRole, RandRole
from kms.mikey.ticket_data import TicketData
from kms.party.acceptance import Acceptance
from kms.party.credential import SharedTpk
from kms.party.initiator import OutgoingTransfer
from kms.party.making import MPK_LENGTH, make_ticket
from kms.party.requesting import GrantedTicket, TicketRequest


class InitiatorRole(PartyRole):
    """See PartyRole."""

    role = Role.INITIATOR

    def __init__(self, setting: Setting, acceptance: Acceptance) -> None:
        super().__init__(setting, acceptance)
        self._requests: dict[int, TicketRequest] = {}
        self._granted: dict[bytes, GrantedTicket] = {}
        self._transfers: dict[int, OutgoingTransfer] = {}

    def on(self, step: Step) -> None:
        """See PartyRole."""
        if step.update:
            self.update(step)
        elif step.kind in (DataType.REQUEST_INIT_PSK, DataType.REQUEST_INIT_PK):
            self._request(step)
        elif step.kind == DataType.REQUEST_RESP:
            self._take_ticket(step)
        elif step.kind == DataType.TRANSFER_INIT:
            self._transfer(step)
        elif step.kind == DataType.TRANSFER_RESP:
            self._complete(step)
        elif step.kind == DataType.ERROR:
            self._take_error(step)

    def _request(self, step: Step) -> None:
        message = step.message
        identity = self.setting.sender(message)
        if identity is None:
            raise BrokenVector(f"{step.where}: neither IDRi nor IDRpsk names a subscriber")
        self.script(step)
        party = self.party(identity, step)
        desired = message.get(Tp).policy
        request = TicketRequest(party, desired, key=party.key_for(message.hdr.prf))
        self.compare(step, request.message)
        self._requests[step.csb_id] = request
        self.waits_for(request.complete)

    def _take_ticket(self, step: Step) -> None:
        request = self._requests.get(step.csb_id)
        if request is None:
            raise BrokenVector(f"{step.where} answers no REQUEST_INIT of the vector")
        self.hear(step)
        granted = request.complete(step.message.raw)
        self._granted[granted.ticket.without_initiator_data()] = granted

    def _transfer(self, step: Step) -> None:
        message = step.message
        ticket = message.get(Ticket)
        named = rules.responders(ticket.policy)
        called = message.idr(IdRole.RESPONDER) or (named[0] if named else b"")
        own = message.idr(IdRole.INITIATOR) or rules.identity(ticket.policy, IdRole.INITIATOR) or b""
        granted = self._granted.get(ticket.without_initiator_data())
        if granted is None:
            granted = self._make(step, ticket, own)
        self.script(step)
        party = self.party(own)
        protection = MessageProtection(
            self.ops,
            granted.mpki,
            suite_of(message.hdr.prf).prf,
            step.csb_id,
            INITIAL,
            randr_i=message.rand(RandRole.INITIATOR),
        )
        outgoing = OutgoingTransfer(
            party,
            granted,
            called,
            sessions_of(message),
            message.find_all(Sp),
            keys=self.supplied(message, protection),
            acceptance=self.acceptance,
        )
        self.compare(step, outgoing.message)
        self._transfers[step.csb_id] = outgoing
        self.waits_for(outgoing.complete)
        if outgoing.session is not None:
            self.established.append(outgoing.session)

    def _make(self, step: Step, ticket: Ticket, own: bytes) -> GrantedTicket:
        """The ticket of a TRANSFER_INIT, made by the Initiator itself with the TPK that it shares (modes 3 and 4)."""
        if ticket.policy.flags & Flags.D or self.setting.tpk is None:
            raise BrokenVector(f"{step.where}: its ticket was not granted in this vector")
        data = TicketData.decode(ticket.ticket_data)
        tpk = self.ops.load(self.setting.tpk, Use.PRF)
        opened = base_ticket.open_ticket(self.ops, tpk, ticket, data)
        if len(opened.mpk.key) != MPK_LENGTH:
            raise BrokenVector(f"{step.where}: an MPK of {len(opened.mpk.key)} bytes, ours have {MPK_LENGTH}")
        self.sources.clear()
        self.sources.clock = step.time
        self.sources.put("ticket RAND", data.rand)
        self.sources.put_timestamp(data.t)
        put_keys(self.sources, opened)
        peer = None if ticket.policy.flags & Flags.E else rules.responders(ticket.policy)[0].decode()
        bits, psk_id = suite_of(ticket.policy.prf).bits, data.psk_id or b""
        shared = SharedTpk(bits, "initiator", psk_id, self.setting.tpk, peer)
        made = make_ticket(replace(self.party(own), tpks=(shared,)), ticket.policy, opened.session_keys)
        equal(
            f"{step.where}: the ticket", ticket.without_initiator_data(), made.ticket.without_initiator_data()
        )
        return made

    def _complete(self, step: Step) -> None:
        outgoing = self._transfers.get(step.csb_id)
        if outgoing is None:
            raise BrokenVector(f"{step.where} answers no TRANSFER_INIT of the vector")
        self.hear(step)
        self.established.append(outgoing.complete(step.message.raw))

    def _take_error(self, step: Step) -> None:
        """An Error message of the KMS or of a Responder, if it is for this role."""
        exchange = self._transfers.get(step.csb_id) or self._requests.get(step.csb_id)
        if exchange is None:
            return
        self.hear(step)
        try:
            exchange.complete(step.message.raw)
        except ReceivedError:
            return
        raise Mismatch(f"{step.where}: an Error message was not taken for one")

    def receive(self, raw: bytes, time: float) -> None:
        """Take a negative's `bad`. Raises MikeyError if it is refused."""
        try:
            message = Message.decode(raw)
            session = self.session(message.hdr.csb_id)
        except (MikeyError, BrokenVector):
            self.receive_answer(raw, time)
            return
        if message.hdr.data_type == DataType.TRANSFER_INIT:
            self.sources.clock = time
            session.answer_update(raw)
        else:
            self.receive_answer(raw, time)

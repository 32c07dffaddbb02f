"""The Responders of a vector: TRANSFER_INIT judged, the ticket resolved, RESOLVE_INIT and TRANSFER_RESP made anew."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from kms.cli.vectors.entries import BrokenVector
from kms.cli.vectors.kms_role import RESOLVES
from kms.cli.vectors.party_role import PartyRole
from kms.cli.vectors.report import Mismatch
from kms.cli.vectors.setting import CLOCK_SKEW, Setting
from kms.cli.vectors.steps import Step, sessions_of
from kms.crypto.protection import MessageProtection
from kms.crypto.suite import suite_of
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError, ReceivedError
from kms.mikey.exchange import Role
from kms.mikey.labels import RESPONSE
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, KeyData, Sp, Ticket
from kms.mikey.registry import DataType, ErrorNo, IdRole, RandRole
from kms.party.acceptance import Acceptance
from kms.party.memory import InMemoryReplayCache, ResolutionCache
from kms.party.party import Party
from kms.party.refusing import refusal
from kms.party.responder import IncomingTransfer, Resolution

AskKms = Callable[[bytes], bytes]
"""Sends a RESOLVE_INIT to a KMS; its answer. Raises MikeyError if it refuses."""


class ResponderRole(PartyRole):
    """See PartyRole."""

    role = Role.RESPONDER

    def __init__(self, setting: Setting, acceptance: Acceptance) -> None:
        super().__init__(setting, acceptance)
        self._offers: list[Step] = []
        self._incoming: dict[tuple[int, bytes], IncomingTransfer] = {}
        self._resolving: dict[int, tuple[IncomingTransfer, bytes]] = {}
        self._resolutions: dict[tuple[bytes, bytes], Resolution] = {}
        self._caches: dict[bytes, ResolutionCache] = {}
        self._replays: dict[bytes, InMemoryReplayCache] = {}
        self._answered: set[int] = set()

    def on(self, step: Step) -> None:
        """See PartyRole."""
        if step.update:
            self.update(step)
        elif step.kind == DataType.TRANSFER_INIT:
            self._offers.append(step)
        elif step.kind in RESOLVES:
            self._resolve(step)
        elif step.kind == DataType.RESOLVE_RESP:
            self._resolved(step)
        elif step.kind == DataType.TRANSFER_RESP:
            self._answer(step)
        elif step.kind == DataType.ERROR:
            self._error(step)

    def finish(self) -> None:
        """Judge the TRANSFER_INITs that nobody answered or resolved; with F = 0 they may be all there is."""
        super().finish()
        for offer in self._offers:
            if offer.index not in self._answered:
                identity = self.called(offer.message)
                incoming = self._receive(offer, identity)
                if not offer.message.get(Ticket).policy.flags & (Flags.E | Flags.F):
                    self._resolve_without_kms(incoming, identity)

    # -- TRANSFER_INIT -------------------------------------------------------------------------------------------------

    def called(self, message: Message) -> bytes:
        """Who receives a TRANSFER_INIT: whom it is for, or a member of the group it is for."""
        named = rules.responders(message.get(Ticket).policy)
        wanted = message.idr(IdRole.RESPONDER)
        names = [wanted, *named] if wanted in named else [*named, wanted]
        for name in names:
            if name in self.setting.parties:
                return name or b""
            for member in sorted(self.setting.groups.get(name or b"", ())):
                if member in self.setting.parties:
                    return member
        sender = message.idr(IdRole.INITIATOR)
        other = next((i for i in self.setting.parties if i != sender), None)
        if other is None:
            raise BrokenVector("config.psk has nobody who could receive the TRANSFER_INIT")
        return other

    def _groups(self, message: Message, identity: bytes) -> frozenset[bytes]:
        """The groups by which `identity` is called: which there are is local to a KMS, and the vector may not say."""
        ticket = message.find(Ticket)
        named = rules.responders(ticket.policy) if ticket is not None else ()
        configured = {g for g, members in self.setting.groups.items() if identity in members}
        unknown = {n for n in named if n not in self.setting.parties and n not in self.setting.groups}
        return frozenset(configured | (unknown if identity not in named else set()))

    def _receive(self, offer: Step, identity: bytes, asking: Step | None = None) -> IncomingTransfer:
        """`asking` is the RESOLVE_INIT that the Responder is about to send."""
        self.hear(offer)
        incoming = self._judge(offer.message.raw, self.party(identity, asking))
        self._answered.add(offer.index)
        self._incoming[offer.csb_id, identity] = incoming
        return incoming

    def _judge(self, raw: bytes, party: Party) -> IncomingTransfer:
        identity, groups = party.identity, frozenset[bytes]()
        with suppress(MikeyError):  # IncomingTransfer says what is wrong with it
            groups = self._groups(Message.decode(raw), identity)
        incoming = IncomingTransfer(party, raw, replace(self.acceptance, groups=groups))
        replays = self._replays.setdefault(identity, InMemoryReplayCache(self.sources.now))
        replays.reserve(incoming.digest, self.sources.now() + CLOCK_SKEW)
        return incoming

    # -- resolving -----------------------------------------------------------------------------------------------------

    def _resolve(self, step: Step) -> None:
        ticket = step.message.get(Ticket)
        identity = self.setting.sender(step.message)
        offer = next((o for o in reversed(self._offers) if o.message.get(Ticket) == ticket), None)
        if offer is None or identity is None:
            raise BrokenVector(f"{step.where}: no TRANSFER_INIT of the vector brought its ticket")
        incoming = self._incoming.get((offer.csb_id, identity))
        if incoming is None or incoming.message.raw != offer.message.raw:
            incoming = self._receive(offer, identity, step)
        self.script(step)
        self.compare(step, incoming.resolve_init())
        self._resolving[step.csb_id] = incoming, identity
        self.waits_for(incoming.resolved)

    def _resolved(self, step: Step) -> None:
        if step.csb_id not in self._resolving:
            raise BrokenVector(f"{step.where} answers no RESOLVE_INIT of the vector")
        incoming, identity = self._resolving[step.csb_id]
        self.hear(step)
        self._keep(incoming, identity, incoming.resolved(step.message.raw))

    def _resolve_without_kms(self, incoming: IncomingTransfer, identity: bytes) -> None:
        """From an earlier resolution (5.3), or with the TPK that the Responder shares (modes 2 and 4)."""
        cached = self._cache(identity).find(incoming.ticket)
        known = cached or self._resolutions.get((identity, incoming.ticket.without_initiator_data()))
        if known is not None:
            incoming.reuse(known)
            self._keep(incoming, identity, known)
        elif self.setting.tpk is not None:
            policy = incoming.ticket.policy
            maker = None if policy.flags & Flags.D else rules.identity(policy, IdRole.INITIATOR)
            tpk_id = self.setting.tpk_id or None
            resolution = incoming.resolve_locally(self.setting.tpk, tpk_id, initiator=maker)
            self._keep(incoming, identity, resolution)
        else:
            raise BrokenVector(
                "a TRANSFER_RESP without RESOLVE_INIT, but no earlier resolution and no tpk in config"
            )

    def _keep(self, incoming: IncomingTransfer, identity: bytes, resolution: Resolution) -> None:
        self._cache(identity).keep(incoming.ticket, incoming.identity, resolution)
        self._resolutions[identity, incoming.ticket.without_initiator_data()] = resolution
        if incoming.session is not None:
            self.established.append(incoming.session)

    def _cache(self, identity: bytes) -> ResolutionCache:
        return self._caches.setdefault(identity, ResolutionCache())

    # -- TRANSFER_RESP -------------------------------------------------------------------------------------------------

    def _answer(self, step: Step) -> None:
        message = step.message
        offer = next((o for o in reversed(self._offers) if o.csb_id == step.csb_id), None)
        if offer is None:
            raise BrokenVector(f"{step.where} answers no TRANSFER_INIT of the vector")
        identity = message.idr(IdRole.RESPONDER) or self.called(offer.message)
        incoming = self._incoming.get((step.csb_id, identity))
        if incoming is None or incoming.message.raw != offer.message.raw:
            incoming = self._receive(offer, identity)
            self._resolve_without_kms(incoming, identity)
        self.script(step)
        keys = self._keys_of(message, incoming, identity)
        answer = incoming.answer(sessions_of(message), keys, policies=message.find_all(Sp))
        self.compare(step, answer)
        if incoming.session is not None:
            self.established.append(incoming.session)

    def _keys_of(self, message: Message, incoming: IncomingTransfer, identity: bytes) -> tuple[KeyData, ...]:
        resolution = self._resolutions.get((identity, incoming.ticket.without_initiator_data()))
        if resolution is None:
            raise BrokenVector("a TRANSFER_RESP before the ticket was resolved")
        protection = MessageProtection(
            self.ops,
            resolution.mpkr or resolution.mpki,
            suite_of(message.hdr.prf).prf,
            message.hdr.csb_id,
            RESPONSE,
            randr_i=incoming.message.rand(RandRole.INITIATOR),
            randr_r=message.rand(RandRole.RESPONDER),
        )
        return self.supplied(message, protection)

    # -- Error messages ------------------------------------------------------------------------------------------------

    def _error(self, step: Step) -> None:
        """An Error message of the KMS to this role, or of this role to the Initiator."""
        if step.csb_id in self._resolving:
            self.hear(step)
            try:
                self._resolving[step.csb_id][0].resolved(step.message.raw)
            except ReceivedError:
                return
            raise Mismatch(f"{step.where}: an Error message was not taken for one")
        offer = next((o for o in reversed(self._offers) if o.csb_id == step.csb_id), None)
        if offer is not None:
            self._refuse(step, offer)

    def _refuse(self, step: Step, offer: Step) -> None:
        """Answer a TRANSFER_INIT with an Error message: after its verification, or because it does not get so far."""
        identity = self.called(offer.message)
        incoming = next((i for (csb_id, _), i in self._incoming.items() if csb_id == step.csb_id), None)
        try:
            incoming = incoming or self._receive(offer, identity)
            self.script(step)
            made: Message | None = incoming.refuse(
                ErrorNo(step.message.error_numbers[0]), step.message.find_all(Sp)
            )
        except MikeyError as error:
            self._answered.add(offer.index)
            self.script(step)
            made = refusal(self.party(identity), offer.message.raw, error, self.acceptance)
        if made is None:
            raise Mismatch(f"{step.where}: no Error message is sent about this TRANSFER_INIT")
        self.compare(step, made)

    # -- receiving a negative ------------------------------------------------------------------------------------------

    def receive(self, raw: bytes, time: float, ask_kms: AskKms) -> None:
        """Take a negative's `bad`. A TRANSFER_INIT is answered in full, with the KMS. Raises MikeyError if refused."""
        if len(raw) < 2 or raw[1] != DataType.TRANSFER_INIT:
            self.receive_answer(raw, time)
            return
        self.sources.clear()
        self.sources.clock = time
        message = Message.decode(raw)
        if message.find(Ticket) is None:
            self.session(message.hdr.csb_id).answer_update(raw)
            return
        identity = self.called(message)
        incoming = self._judge(raw, self.party(identity))
        if not incoming.ticket.policy.flags & Flags.E and self.setting.tpk is not None:
            self._resolve_without_kms(incoming, identity)
        else:
            incoming.resolved(ask_kms(incoming.resolve_init().raw))
        if incoming.ticket.policy.flags & Flags.F:
            incoming.answer()

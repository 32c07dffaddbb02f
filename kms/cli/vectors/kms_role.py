"""The KMS of a vector: the real engine, behind the replay cache of the frontend, with the vector's keys and values."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from kms.cli.vectors.setting import CLOCK_SKEW, ScriptedSources, Setting
from kms.crypto import base_ticket
from kms.crypto.interface import Key, KeyOperations, Use
from kms.crypto.software import SoftwareKeys
from kms.engine.certificates import CertificateRefused, Signer
from kms.engine.context import Context, PublicKey
from kms.engine.directory import Directory, Role, TpkRole, User
from kms.engine.engine import Engine
from kms.engine.granting import Limits
from kms.engine.peers import Peer, PeerPsk
from kms.engine.psk import Subscriber
from kms.engine.shared_tpks import SharedTpk
from kms.engine.v1.link_pb2 import (
    CALLED_SERVICE_CLIENT,
    CALLED_SERVICE_FOCUS,
    OPERATION_REQUEST_TICKET,
    OPERATION_RESOLVE_TICKET,
    EngineRequest,
    PeerAnswer,
    Refusal,
)
from kms.frontend.replay import MemoryReplayCache, Replayed, digest_of
from kms.mikey import labels
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError
from kms.mikey.message import Message
from kms.mikey.payloads import T, Ticket, TicketPolicy, Tp
from kms.mikey.registry import DataType, ErrorNo, PrfFunc, RandRole
from kms.mikey.ticket_data import DERIVED_TICKET, KeyEntry, TicketData, entry_of, read_key_list

REQUESTS = (DataType.REQUEST_INIT_PSK, DataType.REQUEST_INIT_PK)
RESOLVES = (DataType.RESOLVE_INIT_PSK, DataType.RESOLVE_INIT_PK)

_NO_SUBSCRIBER_VERSION = 0
_BASE_TPK_LENGTH = 32
_YEAR = 365 * 86400


class KmsRefused(MikeyError):
    """The KMS refused a message. `answer` is its Error message, empty if there is none."""

    def __init__(self, text: str, error_no: ErrorNo, answer: bytes = b"") -> None:
        super().__init__(text, error_no)
        self.answer = answer


class VectorKeys:
    """The PSKs and TPKs of a setting, as the engine's PskSource and TicketKeys."""

    def __init__(self, ops: KeyOperations, setting: Setting) -> None:
        self._ops = ops
        self._setting = setting

    def find(self, psk_id: bytes | None, claimed: bytes | None, prf: PrfFunc) -> Subscriber:
        """See PskSource."""
        for identity, (psk, known_id) in {**self._setting.psks, **self._setting.asking_kms}.items():
            if known_id == psk_id or (psk_id is None and identity == claimed):
                return Subscriber(identity, 1, self._ops.load(psk, Use.PRF))
        return Subscriber(claimed or b"", _NO_SUBSCRIBER_VERSION, self._ops.load(bytes(32), Use.PRF))

    def current(self, now: float) -> tuple[bytes, Key]:
        """See TicketKeys."""
        psk_id = self._setting.current_epoch
        if psk_id is None or psk_id not in self._setting.epochs:
            raise KmsRefused(
                "config has no current_epoch, so no derived ticket can be made", ErrorNo.UNSPECIFIED
            )
        return psk_id, self._ops.load(self._setting.epochs[psk_id], Use.BRANCH)

    def epoch(self, psk_id: bytes | None) -> Key | None:
        """See TicketKeys."""
        key = self._setting.epochs.get(psk_id or b"")
        return None if key is None else self._ops.load(key, Use.BRANCH)

    def current_base(self, now: float, prf: PrfFunc) -> tuple[bytes, Key]:
        """See TicketKeys. Without `tpk` it is derived from the current epoch, as a KMS of this project does."""
        if self._setting.tpk is not None:
            return self._setting.tpk_id, self._ops.load(self._setting.tpk, Use.PRF)
        psk_id, epoch = self.current(now)
        return psk_id, self._base_of(epoch)

    def base(self, psk_id: bytes | None, prf: PrfFunc) -> Key | None:
        """See TicketKeys."""
        if self._setting.tpk is not None and psk_id == self._setting.tpk_id:
            return self._ops.load(self._setting.tpk, Use.PRF)
        epoch = self.epoch(psk_id)
        return None if epoch is None else self._base_of(epoch)

    def shared_tpk(self, psk_id: bytes | None, prf: PrfFunc) -> SharedTpk | None:
        """See SharedTpks. A vector has one TPK, whoever shares it."""
        return None

    def responder_tpk(self, responder: User, prf: PrfFunc) -> tuple[bytes, Key]:
        """See SharedTpks."""
        return self.current_base(0, prf)

    def forget(self) -> None:
        """See TicketKeys: these keys are never gone."""

    def _base_of(self, epoch: Key) -> Key:
        return self._ops.leaf(epoch, labels.base_ticket_tpk(), _BASE_TPK_LENGTH, Use.PRF)


class RegisteredCertificates:
    """The certificates of a setting, trusted as they are: which one is whose is in the vector (AMBIGUITIES A-16)."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def check(self, signer: Signer, now: float) -> None:
        """See kms.engine.certificates.Certificates."""
        if signer.certificate not in self._setting.certificates.values():
            raise CertificateRefused("the certificate is not in the vector")
        leaf = signer.chain[0]
        if not leaf.not_valid_before_utc <= datetime.fromtimestamp(now, UTC) <= leaf.not_valid_after_utc:
            raise CertificateRefused("the certificate is not valid now")


class VectorKms:
    """One vector's KMS. `sources` is its clock and randomness."""

    def __init__(
        self,
        setting: Setting,
        folder: Path,
        *,
        ops: KeyOperations | None = None,
        groups: Mapping[bytes, frozenset[bytes]] = MappingProxyType({}),
        sources: ScriptedSources | None = None,
        max_lifetime: int = 100 * _YEAR,
    ) -> None:
        """`folder` is for the directory. `groups` adds to the groups of the setting, `max_lifetime` is in seconds."""
        self.sources = sources or ScriptedSources(setting.clock)
        self._setting = setting
        self._ops = ops or SoftwareKeys()
        keys = VectorKeys(self._ops, setting)
        self.directory = Directory(folder / "directory.db")
        for identity in setting.subscribers:
            role = Role.CLIENT if identity in setting.clients else Role.FOCUS
            certificate = setting.certificates.get(identity)
            self.directory.enrol(identity, role, certificate=certificate, tpk_roles=[TpkRole.RESPONDER])
        if setting.kms_r is not None:
            acts_for = tuple(identity.decode() for identity in setting.kms_r.psks)
            self.directory.enrol(setting.kms_r.kms_identity, Role.PEER, acts_for=acts_for)
        for group, members in (*setting.groups.items(), *groups.items()):
            for name in members:
                self.directory.add_member(group, name)
        self._context = Context(
            setting.kms_identity,
            self._ops,
            keys,
            keys,
            self.directory,
            self.sources,
            Limits(max_lifetime),
            CLOCK_SKEW,
            base_mpk_length=setting.mpk_length,
            counter_timestamps=True,
            shared_tpks=keys,
            public_key=self._public_key(),
            peers={
                identity: Peer(identity, {prf: PeerPsk(psk_id, psk) for prf in PrfFunc})
                for identity, (psk, psk_id) in setting.peers.items()
            },
        )
        self._replays = MemoryReplayCache(CLOCK_SKEW)

    def close(self) -> None:
        """Close the directory."""
        self.directory.close()

    def _public_key(self) -> PublicKey | None:
        own = self._setting.kms_identity
        certificate, private_key = self._setting.certificates.get(own), self._setting.private_keys.get(own)
        if certificate is None or private_key is None:
            return None
        trust = RegisteredCertificates(self._setting)
        return PublicKey(trust, certificate, lambda: self._ops.load(private_key, Use.UNWRAP))

    def forward(self, raw: bytes, clock: float) -> bytes:
        """What is asked of the KMS that made the ticket in `raw` before `answer`. Raises KmsRefused."""
        self.sources.clock = clock
        outcome = Engine(self._context).handle(self._request(raw)).outcomes[0]
        kind = outcome.WhichOneof("outcome")
        if kind == "refusal":
            raise _refused(outcome.refusal)
        if kind != "forward":
            raise KmsRefused("the ticket names no other KMS, so it is not forwarded", ErrorNo.INVALID_ID)
        return outcome.forward.mikey_message

    def answer(self, raw: bytes, clock: float, peer_answer: PeerAnswer | None = None) -> bytes:
        """The answer to one message, as its sender gets it. Raises KmsRefused, also for a replay.

        `peer_answer` is what became of its `forward`.
        """
        self.sources.clock = clock
        digest = digest_of(raw)
        try:
            self._replays.reserve(digest)
        except Replayed:
            raise KmsRefused("the message was answered before (replay cache)", ErrorNo.INVALID_TS) from None
        outcome = Engine(self._context).handle(self._request(raw, peer_answer)).outcomes[0]
        kind = outcome.WhichOneof("outcome")
        if kind == "mikey_message":
            self._replays.commit(digest)
            return outcome.mikey_message
        self._replays.release(digest)
        if kind != "refusal":
            raise KmsRefused("the ticket is another KMS's, which was not asked", ErrorNo.INVALID_ID)
        raise _refused(outcome.refusal)

    def _request(self, raw: bytes, peer_answer: PeerAnswer | None = None) -> EngineRequest:
        """A message as the frontend passes it on: by the service of its sender's role, over its own connection."""
        resolve = len(raw) > 1 and raw[1] in RESOLVES
        setting, client = self._setting, False
        with suppress(MikeyError):  # the engine says what is wrong with it
            message = Message.decode(raw)
            client = setting.is_forwarded(message) or setting.sender(message) in setting.clients
        tls_identities = (*setting.subscribers, *setting.asking_kms)
        return EngineRequest(
            called_service=CALLED_SERVICE_CLIENT if client else CALLED_SERVICE_FOCUS,
            operation=OPERATION_RESOLVE_TICKET if resolve else OPERATION_REQUEST_TICKET,
            tls_identities=[i.decode(errors="replace") for i in tls_identities],
            mikey_messages=[raw],
            peer_answer=peer_answer,
        )

    # -- the values of the vector's answer -------------------------------------------------------------------------

    def expect(self, request: Message, response: Message) -> None:
        """Script the random values that the vector's answer was made with. Raises MikeyError if it cannot be opened."""
        self.sources.clear()
        kind = response.hdr.data_type
        if kind == DataType.RESOLVE_RESP and response.rand(RandRole.KMS):
            self.sources.put("RANDRkms", response.rand(RandRole.KMS))
        if kind == DataType.REQUEST_RESP:
            self._expect_ticket(request, response.get(Ticket))
        self.sources.put_timestamp(response.get(T))

    def _expect_ticket(self, request: Message, ticket: Ticket) -> None:
        policy, data = ticket.policy, TicketData.decode(ticket.ticket_data)
        self.sources.put("ticket RAND", data.rand)
        self.sources.put_timestamp(data.t)
        if (policy.ticket_type, policy.subtype, policy.version) == DERIVED_TICKET:
            mpk, *entries = read_key_list(data.thdr_data)
            self.sources.put("MPK SPI", mpk.spi)
        else:
            entries = self._expect_base_keys(ticket, data)
        desired = request.get(Tp).policy
        requested = rules.requested_keys(desired)
        for i, entry in enumerate(entries):
            if requested is None or (i < len(requested) and not requested[i].spi):
                self.sources.put("SPI", entry.spi)
        self._expect_end(desired, policy)

    def _expect_base_keys(self, ticket: Ticket, data: TicketData) -> list[KeyEntry]:
        tpk = VectorKeys(self._ops, self._setting).base(data.psk_id, PrfFunc(ticket.policy.prf))
        if tpk is None:
            raise KmsRefused(
                "the ticket in REQUEST_RESP names a TPK that config does not have", ErrorNo.INVALID_TICKET
            )
        opened = base_ticket.open_ticket(self._ops, tpk, ticket, data)
        self._context = replace(self._context, base_mpk_length=len(opened.mpk.key))
        put_keys(self.sources, opened)
        return [entry_of(key) for key in opened.session_keys]

    def _expect_end(self, desired: TicketPolicy, granted: TicketPolicy) -> None:
        """A KMS that cut the validity has a limit of its own, which this one takes over."""
        end = rules.validity(granted)[1]
        if end is not None and end != rules.validity(desired)[1]:
            self._context = replace(self._context, limits=Limits(int(end) - int(self.sources.clock)))


def put_keys(sources: ScriptedSources, opened: base_ticket.OpenedTicket) -> None:
    """Have the next base ticket encode these keys."""
    sources.put("MPK", opened.mpk.key)
    sources.put("MPK SPI", opened.mpk.spi)
    for key in opened.session_keys:
        sources.put("session key", key.key)
        if key.salt:
            sources.put("session salt", key.salt)


def _refused(refusal: Refusal) -> KmsRefused:
    return KmsRefused(refusal.message, _error_no(refusal.mikey_error_message), refusal.mikey_error_message)


def _error_no(error_message: bytes) -> ErrorNo:
    if not error_message:
        return ErrorNo.UNSPECIFIED
    return ErrorNo(Message.decode(error_message).error_numbers[0])

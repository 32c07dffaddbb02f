"""Playing the KMS of a vector exchange with the real engine: the vector's keys, clock and random values."""

import json
from collections import deque
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from kms.crypto import base_ticket
from kms.crypto.interface import Key, KeyOperations, Use
from kms.crypto.software import SoftwareKeys
from kms.crypto.sources import Sources
from kms.engine.certificates import Signer
from kms.engine.context import Context, PublicKey
from kms.engine.directory import Directory, Role
from kms.engine.engine import Engine
from kms.engine.granting import Limits
from kms.engine.psk import Subscriber
from kms.engine.v1.link_pb2 import (
    CALLED_SERVICE_FOCUS,
    OPERATION_REQUEST_TICKET,
    OPERATION_RESOLVE_TICKET,
    EngineRequest,
    Outcome,
)
from kms.mikey import policy as rules
from kms.mikey.message import Message
from kms.mikey.payloads import T, Ticket
from kms.mikey.registry import DataType, IdRole, PrfFunc, RandRole
from kms.mikey.ticket_data import TicketData

VECTORS = Path(__file__).parent.parent / "vectors"


def load(name: str) -> list[dict[str, Any]]:
    """The entries of one vector file, which holds them under a key of its own name."""
    entries: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())[name]
    return entries


class ScriptedSources(Sources):
    """Gives the random values and timestamps that the vector's KMS used, by purpose; anything else is an error."""

    def __init__(self, clock: float) -> None:
        super().__init__(clock=lambda: clock)
        self.values: dict[str, deque[bytes]] = {}
        self.stamps: deque[T] = deque()

    def put(self, purpose: str, value: bytes) -> None:
        self.values.setdefault(purpose, deque()).append(value)

    def random(self, length: int, purpose: str) -> bytes:
        queue = self.values.get(purpose)
        if not queue:
            return super().random(length, purpose)
        value = queue.popleft()
        assert len(value) == length, f"{purpose}: {length} bytes asked, the vector has {len(value)}"
        return value

    def timestamp(self) -> T:
        return self.stamps.popleft() if self.stamps else super().timestamp()


class VectorKeys:
    """PSKs and the TPK of a vector's config, as the engine's PskSource and TicketKeys."""

    def __init__(self, ops: KeyOperations, config: dict[str, Any]) -> None:
        self._ops = ops
        self._psks = {
            name.encode(): (bytes.fromhex(entry["psk"]), bytes.fromhex(entry["psk_id"]))
            for name, entry in config["psk"].items()
        }
        self._tpk = bytes.fromhex(config["tpk"])
        self._tpk_id = bytes.fromhex(config["tpk_id"])

    def find(self, psk_id: bytes | None, claimed: bytes | None, prf: PrfFunc) -> Subscriber:
        for identity, (psk, known_id) in self._psks.items():
            if known_id == psk_id or (psk_id is None and identity == claimed):
                return Subscriber(identity, 1, self._ops.load(psk, Use.PRF))
        return Subscriber(claimed or b"", 0, self._ops.load(bytes(32), Use.PRF))

    def current(self, now: float) -> tuple[bytes, Key]:
        raise AssertionError("the vectors have no derived tickets")

    def epoch(self, psk_id: bytes | None) -> Key | None:
        return None

    def current_base(self, now: float, prf: PrfFunc) -> tuple[bytes, Key]:
        return self._tpk_id, self._ops.load(self._tpk, Use.PRF)

    def base(self, psk_id: bytes | None, prf: PrfFunc) -> Key | None:
        return self._ops.load(self._tpk, Use.PRF) if psk_id == self._tpk_id else None

    def forget(self) -> None:
        raise AssertionError("software keys are never gone")


class RegisteredCertificates:
    """Trust in what the directory has: the certificates of the vectors are self-signed (AMBIGUITIES A-16)."""

    def check(self, signer: Signer, now: float) -> None:
        """See kms.engine.certificates.Certificates."""


class VectorKms:
    """One vector's KMS: `answer` hands a message to Engine.handle."""

    def __init__(
        self,
        config: dict[str, Any],
        folder: Path,
        *,
        clock: float | None = None,
        skew: float = 600,
        ops: KeyOperations | None = None,
        groups: dict[bytes, tuple[bytes, ...]] | None = None,
    ) -> None:
        self.ops = ops or SoftwareKeys()
        self.sources = ScriptedSources(config.get("clock_unix", 0) if clock is None else clock)
        keys = VectorKeys(self.ops, config)
        self.config = config
        directory = Directory(folder / "directory.db")
        certs = {f"sip:{name}@example.com": bytes.fromhex(c) for name, c in config.get("certs", {}).items()}
        for identity in config["psk"]:
            directory.enrol(identity.encode(), Role.FOCUS, certificate=certs.get(identity))
        for group, members in (groups or {}).items():
            for member in members:
                directory.add_member(group, member)
        context = Context(
            bytes.fromhex(config["kms_id"]),
            self.ops,
            keys,
            keys,
            directory,
            self.sources,
            Limits(7 * 86400),
            skew,
            base_mpk_length=config["suite"]["size"],
            counter_timestamps=True,
            public_key=self._public_key(config) if certs else None,
        )
        self.engine = Engine(context)

    def _public_key(self, config: dict[str, Any]) -> PublicKey:
        key = load_pem_private_key(config["private_keys_pem"]["kms"].encode(), None)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        certificate = bytes.fromhex(config["certs"]["kms"])
        return PublicKey(RegisteredCertificates(), certificate, lambda: self.ops.load(der, Use.UNWRAP))

    def answer(self, raw: bytes) -> Outcome:
        """The outcome of one message, sent by whoever it names over a connection of its own."""
        try:
            operation = (
                OPERATION_RESOLVE_TICKET
                if DataType(raw[1]) in (DataType.RESOLVE_INIT_PSK, DataType.RESOLVE_INIT_PK)
                else OPERATION_REQUEST_TICKET
            )
        except (ValueError, IndexError):
            operation = OPERATION_REQUEST_TICKET
        request = EngineRequest(
            called_service=CALLED_SERVICE_FOCUS,
            operation=operation,
            tls_identities=list(self.config["psk"]),
            mikey_messages=[raw],
        )
        return self.engine.handle(request).outcomes[0]

    def expect(self, response: bytes) -> None:
        """Script the random values that the vector's answer was made with."""
        message = Message.decode(response)
        if message.hdr.data_type == DataType.RESOLVE_RESP:
            if message.rand(RandRole.KMS):
                self.sources.put("RANDRkms", message.rand(RandRole.KMS))
        else:
            self._expect_ticket(message.get(Ticket))
        self.sources.stamps.append(message.get(T))

    def _expect_ticket(self, ticket: Ticket) -> None:
        data = TicketData.decode(ticket.ticket_data)
        tpk = self.ops.load(bytes.fromhex(self.config["tpk"]), Use.PRF)
        opened = base_ticket.open_ticket(self.ops, tpk, ticket, data)
        self.sources.put("ticket RAND", data.rand)
        self.sources.put("MPK", opened.mpk.key)
        self.sources.put("MPK SPI", opened.mpk.spi)
        for key in opened.session_keys:
            self.sources.put("session key", key.key)
            if key.salt:
                self.sources.put("session salt", key.salt)
        self.sources.stamps.append(data.t)


def groups_of(request: bytes, resolver: bytes) -> dict[bytes, tuple[bytes, ...]]:
    """The group membership that lets `resolver` open the ticket asked for by `request`: local to a KMS (A-34)."""
    ticket = Message.decode(request).get(Ticket)
    named = rules.responders(ticket.policy)
    return {} if resolver in named else {named[0]: (resolver,)}


def sender(raw: bytes) -> bytes | None:
    """IDRr or IDRi of a message to the KMS."""
    message = Message.decode(raw)
    return message.idr(IdRole.RESPONDER) or message.idr(IdRole.INITIATOR)

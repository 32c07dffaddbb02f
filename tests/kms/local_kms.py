"""A KMS in this process: the real engine over software keys, with enrolment, and an Endpoint for the SDKs."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from hsm import KeyNotFound
from kms.crypto.interface import Key, KeyOperations, Use
from kms.crypto.software import SoftwareKeys
from kms.crypto.sources import Sources
from kms.crypto.suite import suite_of
from kms.engine.context import Context, PublicKey
from kms.engine.directory import Directory, Role, TpkRole
from kms.engine.engine import Engine
from kms.engine.peers import Peer
from kms.engine.psk import Subscriber
from kms.engine.shared_tpks import CURRENT_MASTER, DiversifiedTpks, release_tpks
from kms.engine.v1.link_pb2 import (
    CALLED_SERVICE_CLIENT,
    CALLED_SERVICE_FOCUS,
    OPERATION_REQUEST_TICKET,
    OPERATION_RESOLVE_TICKET,
    CalledService,
    EngineRequest,
    Operation,
)
from kms.frontend.errors import status_of
from kms.mikey import labels
from kms.mikey.registry import PrfFunc
from kms.party.credential import Credential, PreSharedKey, SharedTpk
from kms.sdk.errors import KmsError, of_status

KMS_IDENTITY = "sip:kms@example.com"


class Clock:
    """A clock that tests move."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class LocalKms:
    """Enrols subscribers and answers their messages. Also the engine's PskSource and TicketKeys."""

    def __init__(
        self,
        folder: Path,
        clock: Clock | None = None,
        *,
        ops: KeyOperations | None = None,
        public_key: PublicKey | None = None,
        identity: str = KMS_IDENTITY,
        peers: Mapping[bytes, Peer] | None = None,
        tpks: DiversifiedTpks | None = None,
    ) -> None:
        self.identity = identity
        self.clock = clock or Clock()
        self._ops = ops or SoftwareKeys()
        self._psks: dict[bytes, tuple[bytes, int, dict[PrfFunc, bytes]]] = {}
        self._epoch = self._ops.load(os.urandom(32), Use.BRANCH)
        master = self._ops.load(os.urandom(32), Use.BRANCH)
        self.tpks = tpks or DiversifiedTpks(self._ops, lambda version: _master(version, master))
        self.directory = Directory(folder / "directory.db")
        self.engine = Engine(
            Context(
                identity.encode(),
                self._ops,
                self,
                self,
                self.directory,
                Sources(clock=self.clock),
                base_mpk_length=32,
                public_key=public_key,
                shared_tpks=self.tpks,
                peers=peers or {},
            )
        )

    def enrol(
        self,
        identity: str,
        role: Role = Role.CLIENT,
        aliases: Sequence[str] = (),
        tpk_roles: Sequence[TpkRole] = (),
        tpk_peers: Sequence[str] = (),
    ) -> Credential:
        """A new subscriber, in both suites, with the TPKs to share."""
        names = tuple(a.encode() for a in aliases)
        user = self.directory.enrol(identity.encode(), role, aliases=names, tpk_roles=tpk_roles)
        psk_id, psks = b"psk of " + identity.encode(), {prf: os.urandom(32) for prf in PrfFunc}
        self._psks[psk_id] = identity.encode(), user.version, psks
        keys = (PreSharedKey(256, psk_id, psks[PrfFunc(1)]), PreSharedKey(128, psk_id, psks[PrfFunc(0)]))
        tpks = tuple(
            SharedTpk(suite_of(prf).bits, role.value, tpk_id, tpk, peer)
            for prf in PrfFunc
            for role, peer, tpk_id, tpk in release_tpks(self.tpks, self.directory, user, tpk_peers, prf)
        )
        end = "localhost:0", role.value, keys, "-", "-", "-"
        return Credential(identity, self.identity, *end, tpks=tpks)

    def answer(
        self,
        identity: str,
        service: CalledService.ValueType,
        operation: Operation.ValueType,
        messages: Sequence[bytes],
    ) -> list[bytes | KmsError]:
        """What the frontend would return for the messages of one gRPC call by `identity`."""
        request = EngineRequest(
            called_service=service, operation=operation, tls_identities=[identity], mikey_messages=messages
        )
        return [
            outcome.mikey_message
            if outcome.WhichOneof("outcome") == "mikey_message"
            else of_status(status_of(outcome.refusal, service))
            for outcome in self.engine.handle(request).outcomes
        ]

    # -- PskSource -----------------------------------------------------------------------------------------------------

    def find(self, psk_id: bytes | None, claimed: bytes | None, prf: PrfFunc) -> Subscriber:
        """See PskSource."""
        identity, version, psks = self._psks.get(psk_id or b"", (claimed or b"", 0, {prf: bytes(32)}))
        return Subscriber(identity, version, self._ops.load(psks[prf], Use.PRF))

    # -- TicketKeys ----------------------------------------------------------------------------------------------------

    def current(self, now: float) -> tuple[bytes, Key]:
        """See TicketKeys."""
        return b"epoch", self._epoch

    def epoch(self, psk_id: bytes | None) -> Key | None:
        """See TicketKeys."""
        return self._epoch if psk_id == b"epoch" else None

    def current_base(self, now: float, prf: PrfFunc) -> tuple[bytes, Key]:
        """See TicketKeys."""
        return b"epoch", self._ops.leaf(self._epoch, labels.base_ticket_tpk(), 32, Use.PRF)

    def base(self, psk_id: bytes | None, prf: PrfFunc) -> Key | None:
        """See TicketKeys."""
        return self.current_base(0, prf)[1] if psk_id == b"epoch" else None

    def forget(self) -> None:
        """See TicketKeys."""


def _master(version: int, master: Key) -> Key:
    if version != CURRENT_MASTER:
        raise KeyNotFound(f"no master {version}")
    return master


class LocalEndpoint:
    """A BatchEndpoint of one subscriber. `sent` are the messages it carried; `asked` counts the calls."""

    def __init__(self, kms: LocalKms, credential: Credential) -> None:
        self._kms = kms
        self._identity = credential.identity
        self._service = CALLED_SERVICE_FOCUS if credential.role == "focus" else CALLED_SERVICE_CLIENT
        self.sent: list[bytes] = []
        self.asked = 0

    def request_ticket(self, message: bytes) -> bytes:
        """See Endpoint."""
        return _one(self._call(OPERATION_REQUEST_TICKET, [message]))

    def resolve_ticket(self, message: bytes) -> bytes:
        """See Endpoint."""
        return _one(self._call(OPERATION_RESOLVE_TICKET, [message]))

    def resolve_tickets(self, messages: Sequence[bytes]) -> list[bytes | KmsError]:
        """See BatchEndpoint."""
        return self._call(OPERATION_RESOLVE_TICKET, messages)

    def _call(self, operation: Operation.ValueType, messages: Sequence[bytes]) -> list[bytes | KmsError]:
        self.asked += 1
        self.sent += messages
        return self._kms.answer(self._identity, self._service, operation, messages)


def _one(results: list[bytes | KmsError]) -> bytes:
    if isinstance(results[0], KmsError):
        raise results[0]
    return results[0]

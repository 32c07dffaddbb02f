"""Who sent a message: authentication by its MAC, then the directory, then the TLS peer (RFC 6043 4.2.1.2, 4.2.3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass

from kms.crypto.interface import KeyOperations
from kms.crypto.protection import MessageProtection
from kms.crypto.suite import Suite, suite_of
from kms.engine.directory import Directory, Role, User
from kms.engine.psk import PskSource, Subscriber
from kms.engine.refusals import Reason, Refused
from kms.engine.v1.link_pb2 import CALLED_SERVICE_FOCUS
from kms.mikey import labels
from kms.mikey.errors import AuthenticationError
from kms.mikey.message import Message
from kms.mikey.registry import IdRole, RandRole


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A message whose MAC verified: with whose PSK, and the protection of the answer to it."""

    message: Message
    suite: Suite
    subscriber: Subscriber
    claimed: bytes
    ops: KeyOperations

    def protection(self, direction: int) -> MessageProtection:
        """Protection of this exchange in a direction, from the subscriber's PSK (5.1.2)."""
        return _protection(self.ops, self.message, self.subscriber, direction)


def authenticate(
    message: Message, role: IdRole, *, ops: KeyOperations, psks: PskSource, kms_identity: bytes
) -> Authenticated:
    """Verify the MAC of an initial message with the PSK of its sender. `role` is that of the sender's IDR.

    The directory is not asked before the MAC verified: an unknown sender takes the same path and the same time as a
    known one. Raises AuthenticationError, or Refused for a message to another KMS.
    """
    addressed = message.idr(IdRole.KMS)
    if addressed is not None and addressed != kms_identity:
        raise Refused(Reason.WRONG_KMS, "IDRkms names another KMS")
    claimed = message.idr(role)
    suite = suite_of(message.hdr.prf)
    subscriber = psks.find(message.idr(IdRole.PSK), claimed, suite.prf)
    sender = subscriber.identity if claimed is None else claimed
    _protection(ops, message, subscriber, labels.INITIAL).verify(message, sender, kms_identity)
    return Authenticated(message, suite, subscriber, sender, ops)


def _protection(
    ops: KeyOperations, message: Message, subscriber: Subscriber, direction: int
) -> MessageProtection:
    """RANDRi enters the keys of Ticket Request, RANDRr those of Ticket Resolve; the other is omitted (A-37)."""
    return MessageProtection(
        ops,
        subscriber.psk,
        suite_of(message.hdr.prf).prf,
        message.hdr.csb_id,
        direction,
        randr_i=message.rand(RandRole.INITIATOR),
        randr_r=message.rand(RandRole.RESPONDER),
    )


def authorise(
    authenticated: Authenticated, directory: Directory, tls_identities: Sequence[str], called_service: int
) -> User:
    """The user behind an authenticated message, entitled to use this connection and this service.

    Raises AuthenticationError for one who is revoked or was enrolled anew since, exactly as for a wrong MAC.
    """
    subscriber = authenticated.subscriber
    user = directory.find(subscriber.identity)
    if user is None or user.revoked or user.version != subscriber.version:
        raise AuthenticationError(f"the MAC in V of {authenticated.message.name} does not verify")
    if not user.may_speak_as(authenticated.claimed):
        raise Refused(Reason.NOT_AUTHORIZED, "the sender's identity is neither its own nor an alias of it")
    peers = [name.encode() for name in tls_identities]
    if not any(user.may_speak_as(peer) for peer in peers) and not _carried(user, directory, peers):
        raise Refused(
            Reason.TLS_IDENTITY_MISMATCH,
            "the TLS client certificate belongs neither to the sender nor to a gateway that may act for it",
        )
    if called_service == CALLED_SERVICE_FOCUS and user.role is not Role.FOCUS:
        raise Refused(
            Reason.NOT_AUTHORIZED, "FocusService is for identities with the focus role: use ClientService"
        )
    return user


def _carried(user: User, directory: Directory, peers: Sequence[bytes]) -> bool:
    gateways = (directory.find(peer) for peer in peers)
    return any(g is not None and not g.revoked and g.may_carry(user.identity) for g in gateways)

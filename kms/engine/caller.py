"""Who sent a message: authentication by MAC or signature, then the directory, then the TLS peer (4.2.1, 4.2.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

from kms.crypto.interface import Key, VerificationError
from kms.crypto.protection import MessageProtection
from kms.crypto.suite import Suite, suite_of
from kms.engine.certificates import CertificateRefused, Signer, check_chash, check_sign_type, untrusted
from kms.engine.context import Context, PublicKey
from kms.engine.directory import Directory, Role, User
from kms.engine.refusals import Reason, Refused
from kms.engine.v1.link_pb2 import CALLED_SERVICE_FOCUS
from kms.mikey import labels
from kms.mikey.errors import AuthenticationError
from kms.mikey.message import Message
from kms.mikey.payloads import Cert, Chash, Pke, Sign
from kms.mikey.registry import CertType, DataType, IdRole, RandRole

_SENDERS = {
    DataType.REQUEST_INIT_PSK: IdRole.INITIATOR,
    DataType.REQUEST_INIT_PK: IdRole.INITIATOR,
    DataType.RESOLVE_INIT_PSK: IdRole.RESPONDER,
    DataType.RESOLVE_INIT_PK: IdRole.RESPONDER,
}


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A message whose MAC or signature verified.

    `identity` is the sender's, `claimed` the one it used (IDRi or IDRr): the same, or an alias. `key` is the PSK or
    envelope key that protects the answer. A PSK has the `version` of its enrolment, a signature the `certificate`
    (DER) that verified it.
    """

    message: Message
    suite: Suite
    identity: bytes
    claimed: bytes
    key: Key
    context: Context
    version: int | None = None
    certificate: bytes | None = None

    @property
    def by_psk(self) -> bool:
        """Whether the sender has a PSK, whose auth_key can sign an Error message."""
        return self.version is not None

    def protection(self, direction: int) -> MessageProtection:
        """Protection of this exchange in a direction, from the PSK or envelope key (5.1.2)."""
        return _protection(self.context, self.message, self.key, direction)


def authenticate(message: Message, context: Context) -> Authenticated:
    """Verify the MAC or signature of an initial message.

    The directory is not asked before that, so that an unknown sender takes the same path and the same time as a known
    one. Raises AuthenticationError, or Refused for a message to another KMS.
    """
    addressed = message.idr(IdRole.KMS)
    if addressed is not None and addressed != context.kms_identity:
        raise Refused(Reason.WRONG_KMS, "IDRkms names another KMS")
    if message.hdr.data_type in (DataType.REQUEST_INIT_PK, DataType.RESOLVE_INIT_PK):
        return _authenticate_pk(message, context)
    return _authenticate_psk(message, context)


def _authenticate_psk(message: Message, context: Context) -> Authenticated:
    claimed = message.idr(_SENDERS[message.hdr.data_type])
    suite = suite_of(message.hdr.prf)
    subscriber = context.psks.find(message.idr(IdRole.PSK), claimed, suite.prf)
    sender = subscriber.identity if claimed is None else claimed
    protection = _protection(context, message, subscriber.psk, labels.INITIAL)
    protection.verify(message, sender, context.kms_identity)
    return Authenticated(
        message, suite, subscriber.identity, sender, subscriber.psk, context, version=subscriber.version
    )


def _authenticate_pk(message: Message, context: Context) -> Authenticated:
    """The signature, then the certificate, then its enrolment: the RSA key is used for subscribers' PKE only.

    Whatever fails of these has one answer.
    """
    public_key = context.public_key
    if public_key is None:
        raise Refused(Reason.UNEXPECTED_MESSAGE, "this KMS has no RSA key: use the PSK messages")
    check_chash(message.find(Chash), public_key.certificate)
    check_sign_type(message.get(Sign))
    claimed = message.idr(_SENDERS[message.hdr.data_type])
    try:
        signer = Signer.of(message.find_all(Cert) or _enrolled_certificate(context, claimed))
        if claimed is None:
            (claimed, *_) = signer.names or (b"",)
        signer.verify(message.get(Sign), message.coverage(claimed, context.kms_identity))
        public_key.certificates.check(signer, context.sources.now())
        identity = _subscriber(context.directory, signer, claimed)
    except CertificateRefused:
        raise untrusted() from None
    key = _envelope_key(context, public_key, signer, message.get(Pke).data)
    suite = suite_of(message.hdr.prf)
    return Authenticated(message, suite, identity, claimed, key, context, certificate=signer.certificate)


def _envelope_key(context: Context, public_key: PublicKey, signer: Signer, wrapped: bytes) -> Key:
    """The envelope key in PKE. One that does not open is refused like a bad signature, and only so many times."""
    budget, sender, now = public_key.budget, signer.certificate, context.sources.now()
    if budget.exhausted(sender, now):
        raise untrusted()
    try:
        return context.ops.unwrap(public_key.private_key(), wrapped)
    except VerificationError:
        budget.spend(sender, now)
        raise untrusted() from None


def _enrolled_certificate(context: Context, claimed: bytes | None) -> tuple[Cert, ...]:
    """CERT may be left out when the KMS has the certificate (4.2.1.3): from enrolment.

    For somebody unknown the KMS's own certificate stands in, whose key made no signature: so it takes the same time.
    """
    known = None if claimed is None else context.directory.certificate_of(claimed)
    assert context.public_key is not None
    return (Cert(CertType.X509V3, known or context.public_key.certificate),)


def _subscriber(directory: Directory, signer: Signer, claimed: bytes) -> bytes:
    """The identity that is enrolled with the signer's certificate and named in it. Raises CertificateRefused."""
    for name in sorted(signer.names, key=claimed.__ne__):
        user = directory.find(name)
        if user is not None and not user.revoked and user.certificate == signer.certificate:
            return name
    raise CertificateRefused("nobody is enrolled with this certificate")


def _protection(context: Context, message: Message, key: Key, direction: int) -> MessageProtection:
    """RANDRi enters the keys of Ticket Request, RANDRr those of Ticket Resolve; the other is omitted (A-37)."""
    return MessageProtection(
        context.ops,
        key,
        suite_of(message.hdr.prf).prf,
        message.hdr.csb_id,
        direction,
        randr_i=message.rand(RandRole.INITIATOR),
        randr_r=message.rand(RandRole.RESPONDER),
    )


def authorise(authenticated: Authenticated, tls_identities: Sequence[str], called_service: int) -> User:
    """The user behind an authenticated message, entitled to use this connection and this service.

    Raises AuthenticationError for one who is revoked or was enrolled anew since, exactly as for a wrong MAC.
    """
    directory = authenticated.context.directory
    user = directory.find(authenticated.identity)
    if user is None or user.revoked or not _enrolled_with(user, authenticated):
        raise _unauthenticated(authenticated)
    if user.role is Role.PEER:
        _check_peer(user, authenticated, directory)
    elif not user.may_speak_as(authenticated.claimed):
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


def _check_peer(user: User, authenticated: Authenticated, directory: Directory) -> None:
    """Another KMS may have tickets resolved, for responders of the domains that it was enrolled for (section 10).

    Whoever is enrolled here is never its subscriber, whatever pattern the operator gave it. Nor is a group of ours: its
    members have names of their own.
    """
    if authenticated.message.hdr.data_type != DataType.RESOLVE_INIT_PSK:
        raise Refused(Reason.NOT_AUTHORIZED, "a peer KMS may have tickets resolved, nothing else")
    claimed = authenticated.claimed
    if not user.may_resolve_for(claimed) or directory.is_ours(claimed) or directory.members(claimed):
        raise Refused(
            Reason.NOT_AUTHORIZED, "IDRr is not in the domains for which this peer KMS was enrolled"
        )


def _enrolled_with(user: User, authenticated: Authenticated) -> bool:
    if authenticated.by_psk:
        return user.version == authenticated.version
    return user.certificate is not None and user.certificate == authenticated.certificate


def _unauthenticated(authenticated: Authenticated) -> AuthenticationError:
    if authenticated.by_psk:
        return AuthenticationError(f"the MAC in V of {authenticated.message.name} does not verify")
    return untrusted()


def _carried(user: User, directory: Directory, peers: Sequence[bytes]) -> bool:
    gateways = (directory.find(peer) for peer in peers)
    return any(g is not None and not g.revoked and g.may_carry(user.identity) for g in gateways)

"""Tickets of other KMSs (RFC 6043 10): the Ticket Resolve exchange between this KMS and the one that made the ticket.

The responder R sends its RESOLVE_INIT to its own KMS, this one. The engine authenticates R as always and builds a
RESOLVE_INIT_PSK of its own for the ticket's KMS, `ask`; the frontend carries it there; an engine that gets R's message
once more, with the peer's answer, opens that answer for R, `open_answer`. Nothing is kept in between.

The peer authenticates this KMS, not R: it believes us who R is, for the domains that its operator entrusted to us.
"""

from dataclasses import dataclass

from kms.crypto.interface import KeyOperationError, Use
from kms.crypto.protection import MessageProtection
from kms.engine.caller import Authenticated
from kms.engine.directory import Role, User
from kms.engine.peers import Peer, PeerPsk
from kms.engine.refusals import Reason, Refused
from kms.engine.tickets import Modifier
from kms.engine.v1.link_pb2 import PeerAnswer
from kms.engine.v1.link_pb2 import Refusal as PeerRefusal
from kms.mikey import labels, timestamps
from kms.mikey.errors import AuthenticationError, MikeyError, ProtocolError
from kms.mikey.exchange import check_message, check_response
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import Flags, Hdr, Idr, Kemac, KeyData, Payload, Randr, T, Ticket, V
from kms.mikey.registry import DataType, ErrorNo, IdRole, IdType, RandRole

_RAND_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Forward:
    """What a peer is to be asked. `peer` is its identity."""

    peer: bytes
    message: Message


def peer_of(request: Authenticated, user: User, issuer: bytes) -> Peer:
    """The peer that made the ticket, if this message may be forwarded to it. Raises Refused.

    What a peer sent is never forwarded: a message takes one step between KMSs, so it cannot go round in a loop.
    """
    peer = request.context.peers.get(issuer)
    if peer is None or user.role is Role.PEER:
        raise Refused(Reason.WRONG_KMS, "the ticket's IDRkms names another KMS")
    if request.suite.prf not in peer.psks:
        raise Refused(
            Reason.UNSUPPORTED_ALGORITHM, "no PSK of the ticket's suite is shared with the KMS that made it"
        )
    return peer


def ask(request: Authenticated, peer: Peer) -> Forward:
    """A RESOLVE_INIT_PSK for the peer, with IDRr and TICKET of the responder's (section 10)."""
    sources, suite, psk = request.context.sources, request.suite, peer.psks[request.suite.prf]
    payloads: list[Payload] = [
        sources.timestamp(),
        Randr(RandRole.RESPONDER, sources.random(_RAND_LENGTH, "RANDRr")),
        Idr(IdRole.RESPONDER, IdType.URI, request.claimed),
        Idr(IdRole.KMS, IdType.URI, peer.identity),
        request.message.get(Ticket),
        Idr(IdRole.PSK, IdType.BYTE_STRING, psk.psk_id),
        unsigned_v(suite.mac_alg),
    ]
    csb_id = int.from_bytes(sources.random(4, "CSB ID"), "big")
    draft = Message.build(Hdr(DataType.RESOLVE_INIT_PSK, csb_id, suite.prf, v=True), payloads)
    protection = _protection(request, psk, draft, labels.INITIAL)
    return Forward(peer.identity, protection.sign(draft, request.claimed, peer.identity))


def open_answer(
    request: Authenticated, peer: Peer, answer: PeerAnswer
) -> tuple[tuple[KeyData, ...], Modifier | None]:
    """The keys in the peer's answer and, with key forking, the modifier of them.

    Raises Refused: PEER_REFUSED with what the peer said, PEER_UNAVAILABLE for an answer that is not to be trusted.
    """
    try:
        asked = _asked(request, peer, answer.asked)
        if answer.WhichOneof("answer") == "refusal":
            raise _refused(request, peer, asked, answer.refusal)
        return _open(request, peer, asked, answer.mikey_message)
    except (MikeyError, KeyOperationError) as error:
        raise Refused(
            Reason.PEER_UNAVAILABLE,
            f"the KMS that made the ticket did not answer as it must ({type(error).__name__}): "
            "the operators of both KMSs should look at their logs",
        ) from None


def _asked(request: Authenticated, peer: Peer, raw: bytes) -> Message:
    """Our own RESOLVE_INIT, which came back through the frontend: for this responder, this ticket, and of now.

    Only an engine has the PSK. The MAC covers IDRr: a message made for another responder does not verify.
    """
    asked = Message.decode(raw)
    check_message(asked, DataType.RESOLVE_INIT_PSK)
    psk = peer.psks[request.suite.prf]
    _protection(request, psk, asked, labels.INITIAL).verify(asked, request.claimed, peer.identity)
    timestamps.check_fresh(asked.get(T), request.context.sources.now(), request.context.clock_skew)
    if asked.get(Ticket) != request.message.get(Ticket):
        raise AuthenticationError("the peer was asked about another ticket")
    return asked


def _open(
    request: Authenticated, peer: Peer, asked: Message, raw: bytes
) -> tuple[tuple[KeyData, ...], Modifier | None]:
    message = Message.decode(raw)
    check_message(message, DataType.RESOLVE_RESP)
    check_response(asked, message)
    protection = _protection(request, peer.psks[request.suite.prf], asked, labels.RESPONSE)
    protection.verify(message, asked.raw)
    keys = protection.open(message.get(Kemac), message.get(T))
    if not request.message.get(Ticket).policy.flags & Flags.I:
        return keys, None
    identity_r, randr_kms = message.idr(IdRole.RESPONDER), message.rand(RandRole.KMS)
    if identity_r != request.claimed or not randr_kms:
        raise ProtocolError("RESOLVE_RESP: keys are not forked for the responder that was asked for")
    return keys, Modifier(identity_r, randr_kms)


def _refused(request: Authenticated, peer: Peer, asked: Message, refusal: PeerRefusal) -> Refused:
    error_no = None
    if refusal.mikey_error_message:
        error_no = _error_no(request, peer, asked, Message.decode(refusal.mikey_error_message))
    text = f"the KMS that made the ticket refuses it: {refusal.reason}"
    return Refused(Reason.PEER_REFUSED, text, error_no, peer_reason=refusal.reason)


def _error_no(request: Authenticated, peer: Peer, asked: Message, message: Message) -> ErrorNo | None:
    """Error no of the peer's Error message. Only an authenticated one is passed on."""
    check_message(message, DataType.ERROR)
    check_response(asked, message)
    if message.find(V) is None:
        return None
    _protection(request, peer.psks[request.suite.prf], asked, labels.INITIAL).verify(message)
    try:
        return ErrorNo(message.error_numbers[0])
    except ValueError:
        return None


def _protection(request: Authenticated, psk: PeerPsk, asked: Message, direction: int) -> MessageProtection:
    """Protection of the exchange with the peer: as for any responder, from the PSK and RANDRr."""
    ops, hdr = request.context.ops, asked.hdr
    return MessageProtection(
        ops,
        ops.load(psk.psk, Use.PRF),
        request.suite.prf,
        hdr.csb_id,
        direction,
        randr_r=asked.rand(RandRole.RESPONDER),
    )

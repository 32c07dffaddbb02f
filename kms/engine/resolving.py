"""Ticket Resolve, the KMS's side (RFC 6043 4.2.3): from an authenticated RESOLVE_INIT to RESOLVE_RESP."""

from kms.crypto.interface import Use, VerificationError
from kms.engine import forwarding, modes, tickets
from kms.engine.caller import Authenticated
from kms.engine.directory import Role, User
from kms.engine.refusals import Reason, Refused
from kms.engine.tickets import Modifier, TicketSecrets
from kms.engine.v1.link_pb2 import PeerAnswer
from kms.mikey import labels
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError, ProtocolError
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import Flags, Hdr, Idr, InitiatorData, KeyData, Payload, Randr, Ticket
from kms.mikey.registry import DataType, IdRole, IdType, RandRole


def answer(
    request: Authenticated, user: User, peer_answer: PeerAnswer | None = None
) -> Message | forwarding.Forward:
    """Open a ticket for an authorised responder, or forward it to the KMS that made it. Raises Refused or MikeyError.

    Order: is the ticket ours and untouched, is it valid now, may this responder have its keys, did its requester send
    it (Vr). Only then are keys derived and forked. `peer_answer` is what became of an earlier Forward.
    """
    context = request.context
    ticket = request.message.get(Ticket)
    policy = ticket.policy
    rules.check_granted(policy)
    rules.check_initiator_data(policy, ticket.initiator_data)
    if policy.prf != request.suite.prf:
        raise Refused(
            Reason.INVALID_TICKET, "the ticket's PRF Func is not HDR's: resolve it in the ticket's suite"
        )
    issuer = rules.identity(policy, IdRole.KMS)
    if issuer is None or issuer == context.kms_identity:
        keys, modifier = _open(request, user, ticket)
        return _respond(request, keys, modifier)
    peer = forwarding.peer_of(request, user, issuer)
    if peer_answer is None:
        return forwarding.ask(request, peer)
    keys, modifier = forwarding.open_answer(request, peer, peer_answer)
    return _respond(request, keys, modifier)


def _open(request: Authenticated, user: User, ticket: Ticket) -> tuple[tuple[KeyData, ...], Modifier | None]:
    """The keys of a ticket of this KMS for the responder, and what they are forked by."""
    context = request.context
    shared = modes.shared_tpk(ticket, context)
    secrets = tickets.open_ticket(context.ops, context.keys, ticket, shared.key if shared else None)
    if shared is not None:
        modes.check(shared, ticket, secrets, user, context)
    _check_valid(ticket, context.sources.now())
    _check_responder(ticket, _names(request, user))
    modifier = None
    if ticket.policy.flags & Flags.I:
        _verify_initiator_data(ticket, secrets, request)
        randr_kms = context.sources.random(secrets.longest_forked(), "RANDRkms")
        modifier = Modifier(request.claimed, randr_kms)
    return secrets.for_responder(modifier), modifier


def _respond(request: Authenticated, keys: tuple[KeyData, ...], modifier: Modifier | None) -> Message:
    """RESOLVE_RESP (4.2.3.5)."""
    context = request.context
    t = context.sources.timestamp()
    protection = request.protection(labels.RESPONSE)
    payloads: list[Payload] = [
        t,
        Idr(IdRole.KMS, IdType.URI, context.kms_identity),
        protection.seal(keys, request.suite.encr_alg, t),
    ]
    if modifier is not None:
        payloads += (
            Idr(IdRole.RESPONDER, IdType.URI, modifier.id_data),
            Randr(RandRole.KMS, modifier.randr_kms),
        )
    payloads.append(unsigned_v(request.suite.mac_alg))
    sent = request.message.hdr
    hdr = Hdr(DataType.RESOLVE_RESP, sent.csb_id, sent.prf)
    return protection.sign(Message.build(hdr, payloads), request.message.raw)


def _check_valid(ticket: Ticket, now: float) -> None:
    try:
        rules.check_valid_at(ticket.policy, now)
    except ProtocolError as error:
        raise Refused(Reason.TICKET_NOT_VALID_NOW, str(error), error.error_no) from None


def _names(request: Authenticated, user: User) -> set[bytes]:
    """The responder, its aliases and its groups. A peer's responder has the name that the peer gave it."""
    if user.role is Role.PEER:
        return {request.claimed, *request.context.directory.groups_of(request.claimed)}
    return {user.identity, *user.aliases, *user.groups}


def _check_responder(ticket: Ticket, names: set[bytes]) -> None:
    """The ticket must name the responder, an alias of it, or a group that it is in (4.2.3.4, 12.5, A-34)."""
    if names.isdisjoint(rules.responders(ticket.policy)):
        raise Refused(Reason.NOT_AUTHORIZED, "the ticket does not name this responder")


def _verify_initiator_data(ticket: Ticket, secrets: TicketSecrets, request: Authenticated) -> None:
    """Vr shows that the requester of the ticket sent this TRANSFER_INIT: only it and the KMS have MPKr (6.10)."""
    try:
        data = InitiatorData.decode(ticket.initiator_data)
        if data.vr.auth_alg != request.suite.mac_alg:
            raise Refused(
                Reason.INITIATOR_NOT_AUTHENTIC, "Vr does not use the algorithm of the ticket's suite"
            )
        ops = request.context.ops
        key = ops.prf_key(
            secrets.mpkr_key(), request.suite.prf, labels.vr_key(), request.suite.auth_key_length, Use.VERIFY
        )
        ops.verify(key, data.vr.auth_alg, data.vr_coverage(), data.vr.mac)
    except VerificationError:
        raise Refused(
            Reason.INITIATOR_NOT_AUTHENTIC,
            "Vr does not verify: whoever sent this ticket is not the one who requested it",
        ) from None
    except MikeyError as error:
        raise Refused(Reason.INITIATOR_NOT_AUTHENTIC, str(error), error.error_no) from None

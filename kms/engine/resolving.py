"""Ticket Resolve, the KMS's side (RFC 6043 4.2.3): from an authenticated RESOLVE_INIT to RESOLVE_RESP."""

from kms.crypto.interface import Use, VerificationError
from kms.engine import tickets
from kms.engine.caller import Authenticated
from kms.engine.directory import User
from kms.engine.refusals import Reason, Refused
from kms.engine.tickets import Modifier, TicketSecrets
from kms.mikey import labels
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError, ProtocolError
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import Flags, Hdr, Idr, InitiatorData, Payload, Randr, Ticket
from kms.mikey.registry import DataType, IdRole, IdType, RandRole


def answer(request: Authenticated, user: User) -> Message:
    """Open a ticket for an authorised responder. Raises Refused or MikeyError.

    Order: is the ticket ours and untouched, is it valid now, may this responder have its keys, did its requester send
    it (Vr). Only then are keys derived and forked.
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
    addressed = rules.identity(policy, IdRole.KMS)
    if addressed is not None and addressed != context.kms_identity:
        raise Refused(Reason.WRONG_KMS, "the ticket's IDRkms names another KMS")

    secrets = tickets.open_ticket(context.ops, context.keys, ticket)
    _check_valid(ticket, context.sources.now())
    _check_responder(ticket, user)
    modifier = None
    if policy.flags & Flags.I:
        _verify_initiator_data(ticket, secrets, request)
        randr_kms = context.sources.random(secrets.longest_forked(), "RANDRkms")
        modifier = Modifier(request.claimed, randr_kms)
    keys = secrets.for_responder(modifier)

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


def _check_responder(ticket: Ticket, user: User) -> None:
    """The ticket must name the responder, an alias of it, or a group that it is in (4.2.3.4, 12.5, A-34)."""
    names = {user.identity, *user.aliases, *user.groups}
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

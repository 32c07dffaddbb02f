"""Ticket Request, the KMS's side (RFC 6043 4.2.1): from an authenticated REQUEST_INIT to REQUEST_RESP."""

from kms.engine import granting, modes, tickets
from kms.engine.caller import Authenticated
from kms.engine.directory import User
from kms.engine.refusals import Reason, Refused
from kms.mikey import labels
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import Flags, Hdr, Idr, Payload, Tp
from kms.mikey.registry import DataType, IdRole, IdType
from kms.mikey.ticket_data import DERIVED_TICKET


def answer(request: Authenticated, user: User, *, group_keys_allowed: bool) -> Message:
    """Grant a ticket with its keys to an authorised user. Raises Refused or MikeyError."""
    context = request.context
    desired = request.message.get(Tp).policy
    if desired.prf != request.suite.prf:
        raise Refused(
            Reason.INVALID_TICKET_POLICY, "PRF Func of the Ticket Policy must be HDR's: suites are not mixed"
        )
    local = None if desired.flags & Flags.E else modes.local_responder(desired, context)
    grant = granting.decide(
        desired,
        user,
        group_keys_allowed=group_keys_allowed,
        kms_identity=context.kms_identity,
        limits=context.limits,
        sources=context.sources,
        local_responder=local,
    )
    ops, sources = context.ops, context.sources
    if grant.policy.ticket_type == DERIVED_TICKET[0]:
        ticket, secrets = tickets.grant_derived(ops, context.keys, sources, grant.policy, grant.entries)
    else:
        shared = modes.responder_tpk(local, request.suite.prf, context) if local else None
        ticket, secrets = tickets.grant_base(
            ops, context.keys, sources, grant.policy, grant.entries, context.base_mpk_length, shared
        )
    keys = secrets.for_initiator(forking=bool(grant.policy.flags & Flags.I))

    t = sources.timestamp()
    protection = request.protection(labels.RESPONSE)
    payloads: list[Payload] = [
        t,
        Idr(IdRole.KMS, IdType.URI, context.kms_identity),
        ticket,
        protection.seal(keys, request.suite.encr_alg, t),
        unsigned_v(request.suite.mac_alg),
    ]
    sent = request.message.hdr
    hdr = Hdr(DataType.REQUEST_RESP, sent.csb_id, sent.prf)
    return protection.sign(Message.build(hdr, payloads), request.message.raw)

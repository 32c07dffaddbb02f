"""What a ticket with a shared TPK may say: modes 2 and 3 of RFC 6043 4.1.1 (docs/modes.md).

Whoever has a TPK can make any ticket with it. So a shared TPK must let its owner neither speak in anybody else's name
nor learn MPKr of a ticket that is not its own.
"""

from kms.crypto.interface import Key
from kms.crypto.suite import suite_of
from kms.engine.context import Context
from kms.engine.directory import Role, TpkRole, User
from kms.engine.refusals import Reason, Refused
from kms.engine.shared_tpks import SharedTpk
from kms.engine.tickets import TicketSecrets
from kms.mikey import policy as rules
from kms.mikey import timestamps
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Flags, Ticket, TicketPolicy
from kms.mikey.registry import IdRole, PrfFunc
from kms.mikey.ticket_data import BASE_TICKET, TicketData


def local_responder(policy: TicketPolicy, context: Context) -> User | None:
    """The only responder that a policy names, if it shares a TPK with the KMS and so opens its tickets itself."""
    names = rules.responders(policy)
    user = context.directory.find(names[0]) if len(names) == 1 else None
    if context.shared_tpks is None or user is None or user.revoked or TpkRole.RESPONDER not in user.tpk_roles:
        return None
    return user


def responder_tpk(responder: User, prf: PrfFunc, context: Context) -> tuple[bytes, Key]:
    """Id and PRF key of the TPK that protects a ticket for a `local_responder`."""
    assert context.shared_tpks is not None
    return context.shared_tpks.responder_tpk(responder, prf)


def shared_tpk(ticket: Ticket, context: Context) -> SharedTpk | None:
    """The shared TPK that a ticket names, if it names one. Raises MikeyError for malformed Ticket Data."""
    policy = ticket.policy
    if context.shared_tpks is None or (policy.ticket_type, policy.subtype, policy.version) != BASE_TICKET:
        return None
    psk_id = TicketData.decode(ticket.ticket_data).psk_id
    return context.shared_tpks.shared_tpk(psk_id, suite_of(policy.prf).prf)


def check(
    shared: SharedTpk, ticket: Ticket, secrets: TicketSecrets, resolver: User, context: Context
) -> None:
    """Raise Refused unless a ticket, whose MAC verified with a shared TPK, is one that there may be."""
    owner = context.directory.find(shared.owner.identity)
    if (
        owner is None
        or owner.revoked
        or owner.version != shared.owner.version
        or shared.role not in owner.tpk_roles
    ):
        raise Refused(
            Reason.TICKET_NOT_AUTHENTIC,
            "the ticket's TPK is shared no more: its owner was revoked or enrolled anew",
        )
    if shared.role is TpkRole.RESPONDER:
        _check_for_responder(owner, ticket.policy, resolver)
    else:
        _check_by_initiator(owner, ticket.policy, secrets)
        _check_lifetime(ticket, context)


def _check_for_responder(owner: User, policy: TicketPolicy, resolver: User) -> None:
    """Mode 2. The owner could have made the ticket itself: so nobody else is told what it says.

    A forked ticket (I, hence E) is never made with this key: its owner would know MPKr.
    """
    if resolver.identity != owner.identity or rules.responders(policy) != (owner.identity,):
        raise Refused(Reason.NOT_AUTHORIZED, "a ticket with a Responder's TPK is for that Responder alone")
    if not policy.flags & Flags.D or policy.flags & (Flags.E | Flags.I):
        raise Refused(
            Reason.INVALID_TICKET, "a ticket with a Responder's TPK has the flag D and neither E nor I"
        )


def _check_by_initiator(owner: User, policy: TicketPolicy, secrets: TicketSecrets) -> None:
    """Mode 3. The owner speaks in its own name only, and encodes no keys that the KMS would not grant it."""
    if policy.flags & Flags.D or not policy.flags & Flags.E:
        raise Refused(
            Reason.INVALID_TICKET,
            "a ticket with an Initiator's TPK has the flag E and not D: the Initiator made it, the KMS opens it",
        )
    if rules.identity(policy, IdRole.INITIATOR) != owner.identity:
        raise Refused(Reason.NOT_AUTHORIZED, "IDRi of the Ticket Policy is not the owner of the ticket's TPK")
    if owner.role is not Role.FOCUS and any(e.key_type in rules.GROUP_KEYS for e in secrets.entries()):
        raise Refused(
            Reason.NOT_AUTHORIZED,
            "the ticket encodes group keys: only identities with the focus role may make such a ticket",
        )


def _check_lifetime(ticket: Ticket, context: Context) -> None:
    """The lifetime counts from T of Ticket Data, the time of issue: a late TRs does not make it longer."""
    now, longest = context.sources.now(), context.limits.max_lifetime
    try:
        issued = timestamps.unix_time(TicketData.decode(ticket.ticket_data).t)
    except ProtocolError:
        raise Refused(Reason.INVALID_TICKET, "T of a ticket that its Initiator made must be a time") from None
    end = rules.validity(ticket.policy)[1]
    if issued > now + context.clock_skew:
        raise Refused(Reason.TICKET_NOT_VALID_NOW, "the ticket was issued in the future (T of Ticket Data)")
    if end is None or end - issued > longest:
        raise Refused(
            Reason.INVALID_TICKET,
            f"a ticket that its Initiator made must end (TRe) within {longest} s of its T",
        )

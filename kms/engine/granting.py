"""What a KMS grants: from the desired Ticket Policy of a REQUEST_INIT to the granted one (RFC 6043 4.2.1.4, 6.10)."""

from dataclasses import dataclass, replace

from kms.crypto.sources import Sources
from kms.crypto.suite import suite_of
from kms.engine import tickets
from kms.engine.directory import Role, User
from kms.engine.refusals import Reason, Refused
from kms.engine.tickets import KEY_LENGTHS, MAX_SALT_LENGTH, MAX_SESSION_KEYS
from kms.mikey import policy as rules
from kms.mikey import timestamps
from kms.mikey.payloads import Flags, Idr, Kemac, KeyData, Payload, TicketPolicy, Tr
from kms.mikey.policy import GROUP_KEYS
from kms.mikey.registry import IdRole, IdType, KeyType, TsRole
from kms.mikey.ticket_data import BASE_TICKET, DERIVED_TICKET, KeyEntry

_DERIVED_FLAGS = Flags.D | Flags.E | Flags.N | Flags.O


@dataclass(frozen=True, slots=True)
class Limits:
    """What the operator allows. `max_lifetime` is the longest validity of a ticket, in seconds."""

    max_lifetime: int = 86400


@dataclass(frozen=True, slots=True)
class Grant:
    """A decision to grant: the policy for the TICKET, and the session keys that it will encode."""

    policy: TicketPolicy
    entries: tuple[KeyEntry, ...]


def decide(
    desired: TicketPolicy,
    user: User,
    *,
    group_keys_allowed: bool,
    kms_identity: bytes,
    limits: Limits,
    sources: Sources,
    local_responder: User | None = None,
) -> Grant:
    """Decide on a desired policy of an authenticated user. Raises Refused, or MikeyError for what RFC 6043 forbids.

    `local_responder` is its only responder, if that one shares a TPK with the KMS: then E = 0 is granted (mode 2).
    K is set when anything but KEMAC and K itself differs from what was asked for (AMBIGUITIES A-31).
    """
    _check_kind(desired)
    rules.check(desired)
    if not desired.flags & Flags.E and local_responder is None:
        raise Refused(
            Reason.INVALID_TICKET_POLICY,
            "E = 0 needs a ticket for one responder alone, which shares a TPK with the KMS: set the E flag",
        )
    requested = rules.requested_keys(desired)
    keys = requested if requested is not None else (_default_key(desired),)
    _check_keys(desired, keys, user, group_keys_allowed=group_keys_allowed)
    wanted = tuple(p for p in desired.tp_data if not isinstance(p, Kemac))
    granted = _with_validity(
        _with_identities(wanted, user, kms_identity), _end(desired, sources.now(), limits.max_lifetime)
    )
    flags = desired.flags & ~Flags.K
    if granted != wanted:
        flags |= Flags.K
    entries = tuple(
        KeyEntry(k.key_type, len(k.key), len(k.salt), k.spi or sources.random(4, "SPI")) for k in keys
    )
    return Grant(replace(desired, flags=flags, tp_data=granted), entries)


def _check_kind(desired: TicketPolicy) -> None:
    kind = (desired.ticket_type, desired.subtype, desired.version)
    if kind not in (BASE_TICKET, DERIVED_TICKET):
        raise tickets.unsupported(desired)
    if not desired.flags & Flags.D:
        raise Refused(Reason.INVALID_TICKET_POLICY, "a ticket from this KMS has the D flag: set it")
    if kind == DERIVED_TICKET and _DERIVED_FLAGS & ~desired.flags:
        raise Refused(
            Reason.INVALID_TICKET_POLICY,
            "a derived ticket needs the flags D, E, N and O (docs/ticket-type.md)",
        )


def _default_key(desired: TicketPolicy) -> KeyData:
    """A single TGK of the suite's size (4.2.1.5)."""
    return KeyData(KeyType.TGK, bytes(suite_of(desired.prf).key_length))


def _check_keys(
    desired: TicketPolicy, keys: tuple[KeyData, ...], user: User, *, group_keys_allowed: bool
) -> None:
    rules.check_session_keys(desired, keys)
    if len(keys) > MAX_SESSION_KEYS:
        raise Refused(Reason.INVALID_TICKET_POLICY, f"{len(keys)} keys are more than {MAX_SESSION_KEYS}")
    derived = desired.ticket_type == DERIVED_TICKET[0]
    for key in keys:
        allowed = (16, 32) if derived else KEY_LENGTHS
        if len(key.key) not in allowed or len(key.salt) > MAX_SALT_LENGTH:
            raise Refused(
                Reason.INVALID_TICKET_POLICY, "session keys have 16 or 32 bytes and salts at most 32"
            )
        if key.key_type in GROUP_KEYS and not (user.role is Role.FOCUS and group_keys_allowed):
            raise Refused(
                Reason.NOT_AUTHORIZED,
                f"a {key.key_type.name} is a group key: only identities with the focus role may request one",
            )


def _with_identities(wanted: tuple[Payload, ...], user: User, kms_identity: bytes) -> tuple[Payload, ...]:
    """IDRkms is this KMS. IDRi is the authenticated requester: the responder is told this identity."""
    initiator = next((p for p in wanted if isinstance(p, Idr) and p.role == IdRole.INITIATOR), None)
    if initiator is None:
        initiator = Idr(IdRole.INITIATOR, IdType.URI, user.identity)
    elif not user.may_speak_as(initiator.data):
        raise Refused(Reason.NOT_AUTHORIZED, "IDRi of the Ticket Policy is not an identity of the requester")
    kms = next((p for p in wanted if isinstance(p, Idr) and p.role == IdRole.KMS), None)
    if kms is None or kms.data != kms_identity:
        kms = Idr(IdRole.KMS, IdType.URI, kms_identity)
    if kms in wanted and initiator in wanted:
        return wanted
    rest = (p for p in wanted if not (isinstance(p, Idr) and p.role in (IdRole.KMS, IdRole.INITIATOR)))
    return (kms, initiator, *rest)


def _end(desired: TicketPolicy, now: float, max_lifetime: int) -> int | None:
    """When the granted ticket must end, if the desired policy does not end by itself in time."""
    start, end = rules.validity(desired)
    if end is not None and end < now:
        raise Refused(Reason.INVALID_TICKET_POLICY, "the end of the desired validity (TRe) is past")
    if start is not None and end is not None and end < start:
        raise Refused(Reason.INVALID_TICKET_POLICY, "the desired validity ends (TRe) before it starts (TRs)")
    latest = int(now) + max_lifetime
    return latest if end is None or end > latest else None


def _with_validity(wanted: tuple[Payload, ...], end: int | None) -> tuple[Payload, ...]:
    if end is None:
        return wanted
    tre = timestamps.tr(TsRole.END, end)
    if any(isinstance(p, Tr) and p.role == TsRole.END for p in wanted):
        return tuple(tre if isinstance(p, Tr) and p.role == TsRole.END else p for p in wanted)
    # Behind the identities and TRs, where 6.10 lists it.
    place = next(
        (
            i
            for i, p in enumerate(wanted)
            if not (isinstance(p, Idr) and p.role in (IdRole.KMS, IdRole.INITIATOR))
            and not (isinstance(p, Tr) and p.role == TsRole.START)
        ),
        len(wanted),
    )
    return (*wanted[:place], tre, *wanted[place:])

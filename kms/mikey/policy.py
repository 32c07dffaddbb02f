"""The Ticket Policy: what its fields mean and which combinations RFC 6043 6.10 allows."""

from collections.abc import Iterable

from kms.mikey import timestamps
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Flags, Idr, Kemac, KeyData, Payload, TicketPolicy, Tr
from kms.mikey.registry import EncrAlg, ErrorNo, IdRole, IdType, KeyType, MacAlg, PrfFunc, TsRole, TsType

TGKS = (KeyType.TGK, KeyType.TGK_SALT)
"""Key types that key forking forks when they are encoded in the ticket (5.1.1)."""
GROUP_KEYS = (KeyType.GTGK, KeyType.GTGK_SALT, KeyType.TEK, KeyType.TEK_SALT)
"""Key types that every responder gets alike."""
FORKED_MODE_1 = Flags.D | Flags.E | Flags.F | Flags.G | Flags.H | Flags.I | Flags.N | Flags.O
"""Flags that this project's SDKs ask for: mode 1, key forking, both RANDs, no reuse, no keys from the parties."""


def tp_data(
    *,
    kms: bytes,
    initiator: bytes,
    responders: Iterable[bytes],
    start: int | None = None,
    end: int | None = None,
    rekeying: int | None = None,
    keys: Iterable[KeyData] | None = None,
    applications: Iterable[bytes] = (),
) -> tuple[Payload, ...]:
    """TP Data in the order of 6.10. Identities are URIs; `start` and `end` Unix seconds, `rekeying` seconds.

    `keys` are the requested keys: their bytes are replaced by zeros of the same length (AMBIGUITIES A-30).
    Raises EncodeError for a time that no timestamp can carry.
    """
    items: list[Payload] = [
        Idr(IdRole.KMS, IdType.URI, kms),
        Idr(IdRole.INITIATOR, IdType.URI, initiator),
    ]
    if start is not None:
        items.append(timestamps.tr(TsRole.START, start))
    if end is not None:
        items.append(timestamps.tr(TsRole.END, end))
    if rekeying is not None:
        items.append(timestamps.tr_interval(TsRole.REKEYING, rekeying))
    if keys is not None:
        zeroed = (KeyData(k.key_type, bytes(len(k.key)), bytes(len(k.salt)), k.kv) for k in keys)
        items.append(Kemac(EncrAlg.NULL, KeyData.write_all(zeroed)))
    items += (Idr(IdRole.APPLICATION, IdType.BYTE_STRING, a) for a in applications)
    items += (Idr(IdRole.RESPONDER, IdType.URI, r) for r in responders)
    return tuple(items)


# -- reading fields --------------------------------------------------------------------------------------------------


def identity(policy: TicketPolicy, role: IdRole) -> bytes | None:
    """ID Data of the first IDR with this role in TP Data, or None."""
    return next((p.data for p in policy.tp_data if isinstance(p, Idr) and p.role == role), None)


def responders(policy: TicketPolicy) -> tuple[bytes, ...]:
    """The identities, of responders or groups, that may resolve the ticket."""
    return tuple(p.data for p in policy.tp_data if isinstance(p, Idr) and p.role == IdRole.RESPONDER)


def applications(policy: TicketPolicy) -> tuple[bytes, ...]:
    """The authorised application IDs; empty means all."""
    return tuple(p.data for p in policy.tp_data if isinstance(p, Idr) and p.role == IdRole.APPLICATION)


def validity(policy: TicketPolicy) -> tuple[float | None, float | None]:
    """TRs and TRe in Unix seconds; None where omitted. Raises ProtocolError (Invalid TPpar) for a COUNTER."""
    bounds: dict[int, float] = {}
    for p in policy.tp_data:
        if isinstance(p, Tr) and p.role in (TsRole.START, TsRole.END):
            if p.ts_type == TsType.COUNTER:
                raise ProtocolError("TRs and TRe must be times, not a COUNTER", ErrorNo.INVALID_TPPAR)
            bounds[p.role] = timestamps.unix_time(p)
    return bounds.get(TsRole.START), bounds.get(TsRole.END)


def rekeying_interval(policy: TicketPolicy) -> int | None:
    """TRr in seconds, or None. Raises ProtocolError (Invalid TPpar) unless it is NTP-UTC-32."""
    for p in policy.tp_data:
        if isinstance(p, Tr) and p.role == TsRole.REKEYING:
            if p.ts_type != TsType.NTP_UTC_32:
                raise ProtocolError("TRr must have the TS Type NTP-UTC-32", ErrorNo.INVALID_TPPAR)
            return int.from_bytes(p.value, "big")
    return None


def requested_keys(policy: TicketPolicy) -> tuple[KeyData, ...] | None:
    """The keys that a desired policy asks for, or None for the KMS's default (A-30).

    Raises DecodeError, or ProtocolError (Invalid TPpar) for an encrypted KEMAC, an MPK, or doubled SPIs.
    """
    kemacs = [p for p in policy.tp_data if isinstance(p, Kemac)]
    if not kemacs:
        return None
    if len(kemacs) > 1:
        raise ProtocolError("TP Data: more than one KEMAC", ErrorNo.INVALID_TPPAR)
    kemac = kemacs[0]
    if kemac.encr_alg != EncrAlg.NULL or kemac.mac_alg != MacAlg.NULL:
        raise ProtocolError(
            "KEMAC in TP must use NULL encryption and NULL authentication", ErrorNo.INVALID_TPPAR
        )
    keys = KeyData.read_all(kemac.encr_data, "TP > TP Data > KEMAC")
    if any(k.key_type == KeyType.MPK for k in keys):
        raise ProtocolError("an MPK cannot be requested", ErrorNo.INVALID_TPPAR)
    check_spis(keys, required=False, error_no=ErrorNo.INVALID_TPPAR)
    return keys


# -- rules -----------------------------------------------------------------------------------------------------------

_DEPENDENCIES: tuple[tuple[str, Flags, bool, Flags], ...] = (
    ("NOT D implies L", Flags.D, False, Flags.L),
    ("G implies F", Flags.G, True, Flags.F),
    ("NOT G implies H", Flags.G, False, Flags.H),
    ("I implies E", Flags.I, True, Flags.E),
    ("M implies F", Flags.M, True, Flags.F),
)


def check(policy: TicketPolicy) -> None:
    """Raise ProtocolError (Invalid TPpar) unless a policy keeps the rules that anybody can check (6.10).

    The K flag of a desired policy is ignored.
    """
    for rule, condition, value, consequence in _DEPENDENCIES:
        if bool(policy.flags & condition) is value and not policy.flags & consequence:
            raise _broken(policy, rule)
    if not responders(policy):
        raise ProtocolError("Ticket Policy without a responder (IDRr)", ErrorNo.INVALID_TPPAR)
    if policy.prf not in (PrfFunc.MIKEY_1, PrfFunc.PRF_HMAC_SHA_256):
        raise ProtocolError(f"Ticket Policy: PRF {policy.prf} is not supported", ErrorNo.INVALID_TPPAR)
    for role in (IdRole.KMS, IdRole.INITIATOR):
        if sum(isinstance(p, Idr) and p.role == role for p in policy.tp_data) > 1:
            raise ProtocolError(
                f"Ticket Policy: more than one IDR of role {role.name}", ErrorNo.INVALID_TPPAR
            )
    roles = [p.role for p in policy.tp_data if isinstance(p, Tr)]
    if len(roles) != len(set(roles)):
        raise ProtocolError("Ticket Policy: a TR role appears twice", ErrorNo.INVALID_TPPAR)
    validity(policy)
    rekeying_interval(policy)


def check_granted(policy: TicketPolicy) -> None:
    """As `check`, for the policy in a TICKET: also K implies D, and the desired keys must be gone (6.10)."""
    check(policy)
    if policy.flags & Flags.K and not policy.flags & Flags.D:
        raise _broken(policy, "K implies D")
    if any(isinstance(p, Kemac) for p in policy.tp_data):
        raise ProtocolError("KEMAC must not be present in the granted Ticket Policy", ErrorNo.INVALID_TPPAR)


def _broken(policy: TicketPolicy, rule: str) -> ProtocolError:
    return ProtocolError(
        f"Ticket Policy: the flags {policy.flags.letters} break the rule {rule}", ErrorNo.INVALID_TPPAR
    )


def check_initiator_data(policy: TicketPolicy, initiator_data: bytes) -> None:
    """Raise ProtocolError (Invalid TICKET) unless Initiator Data is there if and only if the I flag is set (6.10)."""
    if bool(policy.flags & Flags.I) != bool(initiator_data):
        raise ProtocolError(
            "Initiator Data must be present if and only if the I flag is set", ErrorNo.INVALID_TICKET
        )


def check_valid_at(policy: TicketPolicy, now: float) -> None:
    """Raise ProtocolError (Invalid TICKET) unless `now` is within TRs and TRe, bounds included (A-33)."""
    start, end = validity(policy)
    if start is not None and now < start:
        raise ProtocolError(
            f"the ticket is not valid for another {start - now:.0f} s", ErrorNo.INVALID_TICKET
        )
    if end is not None and now > end:
        raise ProtocolError(f"the ticket expired {now - end:.0f} s ago", ErrorNo.INVALID_TICKET)


def check_session_keys(policy: TicketPolicy, keys: Iterable[KeyData]) -> None:
    """Raise ProtocolError (Invalid TPpar) unless keys encoded in the ticket suit the policy (6.10, 12.1)."""
    for key in keys:
        if len(key.key) < 16:
            raise ProtocolError(f"a {key.key_type.name} needs 128 bits or more (12.1)", ErrorNo.INVALID_TPPAR)
        if len(key.key) > 16 and policy.prf == PrfFunc.MIKEY_1:
            raise ProtocolError(
                "128-bit algorithms must not be used with longer session keys (12.1)", ErrorNo.INVALID_TPPAR
            )
        if key.key_type in TGKS and policy.flags & Flags.I and not policy.flags & Flags.F:
            raise ProtocolError("F must be set when I is and a TGK is in the ticket", ErrorNo.INVALID_TPPAR)


def check_spis(
    keys: Iterable[KeyData], *, required: bool = True, error_no: ErrorNo = ErrorNo.UNSPECIFIED
) -> None:
    """Raise ProtocolError unless the session keys have SPIs (6.2.1) and no two the same (A-29)."""
    seen: set[bytes] = set()
    for key in keys:
        if required and not key.spi:
            raise ProtocolError(f"an SPI must be specified for each key ({key.key_type.name})", error_no)
        if key.spi and key.key_type != KeyType.MPK:
            if key.spi in seen:
                raise ProtocolError("two keys have the same SPI", error_no)
            seen.add(key.spi)


def check_answer(desired: TicketPolicy, granted: TicketPolicy, keys: Iterable[KeyData]) -> None:
    """For the Initiator: raise ProtocolError (Invalid TPpar) if policy or keys changed although K is 0 (A-31).

    `keys` are the session keys of the REQUEST_RESP. SPIs are not compared: the KMS may assign them.
    """
    check_granted(granted)
    if granted.flags & Flags.K:
        return
    wanted = tuple(p for p in desired.tp_data if not isinstance(p, Kemac))
    same_type = (desired.ticket_type, desired.subtype, desired.version, desired.prf) == (
        granted.ticket_type,
        granted.subtype,
        granted.version,
        granted.prf,
    )
    if not same_type or wanted != granted.tp_data or desired.flags & ~Flags.K != granted.flags:
        raise ProtocolError(
            "the granted Ticket Policy is not the desired one but K is 0", ErrorNo.INVALID_TPPAR
        )
    requested = requested_keys(desired)
    if requested is not None:
        want = [(k.key_type, len(k.key), len(k.salt)) for k in requested]
        got = [(k.key_type, len(k.key), len(k.salt)) for k in keys]
        if want != got:
            raise ProtocolError("the keys are not the requested ones but K is 0", ErrorNo.INVALID_TPPAR)

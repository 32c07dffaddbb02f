"""Timestamps: NTP in 64 and 32 bits, its overflow in 2036 (RFC 4330 section 3, RFC 6043 6.3), and COUNTER."""

import math

from kms.mikey.errors import EncodeError, ProtocolError
from kms.mikey.payloads.basic import T, Tr
from kms.mikey.registry import ErrorNo, TsType
from kms.mikey.wire import u32

_NTP_TO_UNIX = 2_208_988_800
_ERA = 1 << 32

FIRST = (1 << 31) - _NTP_TO_UNIX
"""The first second that a timestamp can name, 1968-01-20 03:14:08 UTC, in Unix time."""
LAST = FIRST + _ERA - 1
"""The last one, 2104-02-26 09:42:23 UTC."""


def ntp_utc(unix_time: float) -> T:
    """A T payload of type NTP-UTC. Raises EncodeError outside of 1968-2104."""
    return ntp_utc_exact(*divmod(math.floor(unix_time * _ERA), _ERA))


def ntp_utc_exact(unix_seconds: int, fraction: int) -> T:
    """A T payload of type NTP-UTC from whole Unix seconds and a fraction in 2**-32 s.

    Raises EncodeError outside of 1968-2104.
    """
    return T(TsType.NTP_UTC, _ntp(unix_seconds) + u32(fraction, "fraction"))


def tr(role: int, unix_seconds: int) -> Tr:
    """A TR payload of type NTP-UTC-32. Raises EncodeError outside of 1968-2104."""
    return Tr(role, TsType.NTP_UTC_32, _ntp(unix_seconds))


def tr_interval(role: int, seconds: int) -> Tr:
    """A TR payload that carries a number of seconds, such as TRr. Raises EncodeError if it needs over 32 bits."""
    return Tr(role, TsType.NTP_UTC_32, u32(seconds, "seconds"))


def _ntp(unix_seconds: int) -> bytes:
    if not FIRST <= unix_seconds <= LAST:
        raise EncodeError(
            f"timestamp: {unix_seconds} s since 1970 is outside of 1968-2104, all that NTP can name"
        )
    return ((unix_seconds + _NTP_TO_UNIX) % _ERA).to_bytes(4, "big")


def unix_time(stamp: T | Tr) -> float:
    """Seconds since 1970 of an NTP timestamp, read as a time in 1968-2104 (RFC 4330 section 3).

    Raises ProtocolError (Invalid TS) for a COUNTER, which is no time.
    """
    if stamp.ts_type == TsType.COUNTER:
        raise ProtocolError(f"{stamp.NAME}: a COUNTER timestamp is not a time", ErrorNo.INVALID_TS)
    seconds = int.from_bytes(stamp.value[:4], "big")
    if not seconds & 0x8000_0000:  # bit 0 clear: 2036-2104
        seconds += _ERA
    return seconds - _NTP_TO_UNIX + int.from_bytes(stamp.value[4:8].ljust(4, b"\0"), "big") / _ERA


def check_fresh(stamp: T, now: float, skew: float) -> None:
    """Raise ProtocolError (Invalid TS) unless `stamp` is within `skew` seconds of `now` (RFC 3830 5.4)."""
    late = now - unix_time(stamp)
    if late > skew:
        raise ProtocolError(f"the message is {late:.0f} s old, allowed are {skew:.0f} s", ErrorNo.INVALID_TS)
    if -late > skew:
        raise ProtocolError(
            f"the message is {-late:.0f} s in the future, allowed are {skew:.0f} s", ErrorNo.INVALID_TS
        )

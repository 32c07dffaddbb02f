"""Times over the NTP overflows of 2036 and 2104 (RFC 4330 section 3), and freshness."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.mikey.errors import EncodeError, ProtocolError
from kms.mikey.payloads import T
from kms.mikey.registry import ErrorNo, TsRole, TsType
from kms.mikey.timestamps import FIRST, LAST, check_fresh, ntp_utc, ntp_utc_exact, tr, tr_interval, unix_time

OVERFLOW = int(datetime(2036, 2, 7, 6, 28, 16, tzinfo=UTC).timestamp())
seconds = st.integers(FIRST, LAST) | st.sampled_from([FIRST, LAST, 0, OVERFLOW - 1, OVERFLOW, OVERFLOW + 1])


@given(seconds, st.integers(0, 0xFFFFFFFF))
def test_round_trip(at: int, fraction: int) -> None:
    assert unix_time(tr(TsRole.END, at)) == at
    exact = ntp_utc_exact(at, fraction)
    assert unix_time(exact) == at + fraction / 2**32
    assert unix_time(T(TsType.NTP, exact.value)) == unix_time(exact)


@given(st.floats(FIRST, LAST))
def test_float_round_trip(at: float) -> None:
    assert abs(unix_time(ntp_utc(at)) - at) <= 2**-22


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("80000000", "1968-01-20 03:14:08"),
        ("83aa7e80", "1970-01-01 00:00:00"),
        ("ffffffff", "2036-02-07 06:28:15"),
        ("00000000", "2036-02-07 06:28:16"),
        ("7fffffff", "2104-02-26 09:42:23"),
    ],
)
def test_known_times(value: str, moment: str) -> None:
    at = datetime.fromisoformat(moment + "+00:00").timestamp()
    stamp = T(TsType.NTP_UTC_32, bytes.fromhex(value))
    assert unix_time(stamp) == at
    assert tr(TsRole.START, int(at)).value == stamp.value


def test_the_limits_are_those_of_the_registry() -> None:
    assert datetime.fromtimestamp(FIRST, UTC).year == 1968
    assert datetime.fromtimestamp(LAST, UTC).year == 2104


@given(st.integers(max_value=FIRST - 1) | st.integers(min_value=LAST + 1))
def test_other_times_do_not_wrap(at: int) -> None:
    """A validity that ended in 2105 would otherwise have ended in 1969."""
    for make in (lambda: tr(TsRole.END, at), lambda: ntp_utc_exact(at, 0)):
        with pytest.raises(EncodeError, match="outside of 1968-2104"):
            make()


@given(st.integers(0, 0xFFFFFFFF))
def test_interval(count: int) -> None:
    assert tr_interval(TsRole.REKEYING, count).value == count.to_bytes(4, "big")


def test_interval_limits() -> None:
    for count in (-1, 1 << 32):
        with pytest.raises(EncodeError, match="does not fit in 32 bits"):
            tr_interval(TsRole.REKEYING, count)


@given(seconds, st.integers(0, 1000), st.integers(-2000, 2000))
def test_fresh(now: int, skew: int, off: int) -> None:
    if not FIRST <= now + off <= LAST:
        return
    stamp = ntp_utc(now + off)
    if abs(off) <= skew:
        check_fresh(stamp, now, skew)
        return
    with pytest.raises(ProtocolError, match="s old" if off < 0 else "in the future") as caught:
        check_fresh(stamp, now, skew)
    assert caught.value.error_no == ErrorNo.INVALID_TS


def test_a_counter_is_no_time() -> None:
    with pytest.raises(ProtocolError, match="T: a COUNTER timestamp is not a time") as caught:
        check_fresh(T(TsType.COUNTER, bytes(4)), 0, 60)
    assert caught.value.error_no == ErrorNo.INVALID_TS

"""MIKEY in session descriptions (RFC 4567 3.1)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.mikey import sdp
from kms.mikey.errors import DecodeError


@given(st.binary(min_size=1))
def test_round_trip(message: bytes) -> None:
    line = sdp.key_mgmt_line(message)
    assert "\n" not in line
    assert sdp.parse_key_mgmt_line(line) == message
    assert sdp.messages(f"v=0\r\n{line}\r\nm=audio 9 RTP/SAVP 0\r\n") == [message]


def test_abnf() -> None:
    """One space may precede prtcl-id."""
    assert sdp.parse_key_mgmt_line("a=key-mgmt:mikey AQID") == b"\1\2\3"
    assert sdp.parse_key_mgmt_line("a=key-mgmt: mikey AQID") == b"\1\2\3"
    assert sdp.messages("a=key-mgmt: mikey AQID\na=key-mgmt:mikey  AQIE \n") == [b"\1\2\3", b"\1\2\4"]


def test_other_protocols_and_attributes_are_passed_over() -> None:
    assert sdp.messages("v=0\na=key-mgmt:keyp1 *\na=key-mgmtx:mikey AQID\na=mikey AQID\n") == []


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("m=audio 9 RTP/SAVP 0", "SDP: not an a=key-mgmt: line (offset 0)"),
        ("a=key-mgmt:keyp1 AQID", "SDP: the key management protocol is 'keyp1', not 'mikey' (offset 11)"),
        ("a=key-mgmt:mikey A*ID", "SDP: the key-mgmt data is not base64 (offset 17)"),
        ("a=key-mgmt:mikey AQI", "SDP: the key-mgmt data is not base64 (offset 17)"),
        ("a=key-mgmt:mikey AQID AQID", "SDP: the key-mgmt data is not base64 (offset 17)"),
        ("a=key-mgmt:mikey ÄQID", "SDP: the key-mgmt data is not base64 (offset 17)"),
        ("a=key-mgmt:mikey", "SDP: the key-mgmt data is missing (offset 16)"),
        ("a=key-mgmt:mikey  ", "SDP: the key-mgmt data is missing (offset 18)"),
    ],
)
def test_what_is_refused(line: str, text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        sdp.parse_key_mgmt_line(line)
    assert str(caught.value) == text


def test_a_broken_line_breaks_the_description() -> None:
    with pytest.raises(DecodeError, match="not base64"):
        sdp.messages("v=0\na=key-mgmt:mikey AQID\na=key-mgmt:mikey =\n")


@given(st.text())
def test_any_text(text: str) -> None:
    for call in (sdp.messages, sdp.parse_key_mgmt_line):
        try:
            call(text)
            call(f"a=key-mgmt:{text}")
        except DecodeError as error:
            assert error.where == "SDP"  # noqa: PT017

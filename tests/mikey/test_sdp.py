"""MIKEY in session descriptions (RFC 4567)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms.mikey import sdp
from kms.mikey.errors import DecodeError, EncodeError, ProtocolError
from kms.mikey.message import Message
from kms.mikey.registry import ErrorNo
from tests.mikey.vectors import all_messages


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


# -- levels (RFC 4567 3.1, 4.1.2) --------------------------------------------------------------------------------------

A, B, C = b"\1A", b"\1B", b"\1C"
BARE = "v=0\r\ns=-\r\nm=audio 9 RTP/SAVP 0\r\na=sendrecv\r\nm=video 9 RTP/SAVP 31\r\n"


def test_a_line_of_the_session_applies_to_all_media() -> None:
    text = sdp.with_messages(BARE, {None: A})
    assert text.index("key-mgmt") < text.index("m=audio")
    found = sdp.Description.parse(text)
    assert found.mikey == {None: A}
    assert found.lines(0) == found.lines(1) == found.session


def test_a_medium_overrides_the_session() -> None:
    found = sdp.Description.parse(sdp.with_messages(BARE, {None: A, 1: B}))
    assert found.mikey == {None: A, 1: B}
    assert found.lines(0) == (sdp.key_mgmt_line(A),)
    assert found.lines(1) == (sdp.key_mgmt_line(B),)
    found = sdp.Description.parse(sdp.with_messages(BARE, {None: A, 0: B, 1: C}))
    assert found.mikey == {0: B, 1: C}, "no medium is left to which the session's line applies"


def test_a_medium_with_another_protocol_alone_is_not_mikeys() -> None:
    text = sdp.with_messages(BARE, {None: A}).replace("a=sendrecv", "a=key-mgmt:keyp1 x")
    found = sdp.Description.parse(text)
    assert found.lines(0) == ("a=key-mgmt:keyp1 x",)
    assert found.mikey == {None: A}
    assert found.protocols == ("mikey", "keyp1")


def test_mikey_is_chosen_among_several_protocols() -> None:
    text = f"v=0\na=key-mgmt:keyp1 x\n{sdp.key_mgmt_line(A)}\na=key-mgmt:KEYP2 y z\nm=audio 9 RTP/SAVP 0\n"
    found = sdp.Description.parse(text)
    assert found.mikey == {None: A}
    assert found.protocols == ("keyp1", "mikey", "KEYP2")
    assert sdp.Description.parse("v=0\na=key-mgmt:MIKEY AQID\n").mikey == {}, "KMPID is case sensitive"


def test_a_description_without_media() -> None:
    assert sdp.Description.parse(sdp.with_messages("v=0\n\n", {None: A})).mikey == {None: A}


def test_an_answer_has_the_levels_of_the_offer() -> None:
    offer = sdp.Description.parse(sdp.with_messages(BARE, {None: A, 1: B}))
    answer = sdp.with_messages(BARE, {level: raw + b"!" for level, raw in offer.mikey.items()})
    assert sdp.Description.parse(answer).mikey == {None: A + b"!", 1: B + b"!"}
    with pytest.raises(EncodeError, match="no medium 2"):
        sdp.with_messages(BARE, {2: A})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{sdp.key_mgmt_line(A)}\n{sdp.key_mgmt_line(B)}\n", "two a=key-mgmt:mikey lines at one level"),
        ("a=key-mgmt:key;p x\n", "no key management protocol"),
        ("a=key-mgmt:\n", "no key management protocol"),
    ],
)
def test_descriptions_that_are_refused(text: str, says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        sdp.Description.parse(text)


# -- bidding-down (RFC 4567 4.1.4, 7) ----------------------------------------------------------------------------------


def offer_with(*protocols: str) -> Message:
    """A message of the vectors with a list of protocols, whatever its MAC."""
    sent = next(m for m in map(Message.decode, all_messages()) if m.name == "TRANSFER_INIT")
    extensions = [sdp.sdp_ids(protocols)] if protocols else []
    return Message.build(sent.hdr, [*sent.payloads[:-1], *extensions, sent.payloads[-1]])


@pytest.mark.parametrize(
    ("listed", "offered", "accepted"),
    [
        (["mikey"], ["mikey"], True),
        (["keyp1", "mikey"], ["keyp1", "mikey"], True),
        (["keyp1", "mikey"], ["mikey"], False),  # peeled off
        (["mikey"], ["mikey", "keyp1"], False),
        (["keyp1", "mikey"], ["mikey", "keyp1"], False),
        ([], ["mikey"], True),
        ([], ["keyp1", "mikey"], False),
    ],
)
def test_the_protocols_must_be_those_of_sdp_ids(
    listed: list[str], offered: list[str], accepted: bool
) -> None:
    lines = "".join(f"a=key-mgmt:{name} AQID\n" for name in offered)
    description = sdp.Description.parse(lines)
    if accepted:
        sdp.check_sdp_ids(offer_with(*listed), description)
        return
    with pytest.raises(ProtocolError, match="SDP: ") as refused:
        sdp.check_sdp_ids(offer_with(*listed), description)
    assert refused.value.error_no == ErrorNo.AUTH_FAILURE


def test_sdp_ids() -> None:
    extension = sdp.sdp_ids(["mikey", "keyp1"])
    assert (extension.ext_type, extension.data) == (1, b"mikey;keyp1")
    with pytest.raises(EncodeError, match="no key management protocol"):
        sdp.sdp_ids(["mikey;keyp1"])


@given(st.text())
def test_any_description(text: str) -> None:
    for content in (text, f"a=key-mgmt:{text}", f"m=\na=key-mgmt:mikey {text}"):
        try:
            description = sdp.Description.parse(content)
            assert len(description.mikey) <= len(description.protocols)
        except DecodeError as error:
            assert error.where == "SDP"  # noqa: PT017

"""negatives.json without keys: what does not parse, and what breaks a rule that a decoded message shows."""

import re
from collections.abc import Callable

import pytest

from kms.mikey import policy
from kms.mikey.errors import DecodeError, MikeyError
from kms.mikey.exchange import check_message, check_response
from kms.mikey.message import Message
from kms.mikey.payloads import InitiatorData, Kemac, Ticket, Tp
from tests.mikey import vectors
from tests.mikey.vectors import Json

NEGATIVES: list[Json] = vectors.load("negatives")["negatives"]
PARSE_ERRORS = ("Truncated", "TrailingBytes", "UnknownPayload", "BadValue")


def ids(vector: Json) -> str:
    return str(vector["name"])


def named(*parts: str) -> list[Json]:
    found = [v for v in NEGATIVES if any(p in v["name"] for p in parts)]
    assert found
    return found


def receive(raw: bytes) -> None:
    """What a receiver can refuse without a key."""
    message = Message.decode(raw)
    check_message(message, message.hdr.data_type)
    ticket = message.find(Ticket)
    if ticket is not None and ticket.initiator_data:
        InitiatorData.decode(ticket.initiator_data)


# The one left out needs the G flag of a ticket that came before: the Initiator checks it when it completes the call.
MALFORMED = [
    v
    for v in NEGATIVES
    if v["expected"]["exception"] in PARSE_ERRORS and v["name"] != "TRANSFER_RESP-RANDRr-missing"
]
MISSING = [v for v in MALFORMED if "mandatory" in v["expected"]["text"]]
PLACES = {
    "malformed-first-payload-0": ("HDR", 2),
    "malformed-map-type-9": ("HDR", 9),
    "malformed-ts-type-9": ("message > T", 11),
    "TRANSFER_RESP-hdr-only-128": ("HDR", 10),
}
"""Where an error is, for the vectors whose text does not say it, or says less."""


@pytest.mark.parametrize("vector", [v for v in MALFORMED if v not in MISSING], ids=ids)
def test_malformed(vector: Json) -> None:
    with pytest.raises(DecodeError) as caught:
        receive(bytes.fromhex(vector["bad"]))
    error, text = caught.value, vector["expected"]["text"]
    if vector["name"] in PLACES:
        assert (error.where, error.offset) == PLACES[vector["name"]]
    else:
        assert error.where == text.split(":")[0]
        assert re.search(r"at offset (\d+)", text)[1] == str(error.offset)  # type: ignore[index]
    assert str(error) == f"{error.where}: {error.reason} (offset {error.offset})"
    assert error.error_no == vector["expected"]["error_no"]


@pytest.mark.parametrize("vector", MISSING, ids=ids)
def test_missing_payload(vector: Json) -> None:
    expected = vector["expected"]["text"].replace(" (role None)", "")
    with pytest.raises(MikeyError) as caught:
        receive(bytes.fromhex(vector["bad"]))
    assert str(caught.value) == f"REQUEST_INIT_PSK: {expected}"
    assert caught.value.error_no == vector["expected"]["error_no"]


def first_tp(vector: Json) -> Tp:
    return Message.decode(bytes.fromhex(vector["bad"])).get(Tp)


def first_ticket(vector: Json) -> Ticket:
    return Message.decode(bytes.fromhex(vector["bad"])).get(Ticket)


def answer(vector: Json) -> None:
    initial = Message.decode(bytes.fromhex(vector["context"][0]["hex"]))
    check_response(initial, Message.decode(bytes.fromhex(vector["bad"])))


RULES: list[tuple[str, Callable[[Json], object]]] = [
    ("TP-flags-EFGHN", lambda v: policy.check(first_tp(v).policy)),
    ("TP-flags-DEF", lambda v: policy.check(first_tp(v).policy)),
    ("TP-flags-DFGHI", lambda v: policy.check(first_tp(v).policy)),
    ("TP-flags-DEHM", lambda v: policy.check(first_tp(v).policy)),
    ("TICKET-flags", lambda v: policy.check_granted(first_ticket(v).policy)),
    ("KEMAC-in-granted-policy", lambda v: policy.check_granted(first_ticket(v).policy)),
    ("Initiator-Data-missing", lambda v: policy.check_initiator_data(first_ticket(v).policy, b"")),
    ("Vr-other-algorithm", lambda v: InitiatorData.decode(first_ticket(v).initiator_data)),
    ("TP-KEMAC-encrypted", lambda v: policy.requested_keys(first_tp(v).policy)),
    ("REQUEST_INIT-map-type-SRTP", lambda v: receive(bytes.fromhex(v["bad"]))),
    ("REQUEST_INIT-PRF-unknown", lambda v: receive(bytes.fromhex(v["bad"]))),
    ("REQUEST_INIT-NULL-MAC", lambda v: receive(bytes.fromhex(v["bad"]))),
    ("REQUEST_RESP-CSB-ID-changed", answer),
    ("REQUEST_RESP-map-type-changed", answer),
    ("ticket-expired", lambda v: policy.check_valid_at(first_ticket(v).policy, v["clock_unix"])),
    ("ticket-not-yet-valid", lambda v: policy.check_valid_at(first_ticket(v).policy, v["clock_unix"])),
]


@pytest.mark.parametrize(("name", "check"), RULES, ids=lambda x: x if isinstance(x, str) else "")
def test_broken_rule(name: str, check: Callable[[Json], object]) -> None:
    for vector in named(name):
        with pytest.raises(MikeyError) as caught:
            check(vector)
        assert caught.value.error_no == vector["expected"]["error_no"]


def test_key_too_long_for_the_128_bit_suite() -> None:
    (vector,) = named("TP-key-too-long-for-128")
    desired = first_tp(vector).policy
    with pytest.raises(MikeyError, match="longer session keys") as caught:
        policy.check_session_keys(desired, policy.requested_keys(desired) or ())
    assert caught.value.error_no == vector["expected"]["error_no"]


def test_tgk_without_a_response() -> None:
    (vector,) = named("TP-flags-DEHI")
    desired = first_tp(vector).policy
    assert any(isinstance(p, Kemac) for p in desired.tp_data)
    with pytest.raises(MikeyError, match="F must be set") as caught:
        policy.check_session_keys(desired, policy.requested_keys(desired) or ())
    assert caught.value.error_no == vector["expected"]["error_no"]


@pytest.mark.parametrize("vector", NEGATIVES, ids=ids)
def test_every_other_parses(vector: Json) -> None:
    """What a key or a clock is needed to refuse: it must get that far."""
    if vector not in MALFORMED:
        raw = bytes.fromhex(vector["bad"])
        assert Message.decode(raw).raw == raw

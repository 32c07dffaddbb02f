"""Every length, flag, type and number of a message of every type, changed systematically: decoded, or refused cleanly.

tests/kms/test_fuzz_roles.py does the same to the engine and the parties.
"""

import tracemalloc

import pytest

from kms.mikey.message import MAX_MESSAGE_LENGTH, Message
from kms.mikey.payloads import (
    Dh,
    GeneralExtension,
    GenericIdSession,
    Hdr,
    Id,
    Kemac,
    KeyData,
    KeyValidity,
    Payload,
    Rand,
    Sign,
    Sp,
    SrtpIdSession,
    SrtpSessionData,
    T,
    V,
)
from kms.mikey.registry import DataType, KeyType, KvType, MacAlg, MapType, TsType
from tests.mikey import vectors
from tests.mikey.fields import all_changes, fields_of
from tests.mikey.test_codec import exercise

STAMP = T(TsType.NTP_UTC, bytes(8))
KEYS = KeyData.write_all(
    [
        KeyData(KeyType.TGK, b"t" * 16),
        KeyData(KeyType.TEK_SALT, b"k" * 16, b"s" * 14, KeyValidity(KvType.SPI, b"\1\2\3\4")),
        KeyData(
            KeyType.TEK, b"k" * 16, kv=KeyValidity(KvType.INTERVAL, valid_from=b"a" * 4, valid_to=b"b" * 4)
        ),
    ]
)


def _plain(kind: DataType, *payloads: Payload) -> bytes:
    streams = (SrtpIdSession(0, 0x11111111, 0), SrtpIdSession(1, 0x22222222, 7))
    return Message.build(Hdr(kind, 1, 0, True, MapType.SRTP_ID, streams), payloads).raw


def examples() -> dict[str, bytes]:
    """Messages of every Data Type: the longest of each in the vectors, and of plain RFC 3830 with what those lack."""
    found = {
        m.name: m.raw for m in sorted(map(Message.decode, vectors.all_messages()), key=lambda m: len(m.raw))
    }
    session = GenericIdSession(1, (0, 1), SrtpSessionData(1, 2, 3).body(), b"\1\2\3\4", True)
    hdr = Hdr(DataType.TRANSFER_RESP, 1, 1, map_type=MapType.GENERIC_ID, sessions=(session, session))
    mac = V(MacAlg.HMAC_SHA_1_160, bytes(20))
    return found | {
        "GENERIC-ID map": Message.build(
            hdr, [STAMP, Kemac(0, KEYS), V(MacAlg.HMAC_SHA_256_256, bytes(32))]
        ).raw,
        "PSK_INIT": _plain(
            DataType.PSK_INIT,
            STAMP,
            Rand(bytes(16)),
            Id(1, b"sip:a@b"),
            Sp(0, 0, ((0, b"\1"), (1, b"\x10"))),
            GeneralExtension(1, b"x"),
            Kemac(0, KEYS),
        ),
        "PSK_RESP": _plain(DataType.PSK_RESP, STAMP, mac),
        "PK_INIT": _plain(DataType.PK_INIT, STAMP, Rand(bytes(16)), Kemac(1, bytes(30)), Sign(0, bytes(64))),
        "PK_RESP": _plain(DataType.PK_RESP, STAMP, Id(1, b"sip:a@b"), mac),
        "DH_INIT": _plain(DataType.DH_INIT, STAMP, Rand(bytes(16)), Dh(1, bytes(96)), Sign(0, bytes(64))),
        "DH_RESP": _plain(
            DataType.DH_RESP,
            STAMP,
            Dh(2, bytes(128), KeyValidity(KvType.SPI, b"12")),
            Sign(1, bytes(64)),
        ),
    }


EXAMPLES = examples()


def test_there_is_an_example_of_every_type() -> None:
    assert {Message.decode(raw).hdr.data_type for raw in EXAMPLES.values()} == set(DataType)


@pytest.mark.parametrize("name", EXAMPLES)
def test_changed_fields(name: str) -> None:
    """`exercise` raises if anything but MikeyError is raised, or if what was decoded does not encode to the same."""
    raw = EXAMPLES[name]
    outcomes = {exercise(changed) for _, changed in all_changes(raw)}
    assert outcomes == {True, False}, (
        "changes of both kinds: those that a decoder accepts, and those that it cannot"
    )


def test_the_fields_that_are_changed() -> None:
    """The decoder's own names, of a message with a ticket in it."""
    names = {field.name.rpartition("> ")[2] for field in fields_of(EXAMPLES["TRANSFER_INIT"])}
    assert names >= {
        "version",
        "Data Type",
        "Next Payload",
        "V and PRF func",
        "CSB ID",
        "#CS",
        "CS ID map type",
        "TS Type",
        "RAND Role",
        "RAND length",
        "ID Role",
        "ID Type",
        "ID Data length",
        "Ticket Type",
        "Subtype",
        "PRF Func and D",
        "flags E to O and Res",
        "TP Data length",
        "Ticket Data length",
        "THDR Data length",
        "Initiator Data length",
        "First Payload",
        "Auth alg",
        "Encr alg",
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_counts_and_lengths_reserve_nothing(name: str) -> None:
    """A huge count or length is found out by what is there, before anything is made for it."""
    huge = [changed for field, changed in all_changes(EXAMPLES[name]) if changed[field.offset] == 0xFF]
    assert huge
    tracemalloc.start()
    try:
        for raw in huge:
            exercise(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * MAX_MESSAGE_LENGTH

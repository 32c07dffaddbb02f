"""Wireshark's own dissector finds nothing malformed in plain RFC 3830 messages, and agrees with kms.mikey on them.

docs/interop.md lists what Wireshark 4.0 does not know, which is left out here.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kms.mikey.message import Message
from kms.mikey.payloads import (
    Dh,
    GeneralExtension,
    Hdr,
    Id,
    Kemac,
    KeyData,
    KeyValidity,
    Payload,
    Pke,
    Rand,
    Sign,
    Sp,
    SrtpIdSession,
    T,
    V,
)
from kms.mikey.registry import DataType, EncrAlg, KeyType, KvType, MacAlg, MapType, TsType
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80
from tests.interop.expected import Line, with_values
from tests.interop.tshark import SCRIPT, SIP_PORT, Frame, capture, dissect, invite

ALICE, BOBBY = b"sip:alice@example.com", b"sip:bobby@example.com"


def _plain(kind: DataType, *items: Payload) -> Message:
    streams = (SrtpIdSession(0, 0x11111111, 0), SrtpIdSession(0, 0x22222222, 7))
    return Message.build(Hdr(kind, 0x12345678, 0, True, MapType.SRTP_ID, streams), items)


STAMP = T(TsType.NTP_UTC, bytes.fromhex("e8fe000180000000"))
RAND = Rand(bytes(range(16)))
SP = AES_CM_128_HMAC_SHA1_80.sp(0)
KEYS = KeyData.write_all(
    [
        KeyData(KeyType.TGK, b"t" * 16),
        KeyData(KeyType.TEK_SALT, b"k" * 16, b"s" * 14, KeyValidity(KvType.SPI, b"\0\0\0\1")),
        KeyData(
            KeyType.TEK, b"k" * 16, kv=KeyValidity(KvType.INTERVAL, valid_from=b"1" * 8, valid_to=b"2" * 8)
        ),
    ]
)
MAC = b"m" * 20
ALICE_ID, BOBBY_ID = Id(1, ALICE), Id(1, BOBBY)
PLAIN = {
    m.name: m
    for m in (
        _plain(
            DataType.PSK_INIT,
            STAMP,
            RAND,
            ALICE_ID,
            BOBBY_ID,
            SP,
            GeneralExtension(1, b"sdp ids"),
            Kemac(0, KEYS, MacAlg.HMAC_SHA_1_160, MAC),
        ),
        _plain(DataType.PSK_RESP, STAMP, BOBBY_ID, V(MacAlg.HMAC_SHA_1_160, MAC)),
        _plain(
            DataType.PK_INIT,
            STAMP,
            RAND,
            ALICE_ID,
            SP,
            Kemac(1, b"x" * 40, MacAlg.HMAC_SHA_1_160, MAC),
            Pke(b"e" * 256, 1),
            Sign(0, b"s" * 256),
        ),
        _plain(DataType.PK_RESP, STAMP, BOBBY_ID, V(MacAlg.HMAC_SHA_1_160, MAC)),
        _plain(DataType.DH_INIT, STAMP, RAND, ALICE_ID, SP, Dh(1, b"d" * 96), Sign(0, b"s" * 256)),
        _plain(DataType.DH_RESP, STAMP, BOBBY_ID, Dh(1, b"d" * 96), Dh(1, b"e" * 96), Sign(0, b"s" * 128)),
    )
}


def in_short(message: Message) -> list[Line]:
    """A plain message under the names of Wireshark's own fields, as far as it shows them all."""
    hdr = message.hdr
    lines: list[Line] = [
        ("type", int(hdr.data_type)),
        ("prf_func", hdr.prf),
        ("csb_id", hdr.csb_id),
        ("cs_count", hdr.cs_count),
        ("cs_id_map_type", int(hdr.map_type)),
    ]
    for session in hdr.sessions:
        assert isinstance(session, SrtpIdSession)
        lines += [
            ("srtp_id.policy_no", session.policy_no),
            ("srtp_id.ssrc", session.ssrc),
            ("srtp_id.roc", session.roc),
        ]
    for payload in message.payloads:
        heading, read = _SHORT[type(payload)]
        lines += [(heading, None), *read(payload)]
    return lines


def _kemac(p: Kemac) -> list[Line]:
    inside: list[Line] = [("kemac.key_data", p.encr_data.hex())]
    if p.encr_alg == EncrAlg.NULL:
        first, *_ = KeyData.read_all(p.encr_data)  # Wireshark 4.0 shows no more than one
        inside = [("key.type", int(first.key_type)), ("key.data", first.key.hex())]
    return [
        ("kemac.encr_alg", p.encr_alg),
        *inside,
        ("kemac.mac_alg", int(p.mac_alg)),
        ("kemac.mac", p.mac.hex()),
    ]


def _sp(p: Sp) -> list[Line]:
    lines: list[Line] = [("sp.no", p.policy_no), ("sp.proto_type", p.prot_type)]
    for kind, value in p.params:
        lines += [("sp.param.type", kind), ("sp.patam.value", value.hex())]  # Wireshark's spelling
    return lines


_SHORT: dict[type[Payload], tuple[str, Callable[[Any], list[Line]]]] = {
    T: ("t", lambda p: [("t.ts_type", int(p.ts_type)), ("t.ntp", p.value.hex())]),
    Rand: ("rand", lambda p: [("rand.data", p.rand.hex())]),
    Id: ("id", lambda p: [("id.type", p.id_type), ("id.data", p.data.hex())]),
    Sp: ("sp", _sp),
    Kemac: ("kemac", _kemac),
    V: ("v", lambda p: [("v.auth_alg", int(p.auth_alg)), ("v.ver_data", p.mac.hex())]),
    Pke: ("pke", lambda p: [("pke.c", p.cache), ("pke.data", p.data.hex())]),
    Sign: ("sign", lambda p: [("sign.type", p.s_type), ("sign.data", p.signature.hex())]),
    Dh: ("dh", lambda p: [("dh.group", p.group), ("dh.value", p.value.hex())]),
    GeneralExtension: ("ext", lambda p: [("ext.type", p.ext_type), ("ext.value", p.data.hex())]),
}


def shown_by_wireshark(frame: Frame, expected: list[Line]) -> list[Line]:
    """What Wireshark's own dissector shows, less the fields that `in_short` leaves out."""
    names = {f"mikey.{name}" for name, _ in expected}
    kept = [replace(f, name=f.name.removeprefix("mikey.")) for f in frame.fields if f.name in names]
    return with_values(kept, expected)


@pytest.mark.parametrize("script", [SCRIPT, None], ids=["with our dissector", "without"])
def test_plain_messages(tmp_path: Path, script: Path | None) -> None:
    frames = dissect(capture([m.raw for m in PLAIN.values()]), tmp_path, script=script)
    for message, frame in zip(PLAIN.values(), frames, strict=True):
        assert frame.marks == (), message.name
        assert "mikey" in frame.protocols
        expected = in_short(message)
        assert shown_by_wireshark(frame, expected) == expected


def test_a_plain_message_in_sip(tmp_path: Path) -> None:
    message = PLAIN["PSK_INIT"]
    (frame,) = dissect(capture([invite(message.raw)], SIP_PORT), tmp_path, script=None)
    assert {"sip", "sdp", "mikey"} <= set(frame.protocols)
    expected = in_short(message)
    assert shown_by_wireshark(frame, expected) == expected

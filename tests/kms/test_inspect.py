"""`kms inspect`: every form of input, every vector, the derived ticket, errors, and no key bytes."""

import base64
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings

from kms.cli.inspect import detect, inspect, inspect_command, read_input, render
from kms.mikey import sdp, timestamps
from kms.mikey.errors import DecodeError
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import (
    Flags,
    Hdr,
    Idr,
    InitiatorData,
    Kemac,
    KeyData,
    Rand,
    Ticket,
    TicketPolicy,
    Tp,
    V,
    with_spi,
)
from kms.mikey.policy import FORKED_MODE_1, tp_data
from kms.mikey.registry import DataType, EncrAlg, IdRole, KeyType, MacAlg, PrfFunc
from kms.mikey.ticket_data import DERIVED_TICKET, KeyEntry, TicketData, write_key_list
from tests.mikey import strategies, vectors

FORKED = next(e for e in vectors.exchanges() if e["name"] == "psk256-forked")
REQUEST, RESPONSE, TRANSFER, RESOLVE = (bytes.fromhex(m["hex"]) for m in FORKED["messages"][:4])
SECRET = bytes(range(0x40, 0x60))


def run(capsys: pytest.CaptureFixture[str], file: Path | str, as_json: bool = False) -> tuple[int, str, str]:
    code = inspect_command(file, as_json=as_json)
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize(
    "text",
    [
        TRANSFER,
        TRANSFER.hex().encode(),
        TRANSFER.hex(" ").upper().encode() + b"\n",
        b"0x" + TRANSFER.hex(":").encode(),
        base64.b64encode(TRANSFER),
        base64.encodebytes(TRANSFER).replace(b"\n", b"\r\n"),
        sdp.key_mgmt_line(TRANSFER).encode(),
        b"a=key-mgmt: mikey " + base64.b64encode(TRANSFER),
        b"key-mgmt:mikey " + base64.b64encode(TRANSFER) + b"\n",
        "v=0\r\ns=Größe\r\na=key-mgmt:other abc\r\n".encode()
        + sdp.key_mgmt_line(TRANSFER).encode()
        + b"\r\n",
    ],
    ids=["binary", "hex", "spaced-hex", "colons", "base64", "lines", "attribute", "space", "bare", "sdp"],
)
def test_every_form_of_input(text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "message"
    file.write_bytes(text)
    assert read_input(file) == [TRANSFER]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert read_input("-") == [TRANSFER]


def test_sdp_with_two_messages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "offer.sdp"
    lines = ["v=0", sdp.key_mgmt_line(TRANSFER), "m=audio 9 RTP/SAVP 0", sdp.key_mgmt_line(REQUEST)]
    file.write_text("\r\n".join(lines))
    code, out, _ = run(capsys, file, as_json=True)
    kinds = [m["parts"][0]["Data Type"] for m in json.loads(out)["messages"]]
    assert (code, kinds) == (0, ["TRANSFER_INIT (14)", "REQUEST_INIT_PSK (11)"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b" \n", "input: it is empty (offset 0)"),
        (b"hello world!", "input: it is neither binary, hex, base64 nor SDP"),
        (b"v=0\r\ns=-\r\n", "SDP: there is no a=key-mgmt:mikey line"),
        (b"a=key-mgmt:mikey AQ*=", "SDP: the key-mgmt data is not base64 (offset 17)"),
        (bytes(600_000), "input: more than 524288 bytes"),
    ],
)
def test_what_is_no_message(
    data: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "message"
    file.write_bytes(data)
    code, out, err = run(capsys, file)
    assert (code, out) == (1, "")
    assert reason in err
    assert err.count("\n") == 1


def test_no_such_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for missing in (tmp_path / "none", tmp_path):
        code, out, err = run(capsys, missing)
        assert (code, out) == (2, "")
        assert str(missing) in err


@pytest.mark.parametrize("raw", vectors.all_messages(), ids=lambda raw: Message.decode(raw).name)
def test_every_vector_whole(raw: bytes) -> None:
    result = inspect(raw)
    assert not result.errors
    message = Message.decode(raw)
    assert len(result.parts) == 1 + len(message.payloads)
    ends = [part.offset + part.length for part in result.parts]
    assert [part.offset for part in result.parts] == [0, *ends[:-1]]
    assert ends[-1] == len(raw)
    json.dumps(result.as_dict())
    assert message.name in render(raw)


def test_tree_of_a_request() -> None:
    text = render(REQUEST)
    for line in (
        "MIKEY message  REQUEST_INIT_PSK (11)",
        "HDR  offset 0, 10 bytes",
        "PRF func: PRF_HMAC_SHA_256 (1)",
        "TS Value: 2023-11-14 22:13:20.000000 UTC",
        "IDRi  offset",
        "ID Data: sip:alice@example.com",
        "I: key forking is used",
        "TRs  offset",
        "TS Value: 2023-11-14 21:13:20 UTC",
        "Type TGK_SALT (1), length 32, salt length 14, SPI 00000002, bytes all zero",
        "Ver data: ",
    ):
        assert line in text
    assert "K: the KMS changed" not in text


def test_offsets_of_nested_parts_are_absolute() -> None:
    def walk(parts: list[dict[str, object]]) -> None:
        for part in parts:
            offset, length = part["offset"], part["length"]
            assert isinstance(offset, int)
            assert isinstance(length, int)
            raw = RESOLVE[offset : offset + length]
            for name in ("Ver data", "RAND"):
                if name in part:
                    assert raw.endswith(bytes.fromhex(str(part[name])))
            if "ID Data" in part:
                assert raw.endswith(str(part["ID Data"]).encode())
            seen.append(part["name"])
            inner = part.get("parts", [])
            assert isinstance(inner, list)
            walk(inner)

    seen: list[object] = []
    walk(inspect(RESOLVE).as_dict()["parts"])
    for name in ("TP Data", "IDRkms", "Ticket Data", "THDR", "RAND", "KEMAC", "Initiator Data", "Vi", "Vr"):
        assert name in seen


def test_session_map_and_policies() -> None:
    response = bytes.fromhex(FORKED["messages"][5]["hex"])
    text = render(response)
    assert (
        "CS ID 2, Prot type SRTP (0), Ps 0, Session Data (SSRC 0x05060708, ROC 1, SEQ 65535), SPI 00000001"
        in text
    )
    assert "AUTH_TAG_LEN (11): 10" in render(TRANSFER)


def derived_ticket() -> Ticket:
    keys = [KeyEntry(KeyType.MPK, 32, 0, b"\1"), KeyEntry(KeyType.TGK_SALT, 16, 14, b"\0\0\0\2")]
    stamp = timestamps.ntp_utc(1_700_000_000)
    epoch = Idr(IdRole.PSK, 2, b"\xff\0epoch")
    data = TicketData(
        write_key_list(keys), (stamp, Rand(bytes(32)), epoch, unsigned_v(MacAlg.HMAC_SHA_256_256))
    )
    granted = tp_data(
        kms=b"sip:kms@example.com", initiator=b"sip:a@example.com", responders=[b"sip:b@example.com"]
    )
    policy = TicketPolicy(*DERIVED_TICKET, PrfFunc.PRF_HMAC_SHA_256, FORKED_MODE_1, granted)
    v = V(MacAlg.HMAC_SHA_256_256, bytes(32))
    return Ticket(policy, data.encode(), InitiatorData(v, v).encode())


def message_with(*payloads: Ticket | Tp | Kemac | KeyData | Idr) -> bytes:
    hdr = Hdr(DataType.RESOLVE_INIT_PSK, 7, PrfFunc.PRF_HMAC_SHA_256, v=True)
    return Message.build(hdr, payloads).raw


def test_derived_ticket() -> None:
    text = render(message_with(derived_ticket()))
    assert "Ticket Type: DERIVED (61440)" in text
    assert "keys 0: Type MPK (6), length 32, salt length 0, SPI 01" in text
    assert "keys 1: Type TGK_SALT (1), length 16, salt length 14, SPI 00000002" in text
    assert "ID Data: ff0065706f6368" in text


def test_opaque_ticket_and_control_characters() -> None:
    ticket = derived_ticket()
    policy = TicketPolicy(2, 1, 1, 0, Flags(0), ticket.policy.tp_data)
    text = render(
        message_with(Ticket(policy, b"\1\2\3"), Idr(1, 1, b"a\x1b[31m[bold]"), Idr(1, 1, b"[bold]"))
    )
    assert "Ticket Type: TGPP_BASE (2)" in text
    assert "opaque: the Ticket Type is unknown" in text
    assert "\x1b" not in text
    assert "ID Data: [bold]" in text
    assert "flags: none" in text


def test_key_bytes_are_never_shown() -> None:
    key = with_spi(KeyType.TGK_SALT, SECRET, SECRET[:14], b"\7")
    plain = Kemac(EncrAlg.NULL, KeyData.write_all([key]))
    policy = derived_ticket().policy
    desired = Tp(TicketPolicy(*DERIVED_TICKET, 1, policy.flags, (*policy.tp_data, plain)))
    raw = message_with(desired, plain, key)
    shown = render(raw) + json.dumps(inspect(raw).as_dict())
    assert shown.count("not shown") == 6
    for secret in (SECRET, SECRET[:14]):
        assert secret.hex() not in shown
        assert secret.decode() not in shown
        assert base64.b64encode(secret).decode() not in shown


def test_what_decodes_is_shown_up_to_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "message"
    file.write_bytes(RESOLVE[:200])
    code, out, _ = run(capsys, file)
    assert code == 1
    assert "IDRr  offset" in out
    assert "error: message > TICKET" in out

    code, out, _ = run(capsys, file, as_json=True)
    (decoded,) = json.loads(out)["messages"]
    assert code == 1
    assert [part["name"] for part in decoded["parts"]][:2] == ["HDR", "T"]
    (error,) = decoded["errors"]
    assert error["error"].startswith("message > TICKET")
    assert error["error_no"] == "UNSPECIFIED (12)"


def test_an_error_in_a_ticket_leaves_the_rest() -> None:
    ticket = derived_ticket()
    broken = Ticket(ticket.policy, ticket.ticket_data[:-1], ticket.initiator_data[:-1])
    result = inspect(message_with(broken, Idr(1, 1, b"sip:last@example.com")))
    assert [str(e).split(":")[0] for e in result.errors] == ["Ticket Data > V", "Initiator Data > V"]
    assert result.parts[-1].fields["ID Data"] == "sip:last@example.com"


def test_blocks_nested_without_end() -> None:
    policy = derived_ticket().policy
    ticket = Ticket(policy, b"")
    for _ in range(1000):
        if len(ticket.body()) > 60_000:
            break
        ticket = Ticket(policy, b"", bytes((ticket.TYPE, 0)) + ticket.body())
    assert any("nested" in str(e) for e in inspect(message_with(ticket)).errors)


@settings(max_examples=50)
@given(strategies.messages())
def test_any_message(message: Message) -> None:
    result = inspect(message.raw)
    assert len(result.parts) == 1 + len(message.payloads)
    assert render(message.raw)


def test_every_truncation() -> None:
    for raw in (REQUEST, RESPONSE, TRANSFER, RESOLVE):
        for length in range(len(raw)):
            result = inspect(raw[:length])
            assert result.errors
            json.dumps(result.as_dict())


def test_detect_refuses_nothing_that_is_binary() -> None:
    assert detect(b"\x01") == [b"\x01"]
    assert detect(b"\xff\xfe") == [b"\xff\xfe"]
    with pytest.raises(DecodeError):
        detect(b"")

"""`kms inspect --credential`: a whole exchange examined message by message, from either side, and what is broken."""

import json
from pathlib import Path
from typing import Any

import pytest

from kms.cli.inspect import inspect_command
from tests.mikey import vectors

FORKED = next(e for e in vectors.exchanges() if e["name"] == "psk256-forked")
GROUP = next(e for e in vectors.exchanges() if e["name"] == "psk128-focus-group-key")
PEM = "-----BEGIN CERTIFICATE-----\nunused\n-----END CERTIFICATE-----\n"


def credential(exchange: dict[str, Any], identity: str, folder: Path) -> Path:
    entry = exchange["config"]["psk"][identity]
    file = folder / "credential.json"
    file.write_text(
        json.dumps(
            {
                "identity": identity,
                "kms_identity": bytes.fromhex(exchange["config"]["kms_id"]).decode(),
                "target": "127.0.0.1:1",
                "role": "client",
                "suite": exchange["config"]["suite"]["size"] * 8,
                **entry,
                **dict.fromkeys(("ca_cert", "tls_cert", "tls_key"), PEM),
            }
        )
    )
    file.chmod(0o600)
    return file


def examine(
    exchange: dict[str, Any],
    picked: list[int],
    identity: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> tuple[int, list[list[str]]]:
    files = []
    for i in picked:
        files.append(folder / f"{i}.hex")
        files[-1].write_text(exchange["messages"][i]["hex"])
    code = inspect_command(*files, as_json=True, credential=credential(exchange, identity, folder))
    out = capsys.readouterr().out
    return code, [[f"{f['level']}: {f['text']}" for f in m["findings"]] for m in json.loads(out)["messages"]]


def test_the_initiator_can_check_every_message_it_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = examine(FORKED, [0, 1, 2, 5], "sip:alice@example.com", tmp_path, capsys)
    assert code == 0
    for name, findings in zip(
        ("REQUEST_INIT_PSK", "REQUEST_RESP", "TRANSFER_INIT", "TRANSFER_RESP"), found, strict=True
    ):
        assert f"ok: the MAC of {name} verifies" in findings
        assert "ok: payloads and policy keep the rules of RFC 6043" in findings
    assert {"ok: Vi is V", "ok: Vr verifies"} <= set(found[2])
    assert any("MPK of 32 bytes" in f for f in found[1])


def test_the_responder_can_check_what_it_sees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = examine(FORKED, [3, 4, 2, 5], "sip:bob@example.com", tmp_path, capsys)
    assert code == 0
    assert all(any("MAC of" in f for f in findings) for findings in found)
    assert "note: MPKr is not known: Vr cannot be verified" in found[2]


def test_the_focus_opens_the_group_key_that_it_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = examine(GROUP, [3 + 6, 4 + 6, 2 + 6, 5 + 6], "sip:conf-focus@example.com", tmp_path, capsys)
    assert code == 0
    assert any("GTGK" in f for f in found[3])


def test_no_key_byte_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for i in (0, 1):
        files.append(tmp_path / f"{i}.hex")
        files[-1].write_text(FORKED["messages"][i]["hex"])
    inspect_command(*files, as_json=False, credential=credential(FORKED, "sip:alice@example.com", tmp_path))
    shown = capsys.readouterr().out
    keys = {call["inkey"] for call in FORKED["prf_calls"]} | {call["outkey"] for call in FORKED["prf_calls"]}
    assert not [key for key in keys if len(key) >= 32 and key in shown]


@pytest.mark.parametrize("place", [15, 40, -1])
def test_a_changed_message_has_a_wrong_mac(
    place: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = bytearray.fromhex(FORKED["messages"][0]["hex"])
    raw[place] ^= 1
    broken = {**FORKED, "messages": [{"hex": raw.hex()}]}
    code, found = examine(broken, [0], "sip:alice@example.com", tmp_path, capsys)
    assert code == 1
    assert "error: the MAC in V of REQUEST_INIT_PSK does not verify" in found[0]


def test_rules_are_checked_without_a_credential(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = next(n for n in vectors.load("negatives")["negatives"] if n["name"] == "TP-flags-DEHM")
    file = tmp_path / "bad.hex"
    file.write_text(bad["bad"])
    assert inspect_command(file, as_json=False) == 1
    assert "M implies F" in capsys.readouterr().out


def test_a_credential_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.hex"
    file.write_text(FORKED["messages"][0]["hex"])
    assert inspect_command(file, as_json=False, credential=tmp_path / "none.json") == 2
    assert "cannot be read" in capsys.readouterr().err

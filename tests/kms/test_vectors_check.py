"""`kms vectors check`: every vector in every role; what must fail does; nothing that is fed to it crashes it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kms.cli.errors import CommandError
from kms.cli.vectors.check import CHECKS, VectorFile, check_command
from kms.cli.vectors.entries import Json
from kms.cli.vectors.report import Result, Verdict
from kms.mikey.message import Message
from kms.mikey.registry import ErrorNo

FOLDER = Path(__file__).parent.parent / "vectors"
FILES = sorted(FOLDER.glob("*.json"))
PLAYED = [
    pytest.param(key, entry, id=f"{file.stem}-{entry['name']}")
    for file in FILES
    for key, entries in VectorFile.load(file).entries.items()
    if key in ("exchanges", "negatives")
    for entry in entries
]


def entries(name: str, key: str) -> list[Json]:
    return copy.deepcopy(VectorFile.load(FOLDER / f"{name}.json").entries[key])


def exchange(name: str) -> Json:
    return next(e for e in entries("exchanges", "exchanges") if e["name"] == name)


def forwarding(name: str) -> Json:
    return next(e for e in entries("forwarding-exchanges", "exchanges") if e["name"] == name)


def negative(name: str) -> Json:
    return next(n for n in entries("negatives", "negatives") if n["name"] == name)


def failed(results: Iterator[Result]) -> list[Result]:
    return [r for r in results if r.verdict is Verdict.FAIL]


def flip(text: str, offset: int) -> str:
    raw = bytearray.fromhex(text)
    raw[offset] ^= 1
    return raw.hex()


# -- the vectors of this folder --------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "entry"), PLAYED)
def test_exchanges_and_negatives(key: str, entry: Json) -> None:
    results = list(CHECKS[key]([entry]))
    assert not failed(iter(results))
    if key == "negatives":
        assert [r.verdict for r in results] == [Verdict.REFUSED]
        # Which number is not normative (A-20), but ours are the vectors' wherever a party or a parser decides.
        assert "not normative" not in results[0].detail or entry["target"] == "KMS"
    else:
        asks = any(m["name"] in ("REQUEST_INIT", "RESOLVE_INIT") for m in entry["messages"])
        called = any(m["name"] == "TRANSFER_INIT" for m in entry["messages"])
        expected = {
            "codec",
            "derivations",
            "Initiator",
            *(["Responder"] if called else []),
            *(["KMS"] if asks else []),
            *(["KMS R"] if "kms_r" in entry["config"] else []),
        }
        assert {r.role for r in results} == expected


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_primitives_and_payloads(file: Path) -> None:
    found = VectorFile.load(file).entries
    for key in found.keys() - {"exchanges", "negatives"}:
        results = list(CHECKS[key](found[key]))
        assert len(results) == len(found[key])
        assert not failed(iter(results))


# -- what must fail --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("prf", "outkey"),
        ("prf", "label"),
        ("derivations", "label"),
        ("derivations", "outkey"),
        ("algorithms", "iv"),
        ("algorithms", "encr_data"),
        ("algorithms", "mac"),
    ],
)
def test_a_wrong_primitive_fails(key: str, field: str) -> None:
    entry = next(e for e in entries("primitives", key) if field in e)
    entry[field] = flip(entry[field], -1)
    (result,) = failed(CHECKS[key]([entry]))
    assert "expected" in (result.difference or {})


def test_a_wrong_payload_field_fails() -> None:
    for entry in entries("payloads", "payloads"):
        name = next((n for n in ("data", "value", "rand", "signature", "hash", "key") if entry.get(n)), None)
        if name is not None:
            entry[name] = flip(entry[name], 0)
            assert failed(CHECKS["payloads"]([entry])), entry["payload"]


def test_a_wrong_error_mac_fails() -> None:
    entry = next(e for e in entries("payloads", "errors") if e["auth_key"])
    entry["auth_key"] = flip(entry["auth_key"], 0)
    assert failed(CHECKS["errors"]([entry]))


@pytest.mark.parametrize(
    ("index", "role", "field"),
    [
        (0, "Initiator", "V"),
        (1, "KMS", "V"),
        (2, "Initiator", "V"),
        (3, "Responder", "V"),
        (4, "KMS", "V"),
        (5, "Responder", "V"),
    ],
)
def test_a_wrong_mac_fails_its_sender(index: int, role: str, field: str) -> None:
    entry = exchange("psk256-forked")
    entry["messages"][index]["hex"] = flip(entry["messages"][index]["hex"], -1)
    results = {r.role: r for r in CHECKS["exchanges"]([entry])}
    assert results[role].verdict is Verdict.FAIL
    difference = results[role].difference or {}
    assert (difference["where"].split()[1], difference["field"].split(" > ")[-1]) == (str(index), field)


def test_the_first_difference_names_message_offset_and_field() -> None:
    entry = exchange("psk256-forked")
    raw = bytes.fromhex(entry["messages"][5]["hex"])
    entry["messages"][5]["hex"] = flip(raw.hex(), len(raw) - 32)
    result = next(r for r in CHECKS["exchanges"]([entry]) if r.role == "Responder")
    assert result.detail.startswith(
        f"message 5 TRANSFER_RESP: first difference at byte {len(raw) - 32} (V): expected "
    )
    assert result.difference is not None
    assert result.difference["offset"] == len(raw) - 32
    assert bytes.fromhex(result.difference["got"]) == raw


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["keys"][0].update(key=flip(s["keys"][0]["key"], 0)),
        lambda s: s["srtp"]["1"].update(tek=flip(s["srtp"]["1"]["tek"], 0)),
        lambda s: s.update(flags="DEF"),
        lambda s: s.update(identity_r="00"),
        lambda s: s.update(csb_id=1),
        lambda s: s["keys"].pop(),
    ],
)
def test_a_wrong_session_fails(change: Any) -> None:
    entry = exchange("psk256-forked")
    change(entry["sessions"][1])
    assert [r.role for r in failed(CHECKS["exchanges"]([entry]))] == ["Responder"]


def test_a_session_too_many_fails() -> None:
    entry = exchange("psk256-forked")
    entry["sessions"].pop()
    assert [r.role for r in failed(CHECKS["exchanges"]([entry]))] == ["Responder"]


def test_a_good_message_is_no_negative() -> None:
    entry = negative("REQUEST_INIT-wrong-PSK")
    good = exchange("psk128-forked")
    entry |= {"config": good["config"], "bad": good["messages"][0]["hex"], "rule": "none at all"}
    (result,) = failed(CHECKS["negatives"]([entry]))
    assert result.detail.startswith("accepted; it breaks: none at all")


@pytest.mark.parametrize(("target", "index"), [("Initiator", 5), ("Responder", 4), ("KMS", 3)])
def test_a_good_message_after_its_context_is_accepted(target: str, index: int) -> None:
    good = exchange("psk256-forked")
    entry = {
        "name": "good",
        "target": target,
        "rule": "-",
        "config": good["config"],
        "clock_unix": good["messages"][index]["unix_time"],
        "context": good["messages"][:index],
        "bad": good["messages"][index]["hex"],
        "expected": {"outcome": "accept"},
    }
    assert [r.verdict for r in CHECKS["negatives"]([entry])] == [Verdict.PASS]


def test_a_context_that_does_not_go_through_is_no_refusal() -> None:
    entry = negative("TRANSFER_RESP-V-tampered-128")
    entry["context"][1]["hex"] = flip(entry["context"][1]["hex"], -1)
    (result,) = failed(CHECKS["negatives"]([entry]))
    assert "context does not go through" in result.detail


def test_a_replay_is_one_only_after_its_first_copy() -> None:
    entry = negative("REQUEST_INIT-replay")
    entry["context"] = []
    assert failed(CHECKS["negatives"]([entry]))


# -- two KMSs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "failing"),
    [
        (3, {"Responder", "KMS R"}),
        (4, {"KMS R", "KMS"}),
        (5, {"KMS", "KMS R"}),
        (6, {"KMS R", "Responder"}),
        (7, {"Responder", "Initiator"}),
    ],
)
def test_a_wrong_mac_fails_its_sender_and_its_receiver(index: int, failing: set[str]) -> None:
    entry = forwarding("psk256-forwarded-derived-forked")
    entry["messages"][index]["hex"] = flip(entry["messages"][index]["hex"], -1)
    roles = {r.role for r in failed(CHECKS["exchanges"]([entry]))}
    assert roles == {"codec", *failing}


def test_the_error_no_is_passed_on_by_kms_r() -> None:
    entry = forwarding("psk256-forwarded-refused")
    between, passed_on = (Message.decode(bytes.fromhex(m["hex"])) for m in entry["messages"][-2:])
    assert between.error_numbers == passed_on.error_numbers != (ErrorNo.UNSPECIFIED,)
    assert between.hdr.csb_id != passed_on.hdr.csb_id
    entry["messages"][-1]["hex"] = flip(entry["messages"][-1]["hex"], -1)
    assert {r.role for r in failed(CHECKS["exchanges"]([entry]))} == {"codec", "KMS R"}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda kms_r: kms_r.pop("kms_id"), "config.kms_r.kms_id is missing"),
        (lambda kms_r: kms_r.update(peers={}), "config.kms_r.peers has no PSK for sip:kms@example.com"),
        (lambda kms_r: kms_r["peers"].popitem()[1].pop("psk"), "config.kms_r.peers"),
    ],
)
def test_a_broken_kms_r(change: Any, complaint: str) -> None:
    entry = forwarding("psk256-forwarded-derived-forked")
    change(entry["config"]["kms_r"])
    assert any(complaint in r.detail for r in failed(CHECKS["exchanges"]([entry])))


def test_another_psk_between_the_kmss_fails_both() -> None:
    entry = forwarding("psk256-forwarded-derived-forked")
    (peer,) = entry["config"]["kms_r"]["peers"].values()
    peer["psk"] = flip(peer["psk"], 0)
    assert {r.role for r in failed(CHECKS["exchanges"]([entry]))} == {"KMS", "KMS R"}


def test_what_was_not_forwarded_fails() -> None:
    entry = forwarding("psk256-forwarded-derived-forked")
    del entry["messages"][4:6], entry["sessions"]
    (result,) = failed(CHECKS["exchanges"]([entry]))
    assert result.role == "KMS R"
    assert "another KMS's, which was not asked" in result.detail


def test_negatives_have_one_kms() -> None:
    entry = negative("Vr-tampered")
    entry["config"]["kms_r"] = forwarding("psk256-forwarded-refused")["config"]["kms_r"]
    (result,) = failed(CHECKS["negatives"]([entry]))
    assert "only exchanges are played with two KMSs" in result.detail


# -- what may be different -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "role"),
    [("psk256-derived-refused-by-KMS", "KMS"), ("psk256-derived-refused-by-Responder", "Responder")],
)
def test_error_messages_are_compared(name: str, role: str) -> None:
    entry = next(e for e in entries("derived-exchanges", "exchanges") if e["name"] == name)
    assert not failed(CHECKS["exchanges"]([entry]))
    entry["messages"][-1]["hex"] = flip(entry["messages"][-1]["hex"], -1)
    assert role in [r.role for r in failed(CHECKS["exchanges"]([entry]))]


def test_unknown_members_are_ignored() -> None:
    entry = exchange("psk256-forked")
    entry["remark"] = entry["config"]["remark"] = entry["config"]["suite"]["remark"] = {"x": None}
    for message in entry["messages"]:
        message["remark"] = message["decoded"]["remark"] = [1]
    entry["config"]["psk"]["sip:alice@example.com"]["remark"] = 1
    entry["sessions"][0]["remark"] = True
    assert not failed(CHECKS["exchanges"]([entry]))


def test_less_is_enough() -> None:
    entry = exchange("psk256-forked")
    for name in ("sessions", "prf_calls"):
        del entry[name]
    for message in entry["messages"]:
        del message["decoded"], message["unix_time"], message["lint"]
    del entry["config"]["suite"], entry["config"]["clock_unix"]
    assert not failed(CHECKS["exchanges"]([entry]))


def test_only_a_request() -> None:
    entry = exchange("psk256-forked")
    entry["messages"], entry["sessions"] = entry["messages"][:2], []
    results = {r.role: r.verdict for r in CHECKS["exchanges"]([entry])}
    assert results.keys() == {"codec", "derivations", "Initiator", "KMS"}
    assert set(results.values()) == {Verdict.PASS}


# -- the command -----------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *files: Path) -> tuple[int, Json]:
    code = check_command(files, as_json=True)
    return code, json.loads(capsys.readouterr().out)


def test_json_report(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    good = exchange("psk256-forked")
    bad = copy.deepcopy(good) | {"name": "bad"}
    bad["messages"][5]["hex"] = flip(bad["messages"][5]["hex"], -1)
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"exchanges": [good, bad], "negatives": [negative("malformed-map-type-9")]}))
    code, report = run(capsys, file, FOLDER / "payloads.json")
    assert code == 1
    assert report["totals"] == {"pass": 5 + 2 + 60, "fail": 3, "refused-as-expected": 1}
    first = report["files"][0]
    assert first["file"] == str(file)
    assert {tuple(r) for r in first["results"]} == {
        ("kind", "name", "role", "verdict", "detail", "difference")
    }
    assert [r["name"] for r in first["results"] if r["verdict"] == "fail"] == ["bad"] * 3


def test_table_and_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_command([FOLDER / "payloads.json"], as_json=False) == 0
    out = capsys.readouterr().out
    assert "payloads[0] KEMAC" in out
    assert "60 pass, 0 fail, 0 refused-as-expected" in out


def test_a_hostile_name_is_printed_as_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    names = ["\ud800\n\x1b[31m[red]", "x" * 5000]
    file.write_text(json.dumps({"negatives": [{"name": n, "target": n} for n in names]}))
    assert check_command([file], as_json=False) == 1
    out = capsys.readouterr().out
    assert "??" in out
    assert "[31m[red]" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot be read: No such file"),
        ("{", "not JSON"),
        ("\xff\xfe", "not JSON"),
        ("[]", "not a vector file"),
        ('{"vectors": []}', "not a vector file"),
        ('{"prf": {}}', "prf must be a list"),
        ('{"prf": [], "errors": []}', "there is no vector in it"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_no_vector_file(content: str | None, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    if content is not None:
        file.write_bytes(content.encode("latin-1"))
    with pytest.raises(CommandError, match=complaint) as error:
        check_command([FOLDER / "payloads.json", file], as_json=True)
    assert str(error.value).startswith(str(file))


# -- hostile files ---------------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 2**31, 2**70, 1e308, "", "zz", "00", "\ud800", [], {}, [[]], ["00"], {"a": {}}]),
)
SEEDS = [
    ("prf", entries("primitives", "prf")[0]),
    ("derivations", entries("primitives", "derivations")[2]),
    ("algorithms", entries("primitives", "algorithms")[0]),
    ("errors", entries("payloads", "errors")[1]),
    ("exchanges", exchange("psk128-ts-ntp")),
    ("exchanges", exchange("psk128-csb-update-and-reuse")),
    ("exchanges", exchange("pk128-forked")),
    ("exchanges", forwarding("psk128-forwarded-derived-forked")),
    ("negatives", negative("Vr-tampered")),
    ("negatives", negative("TRANSFER_RESP-V-tampered-128")),
    ("negatives", negative("Vi-not-identical-to-V")),
    ("negatives", negative("malformed-map-type-9")),
    *(("payloads", entry) for entry in entries("payloads", "payloads")[::5]),
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) inside a value."""
    found: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *places(value[key])]
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_broken_vector_is_a_failure_and_no_crash(data: st.DataObject) -> None:
    key, seed = data.draw(st.sampled_from(SEEDS))
    entry = copy.deepcopy(seed)
    for _ in range(data.draw(st.integers(1, 3))):
        container, name = data.draw(st.sampled_from(places(entry)))
        value = container[name]
        if isinstance(value, str) and value and data.draw(st.booleans()):
            cut = data.draw(st.integers(0, len(value)))
            container[name] = data.draw(
                st.sampled_from([value[:cut], value + "00", value[:cut] + "f" + value[cut + 1 :]])
            )
        elif isinstance(container, dict) and data.draw(st.booleans()):
            del container[name]
        else:
            container[name] = copy.deepcopy(data.draw(JUNK))  # the next change may be inside it
        if not places(entry):
            break
    results = list(CHECKS[key]([entry]))
    assert results
    assert all("\n" not in r.detail for r in results)
    json.dumps([r.as_dict() for r in results])


@settings(max_examples=60, deadline=None)
@given(
    entry=JUNK
    | st.dictionaries(st.sampled_from(["name", "config", "messages", "bad", "target", "hex", "type"]), JUNK)
)
def test_junk_entries(entry: Any) -> None:
    for key in CHECKS:
        results = list(VectorFile(Path("x"), {key: [entry]}).check())
        # An empty `bad` is refused, as it must be.
        assert any(r.verdict is not Verdict.PASS for r in results)

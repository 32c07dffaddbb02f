"""`kms vectors write`: the committed files are what it makes, and what they say is what docs/ticket-type.md says."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from kms.cli.errors import CommandError
from kms.cli.vectors.check import VectorFile
from kms.cli.vectors.entries import Json
from kms.cli.vectors.negatives import check_negatives
from kms.cli.vectors.report import Verdict
from kms.cli.vectors.write import SEED, contents, write_command

FOLDER = Path(__file__).parent.parent / "vectors"
OWN = VectorFile.load(FOLDER / "derived-primitives.json").entries["own_derivations"]
NEGATIVES = VectorFile.load(FOLDER / "derived-negatives.json").entries["negatives"]


def test_the_committed_files_are_reproduced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_command(tmp_path / "new" / "folder", seed=SEED) == 0
    made = sorted((tmp_path / "new" / "folder").iterdir())
    assert sorted(capsys.readouterr().out.split()) == [str(f) for f in made]
    committed = (*FOLDER.glob("derived-*.json"), *FOLDER.glob("forwarding-*.json"))
    assert [f.name for f in made] == sorted(f.name for f in committed)
    for file in made:
        assert file.read_bytes() == (FOLDER / file.name).read_bytes(), file.name


def test_another_seed_makes_others() -> None:
    other = contents("another seed")
    assert all(other[name] != (FOLDER / f"{name}.json").read_text() for name in other)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="cannot be written"):
        write_command(tmp_path / "file", seed=SEED)


# -- the own derivation, spelled out -----------------------------------------------------------------------------------


def fields(*items: bytes) -> bytes:
    return b"".join(len(i).to_bytes(4, "big") + i for i in items)


def u(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def h(entry: Json, name: str) -> bytes:
    return bytes.fromhex(entry[name])


LABELS: dict[str, Callable[[Json], bytes]] = {
    "user branch": lambda e: fields(b"user", h(e, "identity"), u(e["version"], 4), u(e["prf"], 1)),
    "ticket branch": lambda e: fields(b"ticket", h(e, "rand"), h(e, "thdr_data"), h(e, "ticket_body")),
    "session key": lambda e: fields(b"session key", u(e["index"], 2)),
    "session salt": lambda e: fields(b"session salt", u(e["index"], 2)),
    "shared TPK": lambda e: fields(
        b"shared TPK",
        u(e["mode"], 1),
        h(e, "owner"),
        u(e["version"], 4),
        h(e, "peer"),
        u(e["peer_version"], 4),
        u(e["prf"], 1),
    ),
}


@pytest.mark.parametrize("entry", OWN, ids=lambda e: e["name"])
def test_own_derivations(entry: Json) -> None:
    make = LABELS.get(entry["name"])
    label = make(entry) if make else fields(entry["name"].encode())
    assert label.hex() == entry["label"]
    encryptor = Cipher(AES(h(entry, "aes_key")), CBC(bytes(16))).encryptor()
    assert encryptor.update(hashlib.sha256(label).digest()).hex().startswith(entry["outkey"])


# -- negatives are refused for what is wrong with them -----------------------------------------------------------------


@pytest.mark.parametrize("entry", NEGATIVES, ids=lambda e: e["name"])
def test_the_reason(entry: Json) -> None:
    (result,) = check_negatives([json.loads(json.dumps(entry))])
    assert result.verdict is Verdict.REFUSED
    assert "not normative" not in result.detail
    if entry["expected"]["text"] == "the MAC of the ticket does not verify":
        assert "the ticket was not made by this KMS, was altered, or its key was destroyed" in result.detail
    if entry["expected"]["text"] == "Vr does not verify":
        assert "Vr does not verify" in result.detail or "Initiator Data" in result.detail


@pytest.mark.parametrize("name", ["derived-epoch-destroyed-256", "derived-epoch-key-is-another-128"])
def test_with_its_epoch_the_same_ticket_opens(name: str) -> None:
    """The tickets are good: only the key is gone."""
    gone = next(n for n in NEGATIVES if n["name"] == name)
    kept = next(n for n in NEGATIVES if n["name"] == f"derived-T-altered-{name[-3:]}")
    entry = gone | {"config": kept["config"], "expected": {"outcome": "accept"}}
    assert [r.verdict for r in check_negatives([entry])] == [Verdict.PASS]

"""The KMS role of the conformance vectors, through Engine.handle."""

from pathlib import Path
from typing import Any

import pytest

from kms.mikey.message import Message
from kms.mikey.registry import DataType
from tests.kms.vector_kms import VectorKms, groups_of, load, sender

EXCHANGES = load("exchanges")
NEGATIVES = [n for n in load("negatives") if n["target"] == "KMS"]
TO_KMS = {"REQUEST_INIT": "REQUEST_RESP", "RESOLVE_INIT": "RESOLVE_RESP"}


def _groups(exchange: dict[str, Any]) -> dict[bytes, tuple[bytes, ...]]:
    for m in exchange["messages"]:
        if m["name"] == "RESOLVE_INIT":
            raw = bytes.fromhex(m["hex"])
            found = groups_of(raw, sender(raw) or b"")
            if found:
                return found
    return {}


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda e: e["name"])
def test_answers_are_byte_equal(exchange: dict[str, Any], tmp_path: Path) -> None:
    groups = _groups(exchange)
    pairs = 0
    for i, (sent, got) in enumerate(zip(exchange["messages"], exchange["messages"][1:], strict=False)):
        if TO_KMS.get(sent["name"]) != got["name"]:
            continue
        folder = tmp_path / str(i)
        folder.mkdir()
        kms = VectorKms(exchange["config"], folder, clock=sent["unix_time"], groups=groups)
        kms.expect(bytes.fromhex(got["hex"]))
        outcome = kms.answer(bytes.fromhex(sent["hex"]))
        assert outcome.WhichOneof("outcome") == "mikey_message", outcome.refusal
        assert outcome.mikey_message.hex() == got["hex"]
        pairs += 1
    assert pairs


@pytest.mark.parametrize("negative", NEGATIVES, ids=lambda n: n["name"])
def test_negatives_are_refused(negative: dict[str, Any], tmp_path: Path) -> None:
    kms = VectorKms(negative["config"], tmp_path, clock=negative["clock_unix"])
    bad = bytes.fromhex(negative["bad"])
    if negative["name"] == "REQUEST_INIT-replay":
        # The engine keeps nothing: the replay cache is the frontend's (tests/kms/test_frontend.py).
        assert kms.answer(bad).WhichOneof("outcome") == "mikey_message"
        return
    outcome = kms.answer(bad)
    assert outcome.WhichOneof("outcome") == "refusal"
    assert outcome.refusal.code not in (0, 2, 13, 14)
    if outcome.refusal.mikey_error_message:
        assert Message.decode(outcome.refusal.mikey_error_message).hdr.data_type == DataType.ERROR

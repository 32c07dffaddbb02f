"""The KMS role of the conformance vectors with keys in real tokens: the same answers, byte for byte."""

from pathlib import Path
from typing import Any

import pytest

import hsm
from tests.kms.vector_kms import VectorKms, load

EXCHANGES = [
    e for e in load("exchanges") if e["name"] in ("psk128-forked", "psk256-forked", "psk256-focus-group-key")
]


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda e: e["name"])
def test_answers_are_byte_equal(exchange: dict[str, Any], token: hsm.Token, tmp_path: Path) -> None:
    messages = exchange["messages"]
    for i in (0, 3):
        folder = tmp_path / str(i)
        folder.mkdir()
        kms = VectorKms(exchange["config"], folder, clock=messages[i]["unix_time"], ops=token)
        with token.scope():
            kms.expect(bytes.fromhex(messages[i + 1]["hex"]))
        outcome = kms.answer(bytes.fromhex(messages[i]["hex"]))
        assert outcome.mikey_message.hex() == messages[i + 1]["hex"], outcome.refusal

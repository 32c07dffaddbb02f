"""The KMS role of the conformance vectors with keys in real tokens: the same answers, byte for byte."""

from pathlib import Path

import pytest

import hsm
from kms.cli.vectors.check import VectorFile
from kms.cli.vectors.entries import Json
from kms.cli.vectors.kms_role import VectorKms
from kms.cli.vectors.setting import read_setting
from kms.cli.vectors.steps import read_steps

VECTORS = VectorFile.load(Path(__file__).parent.parent / "vectors" / "exchanges.json").entries["exchanges"]
EXCHANGES = [e for e in VECTORS if e["name"] in ("psk128-forked", "psk256-forked", "psk256-focus-group-key")]


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda e: e["name"])
def test_answers_are_byte_equal(exchange: Json, token: hsm.Token, tmp_path: Path) -> None:
    setting = read_setting(exchange["config"])
    steps = read_steps(exchange["messages"], setting.clock)
    kms = VectorKms(setting, tmp_path, ops=token)
    for asked, answered in ((steps[0], steps[1]), (steps[3], steps[4])):
        with token.scope():
            kms.expect(asked.message, answered.message)
        assert kms.answer(asked.message.raw, asked.time) == answered.message.raw

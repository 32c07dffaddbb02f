"""The implementations of KeyOperations, for the contract suite."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hsm
from kms.crypto.interface import KeyOperations
from kms.crypto.software import SoftwareKeys
from tests.hsm.tokens import PIN, TOKENS

VECTORS = Path(__file__).parents[1] / "vectors" / "primitives.json"


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    """tests/vectors/primitives.json."""
    data: dict[str, Any] = json.loads(VECTORS.read_text())
    return data


@pytest.fixture(params=("software", *TOKENS), scope="module")
def ops(request: pytest.FixtureRequest, specs: dict[str, hsm.TokenSpec]) -> Iterator[KeyOperations]:
    """Every implementation of KeyOperations in turn."""
    if request.param == "software":
        yield SoftwareKeys()
        return
    token = hsm.open_token(specs[request.param], PIN)
    yield token
    token.close()

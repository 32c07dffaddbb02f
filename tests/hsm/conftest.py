"""Real tokens for the tests: one SoftHSM token and one NSS database per test process, made by the token layer."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import hsm
from kms.crypto.interface import KeyOperations
from kms.crypto.software import SoftwareKeys
from tests.hsm.tokens import PIN, SO_PIN, TOKENS

VECTORS = Path(__file__).parents[1] / "vectors" / "primitives.json"


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, hsm.TokenSpec]:
    """A fresh token of each kind, shared by the tests of this process: PKCS#11 allows one configuration only."""
    folder = tmp_path_factory.mktemp("tokens")
    return {
        "softhsm": hsm.softhsm.create(folder / "softhsm", pin=PIN, so_pin=SO_PIN),
        "nss": hsm.nss.create(folder / "nss", pin=PIN),
    }


@pytest.fixture(scope="session")
def vectors() -> dict[str, Any]:
    """tests/vectors/primitives.json."""
    data: dict[str, Any] = json.loads(VECTORS.read_text())
    return data


@pytest.fixture(params=TOKENS, scope="module")
def token(request: pytest.FixtureRequest, specs: dict[str, hsm.TokenSpec]) -> Iterator[hsm.Token]:
    """An open token, of each kind in turn, for the tests of one module."""
    with_token = hsm.open_token(specs[request.param], PIN)
    yield with_token
    with_token.close()


@pytest.fixture(params=("software", *TOKENS), scope="module")
def ops(request: pytest.FixtureRequest, specs: dict[str, hsm.TokenSpec]) -> Iterator[KeyOperations]:
    """Every implementation of KeyOperations in turn."""
    if request.param == "software":
        yield SoftwareKeys()
        return
    token = hsm.open_token(specs[request.param], PIN)
    yield token
    token.close()


@pytest.fixture
def open_token(specs: dict[str, hsm.TokenSpec]) -> Iterator[Callable[..., hsm.Token]]:
    """Opens tokens by kind, and closes at the end of the test what is open still."""
    opened: list[hsm.Token] = []

    def open_it(kind: str, **options: Any) -> hsm.Token:
        token = hsm.open_token(specs[kind], PIN, **options)
        opened.append(token)
        return token

    yield open_it
    for token in opened:
        if token.session.handle:
            token.close()

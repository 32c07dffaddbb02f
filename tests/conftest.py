"""Settings for all tests, and real tokens: one SoftHSM token and one NSS database per test process."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import hsm
from tests.hsm.tokens import PIN, SO_PIN, TOKENS

# No verdict depends on time: the machine may be busy.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, hsm.TokenSpec]:
    """A fresh token of each kind, shared by the tests of this process: PKCS#11 allows one configuration only."""
    folder = tmp_path_factory.mktemp("tokens")
    return {
        "softhsm": hsm.softhsm.create(folder / "softhsm", pin=PIN, so_pin=SO_PIN),
        "nss": hsm.nss.create(folder / "nss", pin=PIN),
    }


@pytest.fixture(params=TOKENS, scope="module")
def token(request: pytest.FixtureRequest, specs: dict[str, hsm.TokenSpec]) -> Iterator[hsm.Token]:
    """An open token, of each kind in turn, for the tests of one module."""
    with_token = hsm.open_token(specs[request.param], PIN)
    yield with_token
    with_token.close()


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

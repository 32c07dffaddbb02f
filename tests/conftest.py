"""Settings for all tests, and real tokens: one of each kind per test process."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import hsm
from tests.hsm import opencryptoki
from tests.hsm.tokens import PIN, SO_PIN, TOKENS

# No verdict depends on time: the machine may be busy.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")


class Specs(dict[str, hsm.TokenSpec]):
    """The tokens by kind, each made when it is first asked for. Skips the test if it cannot run here."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._unavailable: dict[str, str] = {}

    def __missing__(self, kind: str) -> hsm.TokenSpec:
        if kind in self._unavailable:
            pytest.skip(self._unavailable[kind])
        try:
            self[kind] = self._create(kind)
        except opencryptoki.Unavailable as reason:
            self._unavailable[kind] = str(reason)
            pytest.skip(str(reason))
        return self[kind]

    def _create(self, kind: str) -> hsm.TokenSpec:
        folder = self._folder / kind
        if kind == "softhsm":
            return hsm.softhsm.create(folder, pin=PIN, so_pin=SO_PIN)
        if kind == "nss":
            return hsm.nss.create(folder, pin=PIN)
        return opencryptoki.create(folder, pin=PIN, so_pin=SO_PIN)


@pytest.fixture(scope="session")
def specs(tmp_path_factory: pytest.TempPathFactory) -> Specs:
    """A fresh token of each kind, shared by the tests of this process: PKCS#11 allows one configuration only."""
    return Specs(tmp_path_factory.mktemp("tokens"))


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
        token = hsm.open_token(replace(specs[kind], **options), PIN)
        opened.append(token)
        return token

    yield open_it
    for token in opened:
        if token.session.handle:
            token.close()

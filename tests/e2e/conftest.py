"""One running KMS for the tests of a session; each xdist worker has its own."""

from collections.abc import Iterator

import pytest

from tests.e2e.home import Server, init, serving


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A KMS on SoftHSM; on NSS with `@pytest.mark.parametrize("server", ["softhsm", "nss"], indirect=True)`."""
    token = getattr(request, "param", "softhsm")
    home = tmp_path_factory.mktemp(f"kms-{token}") / "home"
    init(home, token)
    with serving(home) as running:
        yield running

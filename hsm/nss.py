"""Making a fresh NSS softoken database, without p11-kit and certutil."""

from pathlib import Path

from hsm import library as libraries
from hsm.errors import TokenError
from hsm.spec import TokenSpec

MODULES = (
    Path("/usr/lib/x86_64-linux-gnu/libsoftokn3.so"),
    Path("/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so"),
    Path("/usr/lib/aarch64-linux-gnu/libsoftokn3.so"),
    Path("/usr/lib64/libsoftokn3.so"),
)
LABEL = "NSS Certificate DB"
"""The token of NSS that keeps keys; "NSS Generic Crypto Services" refuses token objects."""


def create(folder: Path, *, pin: bytes, module: Path | None = None) -> TokenSpec:
    """Make an NSS database (key4.db, cert9.db) in `folder`, with this PIN.

    NSS has no SO PIN of its own. Raises TokenNotFound without NSS, TokenError if the folder has a database already.
    """
    module = module or libraries.first_of(MODULES, "NSS softoken", "libnss3")
    folder = folder.absolute()
    if (folder / "key4.db").exists():
        raise TokenError(f"{folder} has an NSS database already")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    spec = TokenSpec(module, label=LABEL, nss_folder=folder)
    # softoken makes the files when it is initialised; the SO of a database without PIN logs in with an empty one.
    libraries.set_user_pin(libraries.find_token(libraries.load(spec), spec), b"", pin)
    return spec

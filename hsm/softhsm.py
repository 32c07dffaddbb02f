"""Making a fresh SoftHSM token."""

import os
from pathlib import Path

import pkcs11

from hsm import library as libraries
from hsm.errors import TokenError
from hsm.spec import TokenSpec

MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)
_CONF = """\
directories.tokendir = {objects}
objectstore.backend = file
log.level = ERROR
slots.removable = false
"""


def create(
    folder: Path, *, label: str = "kms", pin: bytes, so_pin: bytes, module: Path | None = None
) -> TokenSpec:
    """Make a SoftHSM token in `folder`: its configuration (softhsm2.conf), its objects, its SO PIN and user PIN.

    Raises TokenNotFound without SoftHSM, TokenError if the folder has a token already.
    """
    module = module or libraries.first_of(MODULES, "SoftHSM", "softhsm2")
    folder = folder.absolute()
    objects, conf = folder / "objects", folder / "softhsm2.conf"
    if conf.exists() or objects.exists():
        raise TokenError(f"{folder} has a SoftHSM token already")
    objects.mkdir(mode=0o700, parents=True)
    with os.fdopen(os.open(conf, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(_CONF.format(objects=objects))
    spec = TokenSpec(module, label=label, softhsm_conf=conf)
    library = libraries.load(spec)
    blank = [t for t in libraries.tokens(library) if not t.flags & pkcs11.TokenFlag.TOKEN_INITIALIZED]
    if not blank:
        raise TokenError("SoftHSM offers no slot for a new token")
    padded = label.encode().ljust(32)
    if len(padded) > 32:
        raise TokenError("the label of a token has 32 bytes at most")
    library.cryptoki.C_InitToken(blank[0].slot.slot_id, so_pin, len(so_pin), padded)
    libraries.set_user_pin(libraries.find_token(library, spec), so_pin, pin)
    return spec

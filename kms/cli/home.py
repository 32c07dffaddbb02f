"""The home folder of a KMS: where things are, who may read them, who has it open."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from kms.cli.errors import CommandError
from kms.config import CONFIG_NAME, Config, ConfigError, load_config

PIN = "token/pin"
TLS_CA = "tls/ca.pem"
TLS_CA_KEY = "tls/ca.key"
TLS_CERT = "tls/server.pem"
TLS_KEY = "tls/server.key"
PK_CERT = "tls/kms.pem"
LOCK = "run/kms.lock"

_MAX_PIN = 255


def resolve(home: Path) -> Path:
    """The absolute path of what --home names."""
    try:
        return home.expanduser().absolute()
    except RuntimeError:
        raise CommandError(f"{home}: the home of this user is not known; give --home DIR") from None


def load(home: Path) -> Config:
    """The configuration of a home. Raises CommandError."""
    try:
        return load_config(home)
    except ConfigError as error:
        advice = "" if "kms init" in str(error) else f"; correct {CONFIG_NAME}"
        raise CommandError(f"{error}{advice}") from None


def read_pin(path: Path) -> bytes:
    """The PIN of the token from its file. Raises CommandError."""
    try:
        pin = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise CommandError(
            f"the PIN file {path} cannot be read: {error.strerror}; set [token] pin_file in {CONFIG_NAME}"
        ) from None
    if not 0 < len(pin) <= _MAX_PIN:
        raise CommandError(f"the PIN file {path} must hold one line of 1 to {_MAX_PIN} bytes")
    return pin


@contextlib.contextmanager
def lock(home: Path) -> Iterator[bool]:
    """Hold the lock that `kms serve` holds while it runs; gives False if somebody else has it."""
    run = home / "run"
    try:
        run.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(
            f"{run} cannot be used: {error.strerror}; run this as the owner of {home}"
        ) from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def write_new(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that must not exist yet, with this mode from the start. Raises FileExistsError, OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        os.fchmod(fd, mode)
        file.write(content)

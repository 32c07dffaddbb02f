"""The enrolment file: what a subscriber needs to speak to its KMS."""

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kms.crypto.suite import SUITES

_PEM_FIELDS = ("ca_cert", "tls_cert", "tls_key")


class CredentialError(Exception):
    """An enrolment file cannot be used. The text names the file and the field, and says what to do."""


@dataclass(frozen=True, slots=True)
class PreSharedKey:
    """A PSK of one suite (128 or 256) with its IDRpsk. `psk` is 16 to 64 bytes, 32 from this KMS. `repr` hides it."""

    suite: int
    psk_id: bytes
    psk: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """One subscriber's enrolment. `psks` is sorted, the strongest suite first. `repr` hides the secrets.

    `target` is the KMS's gRPC address, HOST:PORT; the certificates and `tls_key` are PEM texts.
    """

    identity: str
    kms_identity: str
    target: str
    role: str
    psks: tuple[PreSharedKey, ...]
    ca_cert: str = field(repr=False)
    tls_cert: str = field(repr=False)
    tls_key: str = field(repr=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, allow_readable: bool = False) -> "Credential":
        """Read an enrolment file, the JSON that `kms user add --out FILE` writes.

        The file holds a PSK: one that its group or others may read is refused unless `allow_readable` says that
        something else protects it. Raises CredentialError.
        """
        file = Path(path)
        try:
            with file.open("rb") as stream:
                mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
                text = stream.read()
        except OSError as error:
            raise CredentialError(f"{file}: cannot be read: {error.strerror}") from None
        if mode & 0o077 and not allow_readable:
            raise CredentialError(f"{file}: holds a PSK but has the mode {mode:04o}; run: chmod 600 {file}")
        return cls.parse(text, str(file))

    @classmethod
    def parse(cls, text: bytes | str, where: str = "enrolment") -> "Credential":
        """Decode the JSON; `where` names its origin in errors. Raises CredentialError."""
        try:
            data = json.loads(text)
        except ValueError as error:
            position = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "not UTF-8"
            raise CredentialError(
                f"{where}: is not JSON ({position}); enrol again with `kms user add`"
            ) from None
        if not isinstance(data, dict):
            raise CredentialError(f"{where}: a JSON object is expected")
        pem = {name: _text(data, name, where) for name in _PEM_FIELDS}
        for name, value in pem.items():
            if "-----BEGIN " not in value:
                raise CredentialError(f"{where}: {name} is not PEM text")
        role = _text(data, "role", where)
        if role not in ("client", "focus", "peer"):
            raise CredentialError(f"{where}: role is neither client, focus nor peer")
        names = {name: _text(data, name, where) for name in ("identity", "kms_identity", "target")}
        return cls(**names, role=role, psks=_psks(data, where), **pem)


def _psks(data: dict[str, Any], where: str) -> tuple[PreSharedKey, ...]:
    """The PSK of the top level, and those of the list "psks" of a subscriber that is enrolled in both suites."""
    found: dict[int, PreSharedKey] = {}
    entries = data.get("psks", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CredentialError(f"{where}: psks is not a list of objects")
    for entry, place in [(data, ""), *((entry, f"psks[{i}].") for i, entry in enumerate(entries))]:
        suite = entry.get("suite")
        if suite not in SUITES or isinstance(suite, bool):
            raise CredentialError(f"{where}: {place}suite is neither 256 nor 128")
        psk_id, psk = (_hex(entry, name, where, place) for name in ("psk_id", "psk"))
        if not 16 <= len(psk) <= 64:
            raise CredentialError(f"{where}: {place}psk has {len(psk)} bytes, 16 to 64 are expected")
        found.setdefault(suite, PreSharedKey(suite, psk_id, psk))
    return tuple(found[suite] for suite in sorted(found, reverse=True))


def _text(data: dict[str, Any], name: str, where: str, place: str = "") -> str:
    value = data.get(name)
    if not isinstance(value, str) or not value:
        problem = "is missing" if value is None else "is not a non-empty text"
        raise CredentialError(f"{where}: {place}{name} {problem}")
    return value


def _hex(data: dict[str, Any], name: str, where: str, place: str) -> bytes:
    try:
        return bytes.fromhex(_text(data, name, where, place))
    except ValueError:
        raise CredentialError(f"{where}: {place}{name} is not hexadecimal") from None

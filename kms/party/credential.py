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
class SharedTpk:
    """A ticket protection key (TPK, 32 bytes) that is shared with this subscriber, of one suite. `repr` hides it.

    `tpk_id` is IDRpsk of the tickets it protects. `role` says what the subscriber is in their exchanges: as the
    responder it opens them (mode 2 of RFC 6043 4.1.1), as the initiator it makes them (mode 3). With a `peer` the other
    party has the same TPK, and the KMS takes no part (mode 4).
    """

    suite: int
    role: str
    tpk_id: bytes
    tpk: bytes = field(repr=False)
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class KeyPair:
    """The RSA key of a subscriber without PSK, as PEM texts. `repr` hides it.

    `cert` is its certificate, followed by those that certify it; `key` its private key (PKCS #8, not encrypted);
    `kms_cert` the certificate of the KMS's RSA key. `suite` (128 or 256) is the one it prefers.
    """

    suite: int
    cert: str = field(repr=False)
    key: str = field(repr=False)
    kms_cert: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Credential:
    """One subscriber's enrolment, by PSKs or by a key pair. `psks` is sorted, the strongest suite first.

    `repr` hides the secrets. `target` is the KMS's gRPC address, HOST:PORT; certificates and `tls_key` are PEM texts.
    """

    identity: str
    kms_identity: str
    target: str
    role: str
    psks: tuple[PreSharedKey, ...]
    ca_cert: str = field(repr=False)
    tls_cert: str = field(repr=False)
    tls_key: str = field(repr=False)
    key_pair: KeyPair | None = field(default=None, repr=False)
    tpks: tuple[SharedTpk, ...] = ()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        key: str | os.PathLike[str] | None = None,
        allow_readable: bool = False,
    ) -> "Credential":
        """Read an enrolment file, the JSON that `kms user add --out FILE` writes.

        `key` is the file (PEM) of the RSA key of a subscriber that was enrolled by its own certificate.
        Each file holds a secret: one that its group or others may read is refused unless `allow_readable` says that
        something else protects it. Raises CredentialError.
        """
        text = _read_secret(Path(path), "a PSK or private key", allow_readable=allow_readable)
        if key is None:
            return cls.parse(text, str(path))
        pem = _read_secret(Path(key), "a private key", allow_readable=allow_readable)
        return cls.parse(text, str(path), key=pem.decode(errors="replace"))

    @classmethod
    def parse(cls, text: bytes | str, where: str = "enrolment", *, key: str | None = None) -> "Credential":
        """Decode the JSON; `where` names its origin in errors. `key` is the RSA key (PEM). Raises CredentialError."""
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
        key_pair = _key_pair(data, where, key)
        psks = () if key_pair else _psks(data, where)
        return cls(**names, role=role, psks=psks, **pem, key_pair=key_pair, tpks=_tpks(data, where))


def _read_secret(file: Path, what: str, *, allow_readable: bool) -> bytes:
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            content = stream.read()
    except OSError as error:
        raise CredentialError(f"{file}: cannot be read: {error.strerror}") from None
    if mode & 0o077 and not allow_readable:
        raise CredentialError(f"{file}: holds {what} but has the mode {mode:04o}; run: chmod 600 {file}")
    return content


def _key_pair(data: dict[str, Any], where: str, key: str | None) -> KeyPair | None:
    if "cert" not in data:
        if key is not None:
            raise CredentialError(f"{where}: is an enrolment by PSK: no key file belongs to it")
        return None
    if "psk" in data:
        raise CredentialError(f"{where}: has both a psk and a cert; enrol again with `kms user add`")
    if key is None and "key" not in data:
        raise CredentialError(f"{where}: does not hold the private key of its cert: give its file as `key`")
    texts = {
        "cert": _text(data, "cert", where),
        "key": key or _text(data, "key", where),
        "kms_cert": _text(data, "kms_cert", where),
    }
    for name, value in texts.items():
        if "-----BEGIN " not in value:
            raise CredentialError(f"{where}: {name} is not PEM text")
    return KeyPair(_suite(data, where), **texts)


def _psks(data: dict[str, Any], where: str) -> tuple[PreSharedKey, ...]:
    """The PSK of the top level, and those of the list "psks" of a subscriber that is enrolled in both suites."""
    found: dict[int, PreSharedKey] = {}
    entries = data.get("psks", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CredentialError(f"{where}: psks is not a list of objects")
    for entry, place in [(data, ""), *((entry, f"psks[{i}].") for i, entry in enumerate(entries))]:
        suite = _suite(entry, where, place)
        psk_id, psk = (_hex(entry, name, where, place) for name in ("psk_id", "psk"))
        if not 16 <= len(psk) <= 64:
            raise CredentialError(f"{where}: {place}psk has {len(psk)} bytes, 16 to 64 are expected")
        found.setdefault(suite, PreSharedKey(suite, psk_id, psk))
    return tuple(found[suite] for suite in sorted(found, reverse=True))


def _tpks(data: dict[str, Any], where: str) -> tuple[SharedTpk, ...]:
    entries = data.get("tpks", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CredentialError(f"{where}: tpks is not a list of objects")
    found = []
    for entry, place in ((entry, f"tpks[{i}].") for i, entry in enumerate(entries)):
        role = _text(entry, "role", where, place)
        if role not in ("responder", "initiator"):
            raise CredentialError(f"{where}: {place}role is neither responder nor initiator")
        peer = _text(entry, "peer", where, place) if "peer" in entry else None
        tpk_id, tpk = (_hex(entry, name, where, place) for name in ("tpk_id", "tpk"))
        if not 16 <= len(tpk) <= 32:
            raise CredentialError(f"{where}: {place}tpk has {len(tpk)} bytes, 16 to 32 are expected")
        found.append(SharedTpk(_suite(entry, where, place), role, tpk_id, tpk, peer))
    return tuple(found)


def _suite(data: dict[str, Any], where: str, place: str = "") -> int:
    suite = data.get("suite")
    if isinstance(suite, bool) or not isinstance(suite, int) or suite not in SUITES:
        raise CredentialError(f"{where}: {place}suite is neither 256 nor 128")
    return suite


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

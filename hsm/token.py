"""An open token and its master keys: the token objects that everything is derived from, and that can only derive."""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TypeVar

import pkcs11

from hsm import cryptoki as ck
from hsm import library as libraries
from hsm import probe as probing
from hsm.capabilities import Capabilities, Probe
from hsm.cryptoki import Mechanism
from hsm.errors import KeyExists, KeyNotFound, TokenError, TokenFault, TokenGone, TokenUnfit
from hsm.operations import RSA, TokenKey, TokenOperations
from hsm.session import Session
from hsm.spec import TokenSpec
from hsm.templates import Template, masters, private_key
from kms.crypto.interface import UnsupportedKey, Use
from kms.mikey import labels

_FORBIDDEN = {
    ck.ENCRYPT: "encrypt",
    ck.DECRYPT: "decrypt",
    ck.SIGN: "sign",
    ck.VERIFY: "verify",
    ck.WRAP: "wrap",
    ck.UNWRAP: "unwrap",
    ck.EXTRACTABLE: "be extracted",
}
_FINGERPRINT_LENGTH = 3
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class MasterInfo:
    """A master key, without its bytes. `created` is when it was made (Unix seconds), if this KMS made it.

    `fingerprint` is a key check value: the first 3 bytes of SHA-256 over a derivation that is used for nothing else,
    in hex.
    """

    label: str
    kind: str
    fingerprint: str
    created: int | None


class Token(TokenOperations):
    """An open token: the key operations, and the master keys by label. Made by `open_token`.

    Handles of masters are looked up once: searching costs time in proportion to the number of objects.
    """

    def __init__(self, session: Session, capabilities: Capabilities, opened: pkcs11.Session) -> None:
        super().__init__(session, capabilities)
        self._opened = opened
        self._handles: dict[str, TokenKey] = {}
        self._originals: dict[str, int] = {}
        self._fingerprints: dict[int, str] = {}
        self._private_keys: dict[str, TokenKey] = {}
        self.probe: Probe

    def close(self) -> None:
        """Log out and close the session; its keys are gone and using one raises TokenGone."""
        self.session.handle = 0
        try:
            self._opened.close()
        except pkcs11.PKCS11Error as error:
            raise TokenError(f"the session cannot be closed: {type(error).__name__}") from None

    def count_calls(self) -> dict[str, list[float]]:
        """From now on count the calls of each C function: name -> [number, seconds]. Until then it costs nothing."""
        return self.session.cryptoki.count_calls()

    def master(self, label: str) -> TokenKey:
        """The BRANCH key with this label. Raises KeyNotFound, or TokenUnfit if it is not fit to be a master."""
        if label not in self._handles:
            handle = self._one(label, _search(label))
            self._check(label, handle)
            self._originals[label] = handle
            self._handles[label] = TokenKey(
                self, Use.BRANCH, 32, self._session_copy(label, handle), is_master=True
            )
        return self._handles[label]

    def _session_copy(self, label: str, handle: int) -> int:
        """A copy that lives as long as the session and is as closed as the original, where the token makes one.

        NSS keeps token objects encrypted and opens them anew for every use, which costs milliseconds. A token that
        honours CKA_COPYABLE (false, for a master) refuses: then the original is used.
        """
        try:
            copy = self.session.copy(handle, Template([(ck.TOKEN, False)]))
        except TokenGone:
            raise
        except TokenFault:
            return handle
        self._check(label, copy)
        return copy

    def masters(self) -> list[MasterInfo]:
        """All AES token keys that can derive, by label. Handles of keys that are gone are forgotten."""
        infos = []
        found = self.session.find(_search())
        for label in [label for label, handle in self._originals.items() if handle not in found]:
            self.forget_master(label)
        for handle in found:
            try:
                infos.append(self._info(handle))
            except KeyNotFound:
                continue  # destroyed by another process since the search
        return sorted(infos, key=lambda info: info.label)

    def create_master(self, label: str) -> TokenKey:
        """Make a master key. Raises KeyExists: a key is never overwritten."""
        if self.session.find(_search(label)):
            raise KeyExists(f"the token has a key {label!r} already")
        # CKA_ID says when; CKA_START_DATE would, but SoftHSM cannot read it back.
        _first_accepted(
            lambda template: self.session.generate(Mechanism(ck.AES_KEY_GEN), template),
            # NSS takes two keys with one CKA_ID for the same key.
            masters(label, f"{int(time.time())} {label}".encode()),
        )
        return self.master(label)

    def destroy_master(self, label: str) -> None:
        """Destroy a master key for good, and with it everything that was derived from it. Raises KeyNotFound."""
        self.forget_master(label)
        handle = self._one(label, _search(label))
        self._fingerprints.pop(handle, None)
        self.session.destroy(handle)

    def is_copy(self, key: TokenKey) -> bool:
        """Whether a master is used through a session copy, not through the token's object itself."""
        return key.is_master and key.handle not in self._originals.values()

    def forget_master(self, label: str) -> None:
        """Drop what this session has of a master: its handle and its session copy. The token's object stays."""
        key, original = self._handles.pop(label, None), self._originals.pop(label, None)
        if key is not None and key.handle != original:
            handle, key.handle = key.handle, 0
            self.session.destroy(handle)

    # -- RSA keys that open envelope keys ----------------------------------------------------------------------------

    def create_private_key(self, label: str, bits: int = 3072) -> TokenKey:
        """Make an RSA key pair for PKE payloads. Raises KeyExists: a key is never overwritten."""
        if self.session.find(_search_rsa(label, ck.PRIVATE_KEY)):
            raise KeyExists(f"the token has a key {label!r} already")
        _first_accepted(
            lambda pair: self.session.generate_pair(Mechanism(ck.RSA_PKCS_KEY_PAIR_GEN), *pair),
            private_key(label, bits),
        )
        return self.private_key(label)

    def private_key(self, label: str) -> TokenKey:
        """The UNWRAP key with this label. Raises KeyNotFound."""
        if label not in self._private_keys:
            handle = self._one(label, _search_rsa(label, ck.PRIVATE_KEY))
            length = len(self.session.attribute(handle, ck.MODULUS))
            key = TokenKey(self, Use.UNWRAP, length, handle, is_master=True)
            self._learn_wrong_wrap(key)
            self._private_keys[label] = key
        return self._private_keys[label]

    def public_key(self, label: str) -> tuple[int, int]:
        """Public exponent and modulus of the RSA key with this label. Raises KeyNotFound."""
        handle = self._one(label, _search_rsa(label, ck.PUBLIC_KEY))
        exponent, modulus = (
            self.session.attribute(handle, kind) for kind in (ck.PUBLIC_EXPONENT, ck.MODULUS)
        )
        return int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")

    def _learn_wrong_wrap(self, key: TokenKey) -> None:
        """What do C_UnwrapKey and C_Decrypt return for what does not open? Each token says it in its own way."""
        for wrong in (b"\0" + b"\1" * (key.length - 1), b"\xff" * key.length, b"\1" * 16):
            for operation in (self._unwrap, partial(self.session.decrypt_rsa, RSA)):
                try:
                    operation(key.handle, wrong)
                except TokenGone:
                    raise
                except TokenFault as fault:
                    self.capabilities.wrong_wrap.add(fault.ckr)
                except UnsupportedKey:
                    continue

    # -- looking up --------------------------------------------------------------------------------------------------

    def _one(self, label: str, search: Template) -> int:
        handles = self.session.find(search)
        if len(handles) > 1:
            raise TokenUnfit(
                f"the token has {len(handles)} keys with the label {label!r}: none can be trusted"
            )
        if not handles:
            raise KeyNotFound(f"the token has no key {label!r}")
        return handles[0]

    def _check(self, label: str, handle: int) -> None:
        faults = [text for kind, text in _FORBIDDEN.items() if self.session.attribute(handle, kind) != b"\0"]
        if self.session.attribute(handle, ck.SENSITIVE) != b"\1":
            faults.append("be read")
        if faults:
            raise TokenUnfit(f"the key {label!r} is no master of this KMS: it may {', '.join(faults)}")

    def _info(self, handle: int) -> MasterInfo:
        if handle not in self._fingerprints:
            key = TokenKey(self, Use.BRANCH, 32, handle, is_master=True)
            with self.scope():
                branch = self.branch(key, labels.fingerprint())
                released = self.release(branch, labels.fingerprint(), 32)
            self._fingerprints[handle] = sha256(released).digest()[:_FINGERPRINT_LENGTH].hex()
        label = self.session.attribute(handle, ck.LABEL).decode(errors="replace")
        return MasterInfo(label, "AES-256", self._fingerprints[handle], self._created(handle))

    def _created(self, handle: int) -> int | None:
        made, _, _label = self.session.attribute(handle, ck.ID).partition(b" ")
        return int(made) if made.isdigit() else None


def open_token(spec: TokenSpec, pin: bytes | str, *, require_native_prf: bool = False) -> Token:
    """Load the module, log in once, and try every operation against its known answer.

    With `require_native_prf` a token that does not compute the RFC's PRF by itself is refused. Raises TokenNotFound,
    PinRefused, TokenUnfit, or TokenFault.
    """
    library = libraries.load(spec)
    found = libraries.find_token(library, spec)
    opened, session = libraries.log_in(library, found, pin)
    token = Token(session, Capabilities(), opened)
    try:
        rungs = probing.run(token, require_native_prf=require_native_prf)
        token.probe = libraries.describe(library, found, rungs, probing.weaknesses(token))
    except BaseException:
        with contextlib.suppress(TokenError):
            token.close()
        raise
    return token


def _search(label: str | None = None) -> Template:
    attributes = [(ck.CLASS, ck.SECRET_KEY), (ck.KEY_TYPE, ck.AES), (ck.TOKEN, True), (ck.DERIVE, True)]
    return Template(attributes if label is None else [*attributes, (ck.LABEL, label.encode())])


def _search_rsa(label: str, kind: int) -> Template:
    return Template([(ck.CLASS, kind), (ck.KEY_TYPE, ck.RSA), (ck.TOKEN, True), (ck.LABEL, label.encode())])


def _first_accepted(generate: Callable[[_T], object], templates: Iterable[_T]) -> None:
    """Generate a key with the first template that the token takes."""
    failure: TokenFault | None = None
    for template in templates:
        try:
            generate(template)
        except TokenGone:
            raise
        except TokenFault as fault:
            failure = fault
        else:
            return
    if failure is not None:
        raise failure

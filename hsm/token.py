"""An open token and its master keys: the token objects that everything is derived from, and that can only derive."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from types import MappingProxyType
from typing import TypeVar

from hsm import ckr
from hsm import cryptoki as ck
from hsm import library as libraries
from hsm import probe as probing
from hsm.capabilities import Capabilities, Probe
from hsm.cryptoki import Mechanism
from hsm.errors import KeyExists, KeyNotFound, PinRefused, TokenError, TokenFault, TokenGone, TokenUnfit
from hsm.library import Library
from hsm.operations import RSA, TokenKey, TokenOperations
from hsm.session import Session
from hsm.spec import TokenSpec
from hsm.templates import Template, masters, private_key
from kms.crypto.interface import UnsupportedKey, Use
from kms.mikey import labels

_FORBIDDEN = {
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

    def __init__(self, library: Library, spec: TokenSpec, pin: bytes) -> None:
        self._library = library
        self._spec = spec
        self._pin = pin
        self._pin_refusal: PinRefused | None = None
        self.probe: Probe
        super().__init__(Session(library.cryptoki, 0), Capabilities())
        self._connect()

    def _connect(self) -> None:
        found = libraries.find_token(self._library, self._spec)
        self.session = libraries.log_in(self._library, found, self._pin)
        self.capabilities = Capabilities()
        self._handles: dict[str, TokenKey] = {}
        self._originals: dict[str, tuple[int, bytes]] = {}
        self._fingerprints: dict[tuple[int, bytes], str] = {}
        self._private_keys: dict[str, TokenKey] = {}
        try:
            rungs = probing.run(self, require_native_prf=self._spec.require_native_prf)
            self.probe = libraries.describe(self._library, found, rungs, probing.weaknesses(self))
        except BaseException:
            with contextlib.suppress(TokenError):
                self.session.close()
            raise

    def reopen(self) -> None:
        """After TokenGone: a new session and login; if that fails, also C_Finalize and C_Initialize before it.

        The token is tried out again. Keys of earlier sessions raise KeyNotFound: look the masters up again. Not while
        another Token of this process uses the module. Raises PinRefused, after one attempt and from then on without
        another one; any other TokenError if neither step helped.
        """
        if self._pin_refusal is not None:
            raise self._pin_refusal
        try:
            self._reconnect()
        except PinRefused as refusal:
            self._pin_refusal = refusal
            raise

    def _reconnect(self) -> None:
        with contextlib.suppress(TokenError):
            self.session.close()
        try:
            self._connect()
        except (PinRefused, TokenUnfit):
            raise
        except TokenError:
            self._library.restart()
            self._connect()

    def close(self) -> None:
        """Log out and close the session; its keys are gone and using one raises TokenGone."""
        self.session.close()

    def count_calls(self) -> dict[str, list[float]]:
        """From now on count the calls of each C function: name -> [number, seconds]. Until then it costs nothing."""
        return self.session.cryptoki.count_calls()

    def master(self, label: str) -> TokenKey:
        """The BRANCH key with this label. Raises KeyNotFound, or TokenUnfit if it is not fit to be a master."""
        if label not in self._handles:
            handle = self._one(label, _search(label))
            self._check(label, handle)
            self._originals[label] = self._identity(handle)
            self._handles[label] = self._master_key(self._session_copy(label, handle))
        return self._handles[label]

    def _master_key(self, handle: int) -> TokenKey:
        # What it may do records how it derives, since it was made.
        composed = not self._may(handle, ck.DERIVE)
        return TokenKey(self.session, Use.BRANCH, 32, handle, is_master=True, composed=composed)

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
        """All AES token keys that can derive, or encrypt and nothing else, by label.

        Handles of keys that are gone are forgotten.
        """
        self.session.check_login()
        infos = []
        found = set()
        searches = [{ck.DERIVE: False, ck.ENCRYPT: True, ck.DECRYPT: False}]
        searches += [{ck.DERIVE: True}] if self.capabilities.native_derivation else []
        for handle in (handle for uses in searches for handle in self.session.find(_search(uses=uses))):
            # Another process may destroy keys meanwhile.
            with contextlib.suppress(KeyNotFound):
                infos.append(self._info(handle))
                found.add(self._identity(handle))
        for label in [label for label, identity in self._originals.items() if identity not in found]:
            self.forget_master(label)
        return sorted(infos, key=lambda info: info.label)

    def _identity(self, handle: int) -> tuple[int, bytes]:
        # The handle alone does not do: opencryptoki gives that of a destroyed key to the next one.
        return handle, self.session.attribute(handle, ck.ID)

    def create_master(self, label: str) -> TokenKey:
        """Make a master key. Raises KeyExists: a key is never overwritten."""
        if self.session.find(_search(label)):
            raise KeyExists(f"the token has a key {label!r} already")
        # CKA_ID says when; CKA_START_DATE would, but SoftHSM cannot read it back. It must be unique: NSS takes two keys
        # with one CKA_ID for the same key.
        key_id = f"{int(time.time())} {secrets.token_hex(4)} {label}".encode()
        _first_accepted(
            lambda template: self.session.generate(Mechanism(ck.AES_KEY_GEN), template),
            masters(label, key_id, native=self.capabilities.native_derivation),
        )
        return self.master(label)

    def destroy_master(self, label: str) -> None:
        """Destroy a master key for good, and with it everything that was derived from it. Raises KeyNotFound."""
        self.forget_master(label)
        handle = self._one(label, _search(label))
        self._fingerprints.pop(self._identity(handle), None)
        self.session.destroy(handle)

    def is_copy(self, key: TokenKey) -> bool:
        """Whether a master is used through a session copy, not through the token's object itself."""
        return key.is_master and key.handle not in {handle for handle, _id in self._originals.values()}

    def forget_master(self, label: str) -> None:
        """Drop what this session has of a master: its handle and its session copy. The token's object stays."""
        key, original = self._handles.pop(label, None), self._originals.pop(label, None)
        if key is not None and original is not None and key.handle != original[0]:
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
            key = TokenKey(self.session, Use.UNWRAP, length, handle, is_master=True)
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
            self.session.check_login()
            raise KeyNotFound(f"the token has no key {label!r}")
        return handles[0]

    def _check(self, label: str, handle: int) -> None:
        derive, encrypt = self._may(handle, ck.DERIVE), self._may(handle, ck.ENCRYPT)
        faults = [text for kind, text in _FORBIDDEN.items() if self._may(handle, kind)]
        if self.session.attribute(handle, ck.SENSITIVE) != b"\1":
            faults.append("be read")
        if derive and encrypt:
            faults.append("encrypt")
        if faults:
            raise TokenUnfit(f"the key {label!r} is no master of this KMS: it may {', '.join(faults)}")
        if not derive and not encrypt:
            raise TokenUnfit(f"the key {label!r} is no master of this KMS: it may not derive")
        if derive and not self.capabilities.native_derivation:
            raise TokenUnfit(f"the key {label!r} was made to derive by itself, which this token does not do")
        if encrypt and self._spec.require_native_prf:
            raise TokenUnfit(
                f"the key {label!r} was made for composed derivation: require_native_prf forbids it"
            )

    def _may(self, handle: int, kind: int) -> bool:
        """An attribute that is true or false; whatever is not false counts as true."""
        return self.session.attribute(handle, kind) != b"\0"

    def _info(self, handle: int) -> MasterInfo:
        identity = self._identity(handle)
        if identity not in self._fingerprints:
            with self.scope():
                branch = self.branch(self._master_key(handle), labels.fingerprint())
                released = self.release(branch, labels.fingerprint(), 32)
            self._fingerprints[identity] = sha256(released).digest()[:_FINGERPRINT_LENGTH].hex()
        label = self.session.attribute(handle, ck.LABEL).decode(errors="replace")
        made, _, _rest = identity[1].partition(b" ")
        created = int(made) if made.isdigit() else None
        return MasterInfo(label, "AES-256", self._fingerprints[identity], created)


def open_token(spec: TokenSpec, pin: bytes | str) -> Token:
    """Load the module, log in once, and try every operation against its known answer.

    The PIN stays in this process, for `Token.reopen`. Raises TokenNotFound, PinRefused, TokenUnfit, or TokenFault.
    """
    return Token(libraries.load(spec), spec, pin.encode() if isinstance(pin, str) else pin)


def _search(label: str | None = None, uses: Mapping[int, bool] = MappingProxyType({})) -> Template:
    attributes = [(ck.CLASS, ck.SECRET_KEY), (ck.KEY_TYPE, ck.AES), (ck.TOKEN, True), *uses.items()]
    return Template(attributes if label is None else [*attributes, (ck.LABEL, label.encode())])


def _search_rsa(label: str, kind: int) -> Template:
    return Template([(ck.CLASS, kind), (ck.KEY_TYPE, ck.RSA), (ck.TOKEN, True), (ck.LABEL, label.encode())])


def _first_accepted(generate: Callable[[_T], object], templates: Iterable[_T]) -> None:
    """Generate a key with the first template that the token takes."""
    failure: TokenFault | None = None
    for template in templates:
        try:
            generate(template)
        except TokenFault as fault:
            # NSS says CKR_GENERAL_ERROR to an attribute that it does not keep.
            if isinstance(fault, TokenGone) or fault.ckr in ckr.OF_THE_MOMENT:
                raise
            failure = fault
        else:
            return
    if failure is not None:
        raise failure

"""Attribute templates: one per use of a key, every attribute said, nothing left to a token's defaults."""

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from ctypes import c_ubyte, c_ulong

from hsm import cryptoki as ck
from hsm.capabilities import Capabilities
from kms.crypto.interface import Use

Value = bool | int | bytes | Sequence[int]
_HMACS = (ck.SHA_1_HMAC, ck.SHA256_HMAC)
_KDF = ck.SP800_108_DOUBLE_PIPELINE_KDF


class Template:
    """An array of CK_ATTRIBUTE with the memory that it points to."""

    def __init__(self, attributes: Iterable[tuple[int, Value]]) -> None:
        self._keep = [(kind, _encode(value)) for kind, value in attributes]
        self.count = len(self._keep)
        self.array = (ck.Attribute * self.count)(
            *(ck.Attribute(kind, ctypes.addressof(data), ctypes.sizeof(data)) for kind, data in self._keep)
        )


class LoadTemplate(Template):
    """A template whose CKA_VALUE is set for each key that is loaded."""

    def __init__(self, attributes: Iterable[tuple[int, Value]]) -> None:
        super().__init__([(ck.VALUE, b""), *attributes])

    def point(self, value: ctypes.Array[c_ubyte] | None) -> None:
        """Let CKA_VALUE point to `value`, which the caller keeps alive and wipes; None points to nothing."""
        self.array[0].value = ctypes.addressof(value) if value is not None else None
        self.array[0].length = ctypes.sizeof(value) if value is not None else 0


def _encode(value: Value) -> ctypes.Array[c_ubyte] | ctypes.Array[c_ulong] | c_ubyte | c_ulong:
    if isinstance(value, bool):
        return c_ubyte(value)
    if isinstance(value, int):
        return c_ulong(value)
    if isinstance(value, bytes):
        return (c_ubyte * len(value)).from_buffer_copy(value) if value else (c_ubyte * 0)()
    return (c_ulong * len(value))(*value)


MISSING = ((), (ck.ALLOWED_MECHANISMS,), (ck.ALLOWED_MECHANISMS, ck.COPYABLE))
"""The attributes that some tokens do not take, the best case first. NSS takes both for session keys only."""


def masters(label: str, key_id: bytes, *, native: bool) -> Iterator[Template]:
    """For C_GenerateKey of a master, an AES-256 token key with one use, the best template first.

    The use records how the master derives, for as long as it lives: CKA_DERIVE if the token does it (`native`), else
    CKA_ENCRYPT, from which derivations are composed.
    """
    head: list[tuple[int, Value]] = [(ck.VALUE_LEN, 32), (ck.LABEL, label.encode()), (ck.ID, key_id)]
    use, mechanism = (ck.DERIVE, ck.AES_CBC_ENCRYPT_DATA) if native else (ck.ENCRYPT, ck.AES_CBC)
    key = _key(ck.AES, {use}, (mechanism,), token=True)
    for missing in MISSING:
        yield Template([*head, *(entry for entry in key if entry[0] not in missing)])


def private_key(label: str, bits: int) -> Iterator[tuple[Template, Template]]:
    """For C_GenerateKeyPair of an RSA key that opens envelope keys: public and private template, the best first.

    CKA_DECRYPT lets an envelope key be padded that is shorter than the token's HMAC takes. It gives nothing away that
    CKA_UNWRAP does not: who may unwrap may choose the template of the result.
    """
    public = Template(
        [
            (ck.CLASS, ck.PUBLIC_KEY),
            (ck.KEY_TYPE, ck.RSA),
            (ck.TOKEN, True),
            (ck.LABEL, label.encode()),
            (ck.MODULUS_BITS, bits),
            (ck.PUBLIC_EXPONENT, b"\1\0\1"),
            (ck.ENCRYPT, True),  # NSS tries the pair by encrypting something
            (ck.VERIFY, False),
            (ck.WRAP, False),
        ]
    )
    head: list[tuple[int, Value]] = [
        (ck.CLASS, ck.PRIVATE_KEY),
        (ck.KEY_TYPE, ck.RSA),
        (ck.TOKEN, True),
        (ck.PRIVATE, True),
        (ck.LABEL, label.encode()),
        (ck.SENSITIVE, True),
        (ck.EXTRACTABLE, False),
        *((use, use in (ck.DECRYPT, ck.UNWRAP)) for use in (ck.DECRYPT, ck.UNWRAP, ck.SIGN, ck.DERIVE)),
    ]
    allowed: tuple[int, Value] = (ck.ALLOWED_MECHANISMS, (ck.RSA_PKCS,))
    copyable: tuple[int, Value] = (ck.COPYABLE, False)
    for optional in ([allowed, copyable], [copyable], []):
        yield public, Template([*head, *optional, (ck.MODIFIABLE, False)])


def _key(
    key_type: int, uses: set[int], mechanisms: tuple[int, ...], *, token: bool = False
) -> list[tuple[int, Value]]:
    return [
        (ck.CLASS, ck.SECRET_KEY),
        (ck.KEY_TYPE, key_type),
        (ck.TOKEN, token),
        (ck.PRIVATE, True),
        (ck.SENSITIVE, True),
        (ck.EXTRACTABLE, False),
        *((use, use in uses) for use in ck.USES),
        (ck.ALLOWED_MECHANISMS, mechanisms),
        (ck.COPYABLE, False),
        # SoftHSM applies a template in order: after this one nothing can be set.
        (ck.MODIFIABLE, False),
    ]


class Templates:
    """The templates of session keys for one token, made once."""

    def __init__(self, capabilities: Capabilities) -> None:
        self._capabilities = capabilities
        self._derive: dict[tuple[Use, int], Template] = {}
        self._load: dict[tuple[Use, int], LoadTemplate] = {}

    def derive(self, use: Use, length: int) -> Template:
        """For C_DeriveKey of a session key."""
        if (use, length) not in self._derive:
            self._derive[use, length] = Template([(ck.VALUE_LEN, length), *self._session_key(use, length)])
        return self._derive[use, length]

    def unwrap(self) -> Template:
        """For C_UnwrapKey of a PRF key. Its length is whatever was wrapped."""
        return Template(self._session_key(Use.PRF, 32))

    def load(self, use: Use, length: int) -> LoadTemplate:
        """For C_CreateObject of a session key."""
        if (use, length) not in self._load:
            self._load[use, length] = LoadTemplate(self._session_key(use, length))
        return self._load[use, length]

    def _session_key(self, use: Use, length: int) -> list[tuple[int, Value]]:
        return [e for e in self._usable(use, length) if e[0] not in self._capabilities.missing]

    def _usable(self, use: Use, length: int) -> list[tuple[int, Value]]:
        if use is Use.BRANCH and self._capabilities.native_derivation:
            return _key(ck.AES, {ck.DERIVE, ck.ENCRYPT}, (ck.AES_CBC_ENCRYPT_DATA, ck.AES_CBC))
        if use is Use.BRANCH:
            return _key(ck.AES, {ck.ENCRYPT}, (ck.AES_CBC,))
        if use is Use.PRF and self._capabilities.native_prf:
            return _key(ck.GENERIC_SECRET, {ck.SIGN, ck.DERIVE}, (*_HMACS, _KDF))
        if use in (Use.PRF, Use.SIGN):
            return _key(ck.GENERIC_SECRET, {ck.SIGN}, _HMACS)
        if use is Use.VERIFY:
            return _key(ck.GENERIC_SECRET, {ck.VERIFY}, _HMACS)
        attribute = ck.ENCRYPT if use is Use.ENCRYPT else ck.DECRYPT
        if not self._capabilities.native_ctr:
            # Counter mode composed of ECB encrypts in both directions.
            return _key(ck.AES, {ck.ENCRYPT, attribute} if length == 16 else {ck.ENCRYPT}, (ck.AES_ECB,))
        # AES key wrap, over ECB, exists with 128-bit keys only.
        mechanisms = (ck.AES_CTR, ck.AES_ECB) if length == 16 else (ck.AES_CTR,)
        return _key(ck.AES, {attribute}, mechanisms)

"""One logged-in session of a token: PKCS#11 operations on object handles, with buffers that are wiped."""

import ctypes
from ctypes import byref, c_ubyte, c_ulong
from typing import Any, NoReturn

from hsm import ckr
from hsm import cryptoki as ck
from hsm.cryptoki import Attribute, Cryptoki, Mechanism, SessionInfo
from hsm.errors import TokenFault, TokenGone
from hsm.templates import LoadTemplate, Template

Buffer = ctypes.Array[c_ubyte]
_FIND_BATCH = 64
_LONGEST_RSA = 2048  # bytes: a key of 16384 bits
_UNAVAILABLE = ctypes.c_ulong(-1).value


def buffer(length: int) -> Buffer:
    """Zeroed memory that can be wiped."""
    return (c_ubyte * length)()


def wipe(*buffers: Buffer) -> None:
    """Overwrite with zeros."""
    for memory in buffers:
        ctypes.memset(memory, 0, ctypes.sizeof(memory))


class NotCopied:
    """Refuses copy and pickle: what it refers to is in a token, or must not be stored."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} cannot be copied or pickled")


class Session(NotCopied):
    """The C functions of `cryptoki` on one session. All raise TokenFault, TokenGone or KeyNotFound."""

    def __init__(self, cryptoki: Cryptoki, handle: int) -> None:
        self.cryptoki = cryptoki
        self.handle = handle

    def log_in(self, pin: bytes) -> None:
        """C_Login of the user, for all sessions of this process with the token."""
        copy = buffer(len(pin))
        ctypes.memmove(copy, pin, len(pin))
        try:
            self.cryptoki.C_Login(self.handle, ck.USER, copy, len(pin))
        finally:
            wipe(copy)

    def check_login(self) -> None:
        """Raise TokenGone if the login was lost: a token then says of private keys that they do not exist."""
        info = SessionInfo()
        self.cryptoki.C_GetSessionInfo(self.handle, byref(info))
        if info.state != ck.RW_USER_FUNCTIONS:
            raise TokenGone("C_GetSessionInfo", ckr.USER_NOT_LOGGED_IN)

    def close(self) -> None:
        """C_Logout and C_CloseSession, which destroys the session's objects. Tries both, then raises what failed."""
        handle, self.handle = self.handle, 0
        try:
            self.cryptoki.C_Logout(handle)
        finally:
            self.cryptoki.C_CloseSession(handle)

    # -- objects -----------------------------------------------------------------------------------------------------

    def create(self, template: LoadTemplate, value: Buffer) -> int:
        """C_CreateObject with this CKA_VALUE. The caller wipes `value`."""
        handle = c_ulong()
        template.point(value)
        try:
            self.cryptoki.C_CreateObject(self.handle, template.array, template.count, byref(handle))
        finally:
            template.point(None)
        return handle.value

    def derive(self, mechanism: Mechanism, base: int, template: Template) -> int:
        """C_DeriveKey."""
        handle = c_ulong()
        self.cryptoki.C_DeriveKey(
            self.handle, byref(mechanism), base, template.array, template.count, byref(handle)
        )
        return handle.value

    def copy(self, handle: int, template: Template) -> int:
        """C_CopyObject."""
        new = c_ulong()
        self.cryptoki.C_CopyObject(self.handle, handle, template.array, template.count, byref(new))
        return new.value

    def generate(self, mechanism: Mechanism, template: Template) -> int:
        """C_GenerateKey."""
        handle = c_ulong()
        self.cryptoki.C_GenerateKey(
            self.handle, byref(mechanism), template.array, template.count, byref(handle)
        )
        return handle.value

    def generate_pair(self, mechanism: Mechanism, public: Template, private: Template) -> tuple[int, int]:
        """C_GenerateKeyPair: the handles of the public and of the private key."""
        handles = c_ulong(), c_ulong()
        self.cryptoki.C_GenerateKeyPair(
            self.handle,
            byref(mechanism),
            public.array,
            public.count,
            private.array,
            private.count,
            byref(handles[0]),
            byref(handles[1]),
        )
        return handles[0].value, handles[1].value

    def unwrap(self, mechanism: Mechanism, key: int, wrapped: bytes, template: Template) -> int:
        """C_UnwrapKey."""
        handle = c_ulong()
        self.cryptoki.C_UnwrapKey(
            self.handle,
            byref(mechanism),
            key,
            wrapped,
            len(wrapped),
            template.array,
            template.count,
            byref(handle),
        )
        return handle.value

    def destroy(self, handle: int) -> None:
        """C_DestroyObject."""
        self.cryptoki.C_DestroyObject(self.handle, handle)

    def find(self, template: Template) -> list[int]:
        """The handles of all objects that match."""
        found: list[int] = []
        batch, count = (c_ulong * _FIND_BATCH)(), c_ulong()
        self.cryptoki.C_FindObjectsInit(self.handle, template.array, template.count)
        try:
            while True:
                self.cryptoki.C_FindObjects(self.handle, batch, _FIND_BATCH, byref(count))
                found += batch[: count.value]
                if not count.value:
                    return found
        finally:
            self.cryptoki.C_FindObjectsFinal(self.handle)

    def attribute(self, handle: int, kind: int) -> bytes:
        """The value of one attribute."""
        query = Attribute(kind, None, 0)
        self.cryptoki.C_GetAttributeValue(self.handle, handle, byref(query), 1)
        if query.length in (0, _UNAVAILABLE):
            return b""
        value = buffer(query.length)
        query.value = ctypes.addressof(value)
        self.cryptoki.C_GetAttributeValue(self.handle, handle, byref(query), 1)
        return bytes(value[: query.length])

    # -- operations --------------------------------------------------------------------------------------------------

    def sign(self, mechanism: Mechanism, key: int, data: Any, length: int, out: Any, out_length: int) -> None:
        """C_Sign of `length` bytes at `data` into `out`, which has room for the `out_length` bytes of the MAC."""
        size = c_ulong(out_length)
        self.cryptoki.C_SignInit(self.handle, byref(mechanism), key)
        self.cryptoki.C_Sign(self.handle, data, length, out, byref(size))
        _expect("C_Sign", size, out_length)

    def verify(self, mechanism: Mechanism, key: int, data: bytes, mac: bytes) -> None:
        """C_Verify. A wrong MAC raises TokenFault like everything else."""
        self.cryptoki.C_VerifyInit(self.handle, byref(mechanism), key)
        self.cryptoki.C_Verify(self.handle, data, len(data), mac, len(mac))

    def encrypt(self, mechanism: Mechanism, key: int, data: bytes) -> Buffer:
        """C_Encrypt, for mechanisms that keep the length. The caller wipes the result."""
        out, size = buffer(len(data)), c_ulong(len(data))
        self.cryptoki.C_EncryptInit(self.handle, byref(mechanism), key)
        self.cryptoki.C_Encrypt(self.handle, data, len(data), out, byref(size))
        _expect("C_Encrypt", size, len(data))
        return out

    def decrypt_rsa(self, mechanism: Mechanism, key: int, data: bytes) -> Buffer:
        """C_Decrypt of a value that is shorter than `data`. The caller wipes the result."""
        out, size = buffer(_LONGEST_RSA), c_ulong(_LONGEST_RSA)
        self.cryptoki.C_DecryptInit(self.handle, byref(mechanism), key)
        try:
            self.cryptoki.C_Decrypt(self.handle, data, len(data), out, byref(size))
            plain = buffer(size.value)
            ctypes.memmove(plain, out, size.value)
            return plain
        finally:
            wipe(out)

    def decrypt(self, mechanism: Mechanism, key: int, data: bytes) -> Buffer:
        """C_Decrypt, for mechanisms that keep the length. The caller wipes the result."""
        out, size = buffer(len(data)), c_ulong(len(data))
        self.cryptoki.C_DecryptInit(self.handle, byref(mechanism), key)
        self.cryptoki.C_Decrypt(self.handle, data, len(data), out, byref(size))
        _expect("C_Decrypt", size, len(data))
        return out

    def random(self, length: int) -> bytes:
        """C_GenerateRandom."""
        out = buffer(length)
        self.cryptoki.C_GenerateRandom(self.handle, out, length)
        return bytes(out)


def _expect(function: str, size: c_ulong, length: int) -> None:
    # CKR_OK with another length would be a broken token; its output must not be used.
    if size.value != length:
        raise TokenFault(function, ckr.GENERAL_ERROR)


HMAC_SHA_1 = Mechanism(ck.SHA_1_HMAC)
HMAC_SHA_256 = Mechanism(ck.SHA256_HMAC)

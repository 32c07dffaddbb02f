"""The key operations on a PKCS#11 token: every key is an object in it, sensitive and not extractable."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ctypes import memmove
from hashlib import sha256

from hsm import cryptoki as ck
from hsm import ctr
from hsm import prf as token_prf
from hsm.capabilities import Capabilities
from hsm.cryptoki import AesCbcEncryptDataParams, Mechanism
from hsm.errors import KeyNotFound, TokenFault, TokenGone
from hsm.session import HMAC_SHA_1, HMAC_SHA_256, Buffer, NotCopied, Session, buffer, wipe
from hsm.templates import Templates
from kms.crypto import keywrap, limits
from kms.crypto.interface import Key, KeyOperations, UnsupportedKey, Use, VerificationError, WrongUse
from kms.mikey.registry import EncrAlg, MacAlg, PrfFunc

_HMACS = {MacAlg.HMAC_SHA_1_160: HMAC_SHA_1, MacAlg.HMAC_SHA_256_256: HMAC_SHA_256}
_HASH_LENGTH = 32
_CBC = Mechanism(ck.AES_CBC, buffer(16))
_ECB = Mechanism(ck.AES_ECB)
RSA = Mechanism(ck.RSA_PKCS)


class TokenKey(NotCopied, Key):
    """An object in a token, known by its handle; 0 once it was destroyed. `length` is that of the key, not counting
    the zeros behind a PRF key that was padded. A `composed` BRANCH key has CKA_ENCRYPT and not CKA_DERIVE.
    """

    __slots__ = ("composed", "handle", "is_master", "session")

    def __init__(
        self,
        session: Session,
        use: Use,
        length: int,
        handle: int,
        *,
        is_master: bool = False,
        composed: bool = False,
    ) -> None:
        super().__init__(use, length)
        self.session = session
        self.handle = handle
        self.is_master = is_master
        self.composed = composed


class TokenOperations(NotCopied, KeyOperations):
    """See KeyOperations. Besides its errors, all raise TokenFault, TokenGone or KeyNotFound.

    For one thread. A key belongs to the session in which it was made or looked up: in a later one, such as after the
    token was reset, it raises KeyNotFound.
    """

    def __init__(self, session: Session, capabilities: Capabilities) -> None:
        self.session = session
        self.capabilities = capabilities
        self._scopes: list[list[TokenKey]] = []
        self._derive_params = AesCbcEncryptDataParams()
        self._derive_mechanism = Mechanism(ck.AES_CBC_ENCRYPT_DATA, self._derive_params)
        self.adopt()

    def adopt(self) -> None:
        """Take over what the probe has found."""
        self._templates = Templates(self.capabilities)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """See KeyOperations."""
        made: list[TokenKey] = []
        self._scopes.append(made)
        try:
            yield
        finally:
            self._scopes.pop()
            self._destroy(made)

    # -- this project's own derivation -------------------------------------------------------------------------------

    def branch(self, parent: Key, label: bytes) -> Key:
        """See KeyOperations."""
        return self._derive(parent, label, 32, Use.BRANCH)

    def leaf(self, parent: Key, label: bytes, length: int, use: Use) -> Key:
        """See KeyOperations."""
        limits.check_new_key(use, length, limits.LEAF_USES)
        if use is Use.PRF and length < _HASH_LENGTH and not self.capabilities.short_hmac:
            # It cannot be padded inside the token: its bytes pass through here.
            return self._load_and_wipe(self._release(parent, label), length, use)
        return self._derive(parent, label, length, use)

    def release(self, parent: Key, label: bytes, length: int) -> bytes:
        """See KeyOperations. A master releases nothing: WrongUse."""
        limits.check_length("a release", length, 1, 32)
        out = self._release(parent, label)
        try:
            return bytes(out[:length])
        finally:
            wipe(out)

    def _derive(self, parent: Key, label: bytes, length: int, use: Use) -> TokenKey:
        base = self.key(parent, Use.BRANCH)
        digest = sha256(label).digest()
        if base.composed:
            return self._load_and_wipe(self.session.encrypt(_CBC, base.handle, digest), length, use)
        self._derive_params.data, self._derive_params.length = digest, len(digest)
        template = self._templates.derive(use, length)
        return self._keep(use, length, self.session.derive(self._derive_mechanism, base.handle, template))

    def _release(self, parent: Key, label: bytes) -> Buffer:
        base = self.key(parent, Use.BRANCH)
        if base.is_master:
            raise WrongUse("a master key releases nothing: derive a branch from it first")
        return self.session.encrypt(_CBC, base.handle, sha256(label).digest())

    # -- the PRF of RFC 3830 4.1.2 -----------------------------------------------------------------------------------

    def prf_key(self, key: Key, prf: PrfFunc, label: bytes, length: int, use: Use) -> Key:
        """See KeyOperations."""
        limits.check_new_key(use, length, limits.PRF_USES)
        limits.check_prf(label, length, 16, 32)
        handle = self.handle(key, Use.PRF)
        if prf in self.capabilities.native_prf and (
            use is not Use.PRF or length >= _HASH_LENGTH or self.capabilities.short_hmac
        ):
            derived = self.session.derive(
                token_prf.kdf(prf, label), handle, self._templates.derive(use, length)
            )
            return self._keep(use, length, derived)
        out = token_prf.p_function(self.session, handle, prf, label, length)
        return self._load_and_wipe(out, length, use)

    def prf_release(self, key: Key, prf: PrfFunc, label: bytes, length: int) -> bytes:
        """See KeyOperations."""
        limits.check_prf(label, length, 1, 64)
        out = token_prf.p_function(self.session, self.handle(key, Use.PRF), prf, label, length)
        try:
            return bytes(out)
        finally:
            wipe(out)

    # -- using keys --------------------------------------------------------------------------------------------------

    def mac(self, key: Key, alg: MacAlg, data: bytes) -> bytes:
        """See KeyOperations."""
        handle = self.handle(key, Use.SIGN)
        length = limits.mac_length(key, alg)
        out = buffer(length)
        self.session.sign(_HMACS[alg], handle, data, len(data), out, length)
        return bytes(out)

    def verify(self, key: Key, alg: MacAlg, data: bytes, mac: bytes) -> None:
        """See KeyOperations."""
        handle = self.handle(key, Use.VERIFY)
        if len(mac) != limits.mac_length(key, alg):
            raise VerificationError("the MAC does not verify")
        try:
            self.session.verify(_HMACS[alg], handle, data, mac)
        except TokenFault as fault:
            if fault.function == "C_Verify" and fault.ckr in self.capabilities.wrong_mac:
                raise VerificationError("the MAC does not verify") from None
            raise

    def encrypt(self, key: Key, alg: EncrAlg, iv: bytes, data: bytes) -> bytes:
        """See KeyOperations."""
        handle = self.handle(key, Use.ENCRYPT)
        limits.check_cipher(key, alg, iv, data)
        if alg is EncrAlg.AES_KW_128:
            return keywrap.wrap(_on_bytes(self.session.encrypt, _ECB, handle), iv, data)
        if not self.capabilities.native_ctr:
            return ctr.composed(self.session, handle, iv, data)
        return _on_bytes(self.session.encrypt, ctr.mechanism(iv), handle)(data)

    def decrypt(self, key: Key, alg: EncrAlg, iv: bytes, data: bytes) -> bytes:
        """See KeyOperations."""
        handle = self.handle(key, Use.DECRYPT)
        limits.check_cipher(key, alg, iv, data)
        if alg is EncrAlg.AES_KW_128:
            return keywrap.unwrap(_on_bytes(self.session.decrypt, _ECB, handle), iv, data)
        if not self.capabilities.native_ctr:
            return ctr.composed(self.session, handle, iv, data)
        return _on_bytes(self.session.decrypt, ctr.mechanism(iv), handle)(data)

    # -- keys from outside -------------------------------------------------------------------------------------------

    def load(self, value: bytes, use: Use) -> Key:
        """See KeyOperations."""
        limits.check_new_key(use, len(value), limits.SYMMETRIC_USES)
        copy = buffer(len(value))
        memmove(copy, value, len(value))
        try:
            return self._load(copy, len(value), use)
        finally:
            wipe(copy)

    def unwrap(self, key: Key, wrapped: bytes) -> Key:
        """See KeyOperations."""
        handle = self.handle(key, Use.UNWRAP)
        try:
            return self._unwrap(handle, wrapped)
        except UnsupportedKey:
            raise VerificationError("the envelope key does not open") from None
        except TokenFault as fault:
            if fault.ckr in self.capabilities.wrong_wrap:
                raise VerificationError("the envelope key does not open") from None
            raise

    def _unwrap(self, handle: int, wrapped: bytes) -> TokenKey:
        opened = self.session.unwrap(RSA, handle, wrapped, self._templates.unwrap())
        try:
            length = self._opened_length(opened)
            if length is not None:
                limits.check_new_key(Use.PRF, length, limits.SYMMETRIC_USES)
        except BaseException:
            self.session.destroy(opened)
            raise
        if length == _HASH_LENGTH or (length is not None and self.capabilities.short_hmac):
            return self._keep(Use.PRF, length, opened)
        # Too short for the token's HMAC, and it cannot be padded inside: its bytes pass through here.
        self.session.destroy(opened)
        value = self.session.decrypt_rsa(RSA, handle, wrapped)
        try:
            limits.check_new_key(Use.PRF, len(value), limits.SYMMETRIC_USES)
            return self._load(value, len(value), Use.PRF)
        finally:
            wipe(value)

    def _opened_length(self, opened: int) -> int | None:
        """The length of an unwrapped key; None if it is too short for HMAC-SHA-256 and not known."""
        length = int.from_bytes(self.session.attribute(opened, ck.VALUE_LEN), "little")
        if length or self.capabilities.short_hmac:
            return length
        # SoftHSM says 0 for all, but refuses HMAC with keys under 32 bytes. An envelope key of more than 32 bytes
        # passes as one of 32: its PRF comes out wrong and with it the MAC of the message, so that it is refused too.
        try:
            self.session.sign(HMAC_SHA_256, opened, b"", 0, buffer(32), 32)
        except TokenGone:
            raise
        except TokenFault:
            return None
        return _HASH_LENGTH

    def random(self, length: int) -> bytes:
        """See KeyOperations."""
        return self.session.random(length)

    def _load_and_wipe(self, value: Buffer, length: int, use: Use) -> TokenKey:
        try:
            return self._load(value, length, use)
        finally:
            wipe(value)

    def _load(self, value: Buffer, length: int, use: Use) -> TokenKey:
        # HMAC keys are padded with zeros to its block anyway; SoftHSM refuses those that are shorter than the hash.
        size = _HASH_LENGTH if use is Use.PRF else length
        exact = buffer(size)
        memmove(exact, value, length)
        try:
            return self._keep(use, length, self.session.create(self._templates.load(use, length), exact))
        finally:
            wipe(exact)

    # -- handles -----------------------------------------------------------------------------------------------------

    def _keep(self, use: Use, length: int, handle: int) -> TokenKey:
        key = TokenKey(self.session, use, length, handle, composed=not self.capabilities.native_derivation)
        if self._scopes:
            self._scopes[-1].append(key)
        return key

    def handle(self, key: Key, use: Use) -> int:
        """The handle of a live key of this session that has this use."""
        return self.key(key, use).handle

    def key(self, key: Key, use: Use) -> TokenKey:
        """The key itself, if it is a live one of this session that has this use."""
        if not isinstance(key, TokenKey):
            raise WrongUse("the key belongs to other key operations")
        if key.session is not self.session:
            raise KeyNotFound("the key is of another session of the token: look it up or derive it again")
        if not key.handle and key.is_master:
            raise KeyNotFound("the master key is gone from the token: it was destroyed")
        if not key.handle:
            raise WrongUse("the key was destroyed when its scope ended")
        limits.check_use(key, use)
        return key

    def _destroy(self, keys: list[TokenKey]) -> None:
        """Destroy all of them, also when one fails; then raise the first failure. An older session's are gone."""
        failure: Exception | None = None
        for key in keys:
            handle, key.handle = key.handle, 0
            if key.session is not self.session:
                continue
            try:
                self.session.destroy(handle)
            except (TokenFault, KeyNotFound) as error:
                failure = failure or error
        if failure is not None:
            raise failure


def _on_bytes(
    operation: Callable[[Mechanism, int, bytes], Buffer], mechanism: Mechanism, handle: int
) -> Callable[[bytes], bytes]:
    def run(data: bytes) -> bytes:
        if not data:
            return b""
        out = operation(mechanism, handle, data)
        try:
            return bytes(out)
        finally:
            wipe(out)

    return run

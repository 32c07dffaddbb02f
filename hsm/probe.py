"""Trying every operation with known keys before a token is used: its mechanism list is not believed.

The known answers come from kms.crypto.software, which agrees with the RFC's test vectors.
"""

from collections.abc import Callable
from functools import partial

from hsm import ckr
from hsm import cryptoki as ck
from hsm.capabilities import COMPOSED, NATIVE, Rung
from hsm.cryptoki import Mechanism
from hsm.errors import KeyNotFound, TokenFault, TokenGone, TokenUnfit
from hsm.operations import TokenOperations
from hsm.templates import MISSING, Template
from kms.crypto.interface import KeyOperations, Use, VerificationError
from kms.crypto.limits import MAC_LENGTHS
from kms.crypto.software import SoftwareKeys
from kms.mikey.registry import EncrAlg, MacAlg, PrfFunc

Test = Callable[[KeyOperations], list[bytes]]
_KEY = bytes(range(1, 33))
_LABEL = b"known-answer test"
_DATA = bytes(range(64))
_SHA_256 = MacAlg.HMAC_SHA_256_256
_KDF = "CKM_SP800_108_DOUBLE_PIPELINE_KDF"
_CBC_DATA = "CKM_AES_CBC_ENCRYPT_DATA"


def run(token: TokenOperations, *, require_native_prf: bool) -> tuple[Rung, ...]:
    """Find out how each operation is done on this token. Raises TokenUnfit, naming the operation that fails."""
    _choose_templates(token)
    return (
        *_derivations(token, require_native_prf),
        *(_macs(token, alg) for alg in MAC_LENGTHS),
        *(rung for func in PrfFunc for rung in _prfs(token, func, require_native_prf)),
        *(_ciphers(token, alg) for alg in (EncrAlg.AES_CM_128, EncrAlg.AES_CM_256, EncrAlg.AES_KW_128)),
    )


def weaknesses(token: TokenOperations) -> tuple[str, ...]:
    """What the token would let a caller do that the keys' attributes forbid. Found by trying it on a test key."""
    found = []
    if not token.capabilities.native_derivation:
        found.append(
            "the token lacks CKM_AES_CBC_ENCRYPT_DATA: branches and leaves pass through the engine's memory while they "
            "are made, and whoever may use a master can compute any key derived from it, though not take the master"
        )
    with token.scope():
        branch = token.handle(token.load(_KEY, Use.BRANCH), Use.BRANCH)
        for kind, what in ((ck.EXTRACTABLE, "can be extracted"), (ck.SIGN, "has further uses")):
            try:
                token.session.destroy(token.session.copy(branch, Template([(kind, True)])))
            except TokenFault:
                continue
            found.append(f"C_CopyObject makes a copy that {what}, although CKA_COPYABLE is false")
        try:
            token.session.encrypt(Mechanism(ck.AES_ECB), branch, bytes(16))
        except TokenFault:
            pass
        else:
            found.append("CKA_ALLOWED_MECHANISMS is not enforced")
        if token.capabilities.native_derivation and _derives_readable_keys(token, branch):
            found.append(
                "C_DeriveKey makes a readable key from one that is sensitive: whoever may use a master can read any "
                "key derived from it, though not take the master"
            )
    return tuple(found)


def _derives_readable_keys(token: TokenOperations, branch: int) -> bool:
    data = ck.AesCbcEncryptDataParams(data=bytes(32), length=32)
    readable = [(ck.CLASS, ck.SECRET_KEY), (ck.KEY_TYPE, ck.GENERIC_SECRET), (ck.VALUE_LEN, 32)]
    readable += [(ck.TOKEN, False), (ck.SENSITIVE, False), (ck.EXTRACTABLE, True)]
    try:
        derived = token.session.derive(Mechanism(ck.AES_CBC_ENCRYPT_DATA, data), branch, Template(readable))
    except TokenFault:
        return False
    try:
        return len(token.session.attribute(derived, ck.VALUE)) == 32
    except TokenFault:
        return False
    finally:
        token.session.destroy(derived)


# -- one family of operations each -----------------------------------------------------------------------------------


def _derivations(token: TokenOperations, require_native: bool) -> list[Rung]:
    native = token.capabilities.native_derivation
    if require_native and not native:
        raise TokenUnfit(
            f"the token does not derive branches by itself ({_CBC_DATA}): require_native_prf forbids it"
        )
    _demand("branch, leaf, release", token, _own_derivation)
    token.capabilities.short_hmac = True
    token.capabilities.short_hmac = _passes(token, _short_leaf)
    _demand("leaf for PRF under 32 bytes", token, _short_leaf)
    by_token, by_us = (NATIVE, _CBC_DATA), (COMPOSED, "CKM_AES_CBC, C_CreateObject")
    return [
        Rung("branch, leaf", *(by_token if native else by_us)),
        Rung(
            "leaf for PRF under 32 bytes", *(by_token if native and token.capabilities.short_hmac else by_us)
        ),
        Rung("release", NATIVE, "CKM_AES_CBC"),
    ]


def _macs(token: TokenOperations, alg: MacAlg) -> Rung:
    _learn_wrong_mac(token, alg)
    _demand(alg.name, token, partial(_mac, alg))
    hmac = "CKM_SHA_1_HMAC" if alg is MacAlg.HMAC_SHA_1_160 else "CKM_SHA256_HMAC"
    return Rung(f"mac, verify {alg.name}", NATIVE, hmac)


def _prfs(token: TokenOperations, func: PrfFunc, require_native: bool) -> list[Rung]:
    token.capabilities.native_prf.add(func)
    token.adopt()
    native = _passes(token, partial(_prf_keys, func))
    if not native:
        token.capabilities.native_prf.discard(func)
        token.adopt()
        if require_native:
            raise TokenUnfit(
                f"the token does not compute {func.name} by itself ({_KDF}): require_native_prf forbids it"
            )
    _demand(f"prf_key {func.name}", token, partial(_prf_keys, func))
    _demand(f"prf_release {func.name}", token, partial(_prf_release, func))
    hmac = "CKM_SHA_1_HMAC" if func is PrfFunc.MIKEY_1 else "CKM_SHA256_HMAC"
    return [
        Rung(f"prf_key {func.name}", *((NATIVE, _KDF) if native else (COMPOSED, f"{hmac}, C_CreateObject"))),
        Rung(f"prf_release {func.name}", NATIVE, hmac),
    ]


def _ciphers(token: TokenOperations, alg: EncrAlg) -> Rung:
    native = alg is not EncrAlg.AES_KW_128
    if native:
        token.capabilities.native_ctr = True
        native = not _lacks("C_EncryptInit", _fault(token, partial(_cipher, alg)))
        token.capabilities.native_ctr = native
        token.adopt()
    _demand(alg.name, token, partial(_cipher, alg))
    return Rung(
        f"encrypt, decrypt {alg.name}", *((NATIVE, "CKM_AES_CTR") if native else (COMPOSED, "CKM_AES_ECB"))
    )


# -- choosing --------------------------------------------------------------------------------------------------------


def _choose_templates(token: TokenOperations) -> None:
    """Which attributes does the token take in the template of a session key, and does it derive by itself?

    A failure of the moment must not weaken how keys are made: composed derivation needs the token's word that it lacks
    the mechanism.
    """
    token.capabilities.native_derivation = True
    for missing in MISSING:
        token.capabilities.missing = frozenset(missing)
        fault = _fault(token, _own_derivation)
        if _lacks("C_DeriveKey", fault):
            token.capabilities.native_derivation = False
            fault = _fault(token, _own_derivation)
        if fault is None or isinstance(fault, TokenGone) or fault.ckr in ckr.OF_THE_MOMENT:
            return


def _lacks(function: str, fault: TokenFault | None) -> bool:
    """Whether the token said that it has no such mechanism."""
    missing = (ckr.MECHANISM_INVALID, ckr.FUNCTION_NOT_SUPPORTED)
    return fault is not None and fault.function == function and fault.ckr in missing


def _fault(token: TokenOperations, test: Test) -> TokenFault | None:
    token.adopt()
    try:
        _run(token, test)
    except TokenFault as fault:
        return fault
    except (KeyNotFound, VerificationError):
        pass
    return None


def _learn_wrong_mac(token: TokenOperations, alg: MacAlg) -> None:
    """What does C_Verify return for a wrong MAC? NSS says CKR_DEVICE_ERROR."""
    length = MAC_LENGTHS[alg]
    with token.scope():
        key = token.load(_KEY[:length], Use.VERIFY)
        try:
            token.verify(key, alg, _DATA, bytes(length))
        except VerificationError:
            return
        except (TokenGone, KeyNotFound):
            raise
        except TokenFault as fault:
            if fault.function != "C_Verify":
                raise TokenUnfit(f"{alg.name}: {fault}") from None
            token.capabilities.wrong_mac.add(fault.ckr)
            return
    raise TokenUnfit(f"the token accepts a wrong {alg.name}")


def _passes(token: TokenOperations, test: Test) -> bool:
    try:
        return _run(token, test) == _run(SoftwareKeys(), test)
    except TokenGone:
        raise
    except (TokenFault, KeyNotFound):
        return False


def _demand(operation: str, token: TokenOperations, test: Test) -> None:
    try:
        answer = _run(token, test)
    except TokenGone:
        raise
    except (TokenFault, VerificationError) as fault:
        raise TokenUnfit(f"the token cannot do {operation}: {fault}") from None
    if answer != _run(SoftwareKeys(), test):
        raise TokenUnfit(f"the token computes {operation} wrongly: its known-answer test failed")


def _run(ops: KeyOperations, test: Test) -> list[bytes]:
    with ops.scope():
        return test(ops)


# -- known-answer tests: each gives what can be compared -------------------------------------------------------------


def _own_derivation(ops: KeyOperations) -> list[bytes]:
    branch = ops.branch(ops.load(_KEY, Use.BRANCH), _LABEL)
    leaf = ops.leaf(branch, _LABEL, 32, Use.SIGN)
    short = ops.leaf(branch, _LABEL, 20, Use.SIGN)
    return [
        ops.release(branch, _LABEL, 32),
        ops.mac(leaf, _SHA_256, _DATA),
        ops.mac(short, MacAlg.HMAC_SHA_1_160, _DATA),
    ]


def _mac(alg: MacAlg, ops: KeyOperations) -> list[bytes]:
    length = MAC_LENGTHS[alg]
    mac = ops.mac(ops.load(_KEY[:length], Use.SIGN), alg, _DATA)
    ops.verify(ops.load(_KEY[:length], Use.VERIFY), alg, _DATA, mac)
    return [mac]


def _short_leaf(ops: KeyOperations) -> list[bytes]:
    leaf = ops.leaf(ops.load(_KEY, Use.BRANCH), _LABEL, 16, Use.PRF)
    return [ops.prf_release(leaf, func, _LABEL, 64) for func in PrfFunc]


def _prf_keys(func: PrfFunc, ops: KeyOperations) -> list[bytes]:
    key = ops.load(_KEY, Use.PRF)
    short = ops.load(_KEY[:16], Use.PRF)
    forked = ops.prf_key(key, func, _LABEL, 32, Use.PRF)
    return [
        ops.mac(ops.prf_key(key, func, _LABEL, 32, Use.SIGN), _SHA_256, _DATA),
        ops.mac(ops.prf_key(short, func, _LABEL, 20, Use.SIGN), MacAlg.HMAC_SHA_1_160, _DATA),
        ops.encrypt(ops.prf_key(key, func, _LABEL, 16, Use.ENCRYPT), EncrAlg.AES_CM_128, bytes(16), _DATA),
        ops.mac(ops.prf_key(forked, func, _LABEL, 32, Use.SIGN), _SHA_256, _DATA),
    ]


def _prf_release(func: PrfFunc, ops: KeyOperations) -> list[bytes]:
    return [ops.prf_release(ops.load(_KEY, Use.PRF), func, _LABEL, length) for length in (14, 32, 64)]


def _cipher(alg: EncrAlg, ops: KeyOperations) -> list[bytes]:
    value = _KEY if alg is EncrAlg.AES_CM_256 else _KEY[:16]
    iv = _KEY[:8] if alg is EncrAlg.AES_KW_128 else _KEY[:14] + b"\0\0"
    sealed = ops.encrypt(ops.load(value, Use.ENCRYPT), alg, iv, _DATA)
    return [sealed, ops.decrypt(ops.load(value, Use.DECRYPT), alg, iv, sealed)]

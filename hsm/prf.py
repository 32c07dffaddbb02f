"""The PRF of RFC 3830 4.1.2 with a key in the token: rung 1 of the ladder, and what rung 3 is composed of.

For keys of up to 32 bytes the PRF is the P-function alone, which is SP 800-108's double-pipeline mode without a
counter: A(0) = label, A(i) = HMAC(key, A(i-1)), output HMAC(key, A(1) || label) || HMAC(key, A(2) || label) ...
"""

import ctypes
from ctypes import byref

from hsm import cryptoki as ck
from hsm.cryptoki import KdfParams, Mechanism, PrfDataParam
from hsm.session import HMAC_SHA_1, HMAC_SHA_256, Buffer, Session, buffer, wipe
from kms.mikey.registry import PrfFunc

_HMACS = {PrfFunc.MIKEY_1: (HMAC_SHA_1, 20), PrfFunc.PRF_HMAC_SHA_256: (HMAC_SHA_256, 32)}
_ITERATION_VARIABLE = 1
_BYTE_ARRAY = 4


def kdf(func: PrfFunc, label: bytes) -> Mechanism:
    """CKM_SP800_108_DOUBLE_PIPELINE_KDF with this label: rung 1."""
    data = (PrfDataParam * 2)(
        PrfDataParam(_ITERATION_VARIABLE, None, 0), PrfDataParam(_BYTE_ARRAY, label, len(label))
    )
    return Mechanism(ck.SP800_108_DOUBLE_PIPELINE_KDF, KdfParams(_HMACS[func][0].mechanism, 2, data, 0, None))


def p_function(session: Session, key: int, func: PrfFunc, label: bytes, length: int) -> Buffer:
    """`length` bytes of PRF(key, label) by C_Sign in the token. The caller wipes the result."""
    mechanism, size = _HMACS[func]
    blocks = -(-length // size)
    out = buffer(blocks * size)
    # Holds A(i) || label; A(i+1) goes to `following` first, because C_Sign must not write over its input.
    work, following = buffer(size + len(label)), buffer(size)
    ctypes.memmove(byref(work, size), label, len(label))
    try:
        session.sign(mechanism, key, label, len(label), work, size)
        for block in range(blocks):
            session.sign(mechanism, key, work, size + len(label), byref(out, block * size), size)
            if block + 1 < blocks:
                session.sign(mechanism, key, work, size, following, size)
                ctypes.memmove(work, following, size)
        result = buffer(length)
        ctypes.memmove(result, out, length)
        return result
    finally:
        wipe(out, work, following)

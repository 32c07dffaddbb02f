"""The PKCS#11 C functions that are called for every message, straight from the module's function list.

Why not python-pkcs11 for these: docs/decisions/0002-direct-cryptoki-calls.md. The module is the one that
python-pkcs11 has loaded; session handles are shared with it. Names are those of PKCS#11 v2.40 and v3.0.
"""

import ctypes
import time
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_ubyte, c_ulong, c_void_p, sizeof
from typing import Any, ClassVar

from hsm import ckr
from hsm.errors import KeyNotFound, TokenFault, TokenGone

# CKF, CKU, CKS
OS_LOCKING_OK = 0x02
RW_SESSION = 0x02
SERIAL_SESSION = 0x04
USER = 1
RW_USER_FUNCTIONS = 3

# CKO, CKK
PUBLIC_KEY = 0x02
PRIVATE_KEY = 0x03
SECRET_KEY = 0x04
RSA = 0x00
GENERIC_SECRET = 0x10
AES = 0x1F

# CKM
RSA_PKCS_KEY_PAIR_GEN = 0x000
RSA_PKCS = 0x001
SHA_1_HMAC = 0x221
SHA256_HMAC = 0x251
SP800_108_DOUBLE_PIPELINE_KDF = 0x3AE
AES_KEY_GEN = 0x1080
AES_ECB = 0x1081
AES_CBC = 0x1082
AES_CTR = 0x1086
AES_CBC_ENCRYPT_DATA = 0x1105

MECHANISM_NAMES = {
    RSA_PKCS_KEY_PAIR_GEN: "CKM_RSA_PKCS_KEY_PAIR_GEN",
    RSA_PKCS: "CKM_RSA_PKCS",
    SHA_1_HMAC: "CKM_SHA_1_HMAC",
    SHA256_HMAC: "CKM_SHA256_HMAC",
    SP800_108_DOUBLE_PIPELINE_KDF: "CKM_SP800_108_DOUBLE_PIPELINE_KDF",
    AES_KEY_GEN: "CKM_AES_KEY_GEN",
    AES_ECB: "CKM_AES_ECB",
    AES_CBC: "CKM_AES_CBC",
    AES_CTR: "CKM_AES_CTR",
    AES_CBC_ENCRYPT_DATA: "CKM_AES_CBC_ENCRYPT_DATA",
}

# CKA
CLASS = 0x000
TOKEN = 0x001
PRIVATE = 0x002
LABEL = 0x003
VALUE = 0x011
KEY_TYPE = 0x100
ID = 0x102
SENSITIVE = 0x103
ENCRYPT = 0x104
DECRYPT = 0x105
WRAP = 0x106
UNWRAP = 0x107
SIGN = 0x108
VERIFY = 0x10A
DERIVE = 0x10C
MODULUS = 0x120
MODULUS_BITS = 0x121
PUBLIC_EXPONENT = 0x122
VALUE_LEN = 0x161
EXTRACTABLE = 0x162
NEVER_EXTRACTABLE = 0x164
ALWAYS_SENSITIVE = 0x165
MODIFIABLE = 0x170
COPYABLE = 0x171
ALLOWED_MECHANISMS = 0x40000600

USES = (ENCRYPT, DECRYPT, SIGN, VERIFY, WRAP, UNWRAP, DERIVE)
"""The attributes that permit a use of a secret key."""

_FUNCTIONS = """
C_Initialize C_Finalize C_GetInfo C_GetFunctionList C_GetSlotList C_GetSlotInfo C_GetTokenInfo C_GetMechanismList
C_GetMechanismInfo C_InitToken C_InitPIN C_SetPIN C_OpenSession C_CloseSession C_CloseAllSessions C_GetSessionInfo
C_GetOperationState C_SetOperationState C_Login C_Logout C_CreateObject C_CopyObject C_DestroyObject C_GetObjectSize
C_GetAttributeValue C_SetAttributeValue C_FindObjectsInit C_FindObjects C_FindObjectsFinal C_EncryptInit C_Encrypt
C_EncryptUpdate C_EncryptFinal C_DecryptInit C_Decrypt C_DecryptUpdate C_DecryptFinal C_DigestInit C_Digest
C_DigestUpdate C_DigestKey C_DigestFinal C_SignInit C_Sign C_SignUpdate C_SignFinal C_SignRecoverInit C_SignRecover
C_VerifyInit C_Verify C_VerifyUpdate C_VerifyFinal C_VerifyRecoverInit C_VerifyRecover C_DigestEncryptUpdate
C_DecryptDigestUpdate C_SignEncryptUpdate C_DecryptVerifyUpdate C_GenerateKey C_GenerateKeyPair C_WrapKey C_UnwrapKey
C_DeriveKey C_SeedRandom C_GenerateRandom
"""
"""CK_FUNCTION_LIST in its order, up to the last function used here."""

_ARGUMENTS = {
    "C_Initialize": "p",
    "C_Finalize": "p",
    "C_InitToken": "upup",
    "C_OpenSession": "uuppp",
    "C_CloseSession": "u",
    "C_GetSessionInfo": "up",
    "C_Login": "uupu",
    "C_Logout": "u",
    "C_CreateObject": "upup",
    "C_CopyObject": "uupup",
    "C_DestroyObject": "uu",
    "C_GetAttributeValue": "uupu",
    "C_SetAttributeValue": "uupu",
    "C_FindObjectsInit": "upu",
    "C_FindObjects": "upup",
    "C_FindObjectsFinal": "u",
    "C_EncryptInit": "upu",
    "C_Encrypt": "upupp",
    "C_DecryptInit": "upu",
    "C_Decrypt": "upupp",
    "C_SignInit": "upu",
    "C_Sign": "upupp",
    "C_VerifyInit": "upu",
    "C_Verify": "upupu",
    "C_GenerateKey": "uppup",
    "C_GenerateKeyPair": "uppupupp",
    "C_UnwrapKey": "upupupup",
    "C_DeriveKey": "upupup",
    "C_GenerateRandom": "upu",
}
"""The functions used here: u is a CK_ULONG (also handles), p a pointer. Each returns a CK_RV."""
_TYPES = {"u": c_ulong, "p": c_void_p}

_GONE = {
    ckr.DEVICE_REMOVED,
    ckr.SESSION_CLOSED,
    ckr.SESSION_HANDLE_INVALID,
    ckr.TOKEN_NOT_PRESENT,
    ckr.USER_NOT_LOGGED_IN,
    ckr.CRYPTOKI_NOT_INITIALIZED,
}
_NO_KEY = {ckr.KEY_HANDLE_INVALID, ckr.OBJECT_HANDLE_INVALID}


class Mechanism(ctypes.Structure):
    """CK_MECHANISM. Keeps its parameter alive."""

    _fields_: ClassVar = [("mechanism", c_ulong), ("parameter", c_void_p), ("length", c_ulong)]

    def __init__(self, mechanism: int, parameter: Any = None) -> None:
        super().__init__(mechanism, None, 0)
        if parameter is not None:
            self.keep = parameter
            self.parameter = ctypes.addressof(parameter)
            self.length = sizeof(parameter)


class Attribute(ctypes.Structure):
    """CK_ATTRIBUTE."""

    _fields_: ClassVar = [("type", c_ulong), ("value", c_void_p), ("length", c_ulong)]


class AesCbcEncryptDataParams(ctypes.Structure):
    """CK_AES_CBC_ENCRYPT_DATA_PARAMS."""

    _fields_: ClassVar = [("iv", c_ubyte * 16), ("data", c_char_p), ("length", c_ulong)]


class AesCtrParams(ctypes.Structure):
    """CK_AES_CTR_PARAMS."""

    _fields_: ClassVar = [("counter_bits", c_ulong), ("block", c_ubyte * 16)]


class PrfDataParam(ctypes.Structure):
    """CK_PRF_DATA_PARAM."""

    _fields_: ClassVar = [("type", c_ulong), ("value", c_char_p), ("length", c_ulong)]


class KdfParams(ctypes.Structure):
    """CK_SP800_108_KDF_PARAMS."""

    _fields_: ClassVar = [
        ("prf", c_ulong),
        ("count", c_ulong),
        ("data", POINTER(PrfDataParam)),
        ("additional_count", c_ulong),
        ("additional", c_void_p),
    ]


class SessionInfo(ctypes.Structure):
    """CK_SESSION_INFO."""

    _fields_: ClassVar = [
        ("slot", c_ulong),
        ("state", c_ulong),
        ("flags", c_ulong),
        ("device_error", c_ulong),
    ]


class InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS, in NSS's longer form: its LibraryParameters stands where others have pReserved."""

    _fields_: ClassVar = [
        ("mutexes", c_void_p * 4),
        ("flags", c_ulong),
        ("parameters", c_char_p),
        ("reserved", c_void_p),
    ]


class Cryptoki:
    """The functions of one module as attributes that raise TokenFault for any return code but CKR_OK.

    USER_NOT_LOGGED_IN, SESSION_HANDLE_INVALID and the like raise TokenGone, an invalid object handle KeyNotFound.
    """

    def __init__(self, module: str) -> None:
        self._library = ctypes.CDLL(module)
        pointer = c_void_p()
        rv = int(self._library.C_GetFunctionList(byref(pointer)))
        if rv != ckr.OK or not pointer.value:
            raise TokenFault("C_GetFunctionList", rv)
        names = _FUNCTIONS.split()
        # The list starts with a CK_VERSION of two bytes, padded to a pointer.
        addresses = (c_void_p * (len(names) + 1)).from_address(pointer.value)[1:]
        self._functions = {
            name: ctypes.CFUNCTYPE(c_ulong, *(_TYPES[code] for code in _ARGUMENTS[name]))(address)
            for name, address in zip(names, addresses, strict=True)
            if name in _ARGUMENTS and address
        }
        for name, function in self._functions.items():
            setattr(self, name, _checked(name, function))

    def __getattr__(self, name: str) -> Callable[..., None]:
        # Only for names without a function: the others are in the instance.
        raise AttributeError(f"the module has no {name}")

    def count_calls(self) -> dict[str, list[float]]:
        """From now on count the calls of each function: name -> [number, seconds]. Costs nothing until called."""
        calls: dict[str, list[float]] = {}
        for name, function in self._functions.items():
            setattr(self, name, _counted(_checked(name, function), calls, name))
        return calls


def _checked(name: str, function: Callable[..., int]) -> Callable[..., None]:
    def call(*args: Any) -> None:
        rv = function(*args)
        if rv:
            raise _error(name, rv)

    return call


def _counted(function: Callable[..., None], calls: dict[str, list[float]], name: str) -> Callable[..., None]:
    def call(*args: Any) -> None:
        start = time.perf_counter()
        try:
            function(*args)
        finally:
            entry = calls.setdefault(name, [0, 0.0])
            entry[0] += 1
            entry[1] += time.perf_counter() - start

    return call


def _error(name: str, rv: int) -> Exception:
    if rv in _GONE:
        return TokenGone(name, rv)
    if rv in _NO_KEY:
        return KeyNotFound(f"{name}: the key is no longer in the token ({ckr.ckr_name(rv)})")
    return TokenFault(name, rv)

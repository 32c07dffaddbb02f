"""The token layer: keys in a PKCS#11 token and the few operations on them. The only importer of pkcs11."""

from hsm import nss, softhsm, uri
from hsm.capabilities import Probe, Rung
from hsm.errors import (
    KeyExists,
    KeyNotFound,
    PinRefused,
    TokenError,
    TokenFault,
    TokenGone,
    TokenNotFound,
    TokenUnfit,
)
from hsm.spec import TokenSpec
from hsm.token import MasterInfo, Token, open_token

__all__ = [
    "KeyExists",
    "KeyNotFound",
    "MasterInfo",
    "PinRefused",
    "Probe",
    "Rung",
    "Token",
    "TokenError",
    "TokenFault",
    "TokenGone",
    "TokenNotFound",
    "TokenSpec",
    "TokenUnfit",
    "nss",
    "open_token",
    "softhsm",
    "uri",
]

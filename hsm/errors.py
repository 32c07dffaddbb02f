"""What can go wrong with a token. The texts name functions, labels and return codes, never data, keys or PINs.

A wrong MAC, a key of the wrong use and an unsupported length are not the token's faults: they raise the errors of
kms.crypto.interface, as in software.
"""

from hsm.ckr import ckr_name


class TokenError(Exception):
    """Anything that a token, its library or its description did not do as asked."""


class TokenNotFound(TokenError):
    """The module cannot be loaded, or no token, or more than one, fits the description."""


class PinRefused(TokenError):
    """The token refused the PIN or is locked. Not tried again: tokens lock after a few wrong PINs."""


class TokenUnfit(TokenError):
    """The token lacks a mechanism that is needed, fails a known-answer test, or its rung was not allowed."""


class KeyNotFound(TokenError):
    """No such key in the token: never made, destroyed, or a handle from an earlier session."""


class KeyExists(TokenError):
    """A master with this label exists already; it is never overwritten."""


class TokenFault(TokenError):
    """A PKCS#11 function failed. `function` is its name and `ckr` the return code."""

    def __init__(self, function: str, ckr: int) -> None:
        super().__init__(f"{function} failed: {ckr_name(ckr)} (0x{ckr:x})")
        self.function = function
        self.ckr = ckr


class TokenGone(TokenFault):
    """The session or the token is dead: open the token again, in a new process if need be."""

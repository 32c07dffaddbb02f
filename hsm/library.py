"""Loading PKCS#11 modules, finding tokens and logging in: what python-pkcs11 does well.

A process can load a module with one configuration only, and PKCS#11 is used from one thread.
"""

import contextlib
import os
from collections.abc import Iterable
from ctypes import byref, c_ulong
from pathlib import Path

import pkcs11
from pkcs11 import _pkcs11

from hsm import ckr
from hsm import cryptoki as ck
from hsm.capabilities import Probe, Rung
from hsm.cryptoki import MECHANISM_NAMES, Cryptoki, InitializeArgs
from hsm.errors import PinRefused, TokenError, TokenFault, TokenNotFound
from hsm.session import Session
from hsm.spec import TokenSpec

_PIN_ERRORS = {
    ckr.PIN_INCORRECT,
    ckr.PIN_INVALID,
    ckr.PIN_LEN_RANGE,
    ckr.PIN_EXPIRED,
    ckr.PIN_LOCKED,
    ckr.USER_PIN_NOT_INITIALIZED,
}


class Library(_pkcs11.lib):
    """A loaded module: python-pkcs11's object, and the functions that are called directly."""

    def __new__(cls, spec: TokenSpec, cryptoki: Cryptoki) -> "Library":
        return super().__new__(cls, str(spec.module))  # type: ignore[call-arg]

    def __init__(self, spec: TokenSpec, cryptoki: Cryptoki) -> None:
        self.cryptoki = cryptoki
        self.spec = spec
        super().__init__(str(spec.module))

    def initialize(self) -> None:
        """C_Initialize with the parameters that NSS needs, and with locks, which python-pkcs11 leaves out."""
        arguments = InitializeArgs(flags=ck.OS_LOCKING_OK)
        if self.spec.softhsm_conf is not None:
            os.environ["SOFTHSM2_CONF"] = str(self.spec.softhsm_conf)
        if self.spec.nss_folder is not None:
            arguments.parameters = _nss_parameters(self.spec.nss_folder)
        try:
            self.cryptoki.C_Initialize(byref(arguments))
        except TokenFault as fault:
            if fault.ckr != ckr.CRYPTOKI_ALREADY_INITIALIZED:
                raise

    def restart(self) -> None:
        """C_Finalize, whatever it says, and C_Initialize. All sessions of this process with the module are gone."""
        with contextlib.suppress(TokenFault):
            self.cryptoki.C_Finalize(None)
        self.initialize()


_loaded: dict[Path, Library] = {}


def load(spec: TokenSpec) -> Library:
    """The module of a spec, loaded once per process. Raises TokenNotFound or TokenFault."""
    library = _loaded.get(spec.module)
    if library is None:
        if not spec.module.is_file():
            raise TokenNotFound(f"PKCS#11 library {spec.module} does not exist: is its package installed?")
        for path in (spec.softhsm_conf, spec.nss_folder):
            if path is not None and not path.exists():
                raise TokenNotFound(f"{path} does not exist: has the token been moved?")
        try:
            library = Library(spec, Cryptoki(str(spec.module)))
        except (OSError, pkcs11.PKCS11Error) as error:
            raise TokenNotFound(f"PKCS#11 library {spec.module} cannot be loaded: {error!r}") from None
        _loaded[spec.module] = library
    elif (library.spec.softhsm_conf, library.spec.nss_folder) != (spec.softhsm_conf, spec.nss_folder):
        raise TokenError(f"{spec.module} is in use with another configuration: a process can have one only")
    return library


def find_token(library: Library, spec: TokenSpec) -> pkcs11.Token:
    """The one token that fits. Raises TokenNotFound."""
    found = [token for token in tokens(library) if _fits(token, spec)]
    if len(found) != 1:
        what = "no" if not found else f"{len(found)} tokens instead of one:"
        raise TokenNotFound(f"{what} {spec}: check [token] in kms.toml")
    return found[0]


def tokens(library: Library) -> list[pkcs11.Token]:
    """The tokens in all slots, initialised or not. Raises TokenError."""
    found = []
    try:
        for slot in library.get_slots(token_present=True):
            with contextlib.suppress(pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
                found.append(slot.get_token())
    except pkcs11.PKCS11Error as error:
        raise TokenError(f"{library.spec.module} does not list its slots: {type(error).__name__}") from None
    return found


def log_in(library: Library, token: pkcs11.Token, pin: bytes) -> Session:
    """A session for reading and writing, logged in.

    Raises PinRefused after one attempt, TokenError if this process has the token open already.
    """
    handle = c_ulong()
    try:
        library.cryptoki.C_OpenSession(
            token.slot.slot_id, ck.SERIAL_SESSION | ck.RW_SESSION, None, None, byref(handle)
        )
    except TokenFault as fault:
        raise TokenError(f"no session with the token {token.label!r}: {fault}") from None
    session = Session(library.cryptoki, handle.value)
    try:
        session.log_in(pin)
    except TokenFault as fault:
        with contextlib.suppress(TokenFault):
            library.cryptoki.C_CloseSession(session.handle)
        raise _refusal(token.label, fault) from None
    return session


def _refusal(label: str, fault: TokenFault) -> TokenError:
    if fault.ckr in _PIN_ERRORS:
        return PinRefused(
            f"the token {label!r} refused the PIN ({ckr.ckr_name(fault.ckr)}); it was tried once, since tokens lock "
            "after a few wrong PINs"
        )
    if fault.ckr == ckr.USER_ALREADY_LOGGED_IN:
        return TokenError(f"this process has the token {label!r} open already: close it first")
    return TokenError(f"no login to the token {label!r}: {fault}")


def describe(
    library: Library, token: pkcs11.Token, rungs: tuple[Rung, ...], weaknesses: tuple[str, ...]
) -> Probe:
    """What `kms doctor` tells of a token."""
    version = "{}.{}".format(*library.library_version)
    firmware = "{}.{}".format(*token.firmware_version)
    mechanisms = sorted(token.slot.get_mechanisms())
    return Probe(
        token=f"{token.label} ({token.manufacturer_id} {token.model}, firmware {firmware})",
        library=f"{library.library_description} {version} ({library.manufacturer_id}), {library.spec.module}",
        rungs=rungs,
        mechanisms=tuple(_mechanism_name(int(mechanism)) for mechanism in mechanisms),
        weaknesses=weaknesses,
    )


def _mechanism_name(mechanism: int) -> str:
    if mechanism in MECHANISM_NAMES:
        return MECHANISM_NAMES[mechanism]
    try:
        return f"CKM_{pkcs11.Mechanism(mechanism).name.lstrip('_')}"
    except ValueError:
        return f"0x{mechanism:x}"


def set_user_pin(token: pkcs11.Token, so_pin: bytes, pin: bytes) -> None:
    """Set the user PIN as the SO (C_InitPIN). Raises TokenError."""
    try:
        session = token.open(rw=True, so_pin=so_pin.decode())
        try:
            session.init_pin(pin.decode())
        finally:
            session.close()
    except pkcs11.PKCS11Error as error:
        raise TokenError(
            f"the PIN of the token {token.label!r} cannot be set: {type(error).__name__}"
        ) from None


def first_of(candidates: Iterable[Path], name: str, package: str) -> Path:
    """The first of these modules that exists. Raises TokenNotFound."""
    for path in candidates:
        if path.is_file():
            return path
    raise TokenNotFound(f"{name} was not found: install it (Debian package {package})")


def _fits(token: pkcs11.Token, spec: TokenSpec) -> bool:
    return (
        (spec.label is None or token.label == spec.label)
        and (spec.serial is None or token.serial == spec.serial.encode())
        and (spec.slot is None or token.slot.slot_id == spec.slot)
    )


def _nss_parameters(folder: Path) -> bytes:
    if "'" in str(folder) or "\\" in str(folder):
        raise TokenError(f"{folder}: NSS does not take a quote or backslash in the path of its database")
    return (
        f"configdir='sql:{folder}' certPrefix='' keyPrefix='' secmod='secmod.db' flags=optimizeSpace".encode()
    )

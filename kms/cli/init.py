"""`kms init`: the key ceremony. Makes a home with token, master keys, TLS CA, server certificate and kms.toml."""

import contextlib
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from rich.text import Text

import hsm
from kms import config as configuration
from kms.cli import home as home_folder
from kms.cli import output, tls
from kms.cli.errors import CommandError
from kms.cli.users import check_uri
from kms.config import Address
from kms.engine import public_key
from kms.engine.ceremony import create_masters
from kms.link.hardening import forbid_core_dumps

_PIN_BYTES = 16
_MADE = ("kms.toml", "token", "tls")


@dataclass(frozen=True)
class Made:
    """What the ceremony made. `kms` certifies the RSA key; None if the token refuses RSA keys."""

    keys: Sequence[hsm.MasterInfo]
    ca: tls.Issued
    server: tls.Issued
    kms: x509.Certificate | None

    def key_fingerprints(self) -> list[tuple[str, str]]:
        """Label and fingerprint of each long-term key in the token."""
        found = [(key.label, key.fingerprint) for key in self.keys]
        key = None if self.kms is None else self.kms.public_key()
        if isinstance(key, rsa.RSAPublicKey):
            found.append((public_key.LABEL, public_key.fingerprint(key)))
        return found


@dataclass(frozen=True)
class Wishes:
    """What was asked for on the command line."""

    token: str
    identity: str
    grpc: str
    metrics: str
    engines: int
    pin_file: Path | None

    @property
    def existing_token(self) -> bool:
        """Whether the token is one that exists, named by its PKCS#11 URI."""
        return self.token.startswith("pkcs11:")

    def check(self) -> None:
        """Raise CommandError for what is wrong before anything is made."""
        check_uri(self.identity, "--identity")
        for option, text in (("--listen", self.grpc), ("--metrics", self.metrics)):
            try:
                Address.parse(text)
            except ValueError as error:
                raise CommandError(f"{option} {text}: {error}") from None
        if self.token not in ("softhsm", "nss") and not self.token.startswith("pkcs11:"):
            raise CommandError(
                f"--token {self.token}: must be softhsm, nss or a PKCS#11 URI (pkcs11:token=...)"
            )
        if self.token.startswith("pkcs11:") and self.pin_file is None:
            raise CommandError(
                "an existing token needs --pin-file FILE, a file (mode 0600) that holds its PIN"
            )


def init_command(home: Path, wishes: Wishes, *, as_json: bool) -> None:
    """Make the home and print what was made. Raises CommandError; then nothing that was made is left."""
    wishes.check()
    forbid_core_dumps()
    home = home_folder.resolve(home)
    with _new_home(home):
        pin_file, pin = _pin(home, wishes)
        ca, server = _make_tls(home, wishes)
        try:
            token = _make_token(home, wishes, pin, pin_file)
            epoch_seconds = home_folder.load(home).epoch_seconds
            keys = create_masters(token, epoch_seconds=epoch_seconds, now=time.time())
            made = Made(keys, ca, server, _make_rsa(home, wishes, token, ca))
        except hsm.TokenError as error:
            raise CommandError(str(error)) from None
    if as_json:
        output.print_json(_json(home, wishes, made))
    else:
        _print(home, wishes, made, pin_file)


@contextlib.contextmanager
def _new_home(home: Path) -> Iterator[None]:
    """A folder of mode 0700 that is empty at first; what was made in it is removed if the block fails."""
    try:
        existed = home.exists()
        if existed and (found := sorted(path.name for path in home.iterdir())):
            what = ", ".join(found[:6]) + (", ..." if len(found) > 6 else "")
            raise CommandError(
                f"{home} is not empty (it holds {what}): give another --home DIR, or move it away"
            )
        home.mkdir(mode=0o700, exist_ok=True)
        home.chmod(0o700)
    except FileNotFoundError:
        raise CommandError(f"{home.parent} does not exist: make it, or give another --home DIR") from None
    except OSError as error:
        raise CommandError(f"{home}: {error.strerror}; give another --home DIR") from None
    try:
        yield
    except BaseException as error:
        for name in _MADE:
            path = home / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if not existed:
            home.rmdir()
        if isinstance(error, OSError):
            raise CommandError(f"{error.filename or home}: {error.strerror}") from None
        raise


def _pin(home: Path, wishes: Wishes) -> tuple[Path, bytes]:
    """The PIN and its file: the given one, or a new one with a random PIN of 128 bits."""
    if not wishes.existing_token:
        (home / "token").mkdir(mode=0o700)
    if wishes.pin_file is None:
        path = home / home_folder.PIN
        home_folder.write_new(path, secrets.token_hex(_PIN_BYTES).encode() + b"\n")
    else:
        path = wishes.pin_file.expanduser().absolute()
        with contextlib.suppress(OSError):
            if (mode := path.stat().st_mode & 0o777) & 0o077:
                raise CommandError(
                    f"{path} has mode {mode:04o}: others may read the PIN; run `chmod 600 {path}`"
                )
    return path, home_folder.read_pin(path)


def _make_tls(home: Path, wishes: Wishes) -> tuple[tls.Issued, tls.Issued]:
    """The CA and the server's certificate, with their files."""
    (home / "tls").mkdir(mode=0o700)
    ca = tls.make_ca(f"CA of {wishes.identity}")
    server = tls.issue_server(ca, tls.server_hosts(Address.parse(wishes.grpc).host))
    home_folder.write_new(home / home_folder.TLS_CA, ca.certificate_pem(), 0o644)
    home_folder.write_new(home / home_folder.TLS_CA_KEY, ca.key_pem())
    home_folder.write_new(home / home_folder.TLS_CERT, server.certificate_pem(), 0o644)
    home_folder.write_new(home / home_folder.TLS_KEY, server.key_pem())
    return ca, server


def _token_spec(home: Path, wishes: Wishes, pin: bytes) -> hsm.TokenSpec:
    """A new token in the home, or the existing one that was named. Raises hsm.TokenError."""
    folder = home / "token"
    match wishes.token:
        case "softhsm":
            from hsm import softhsm

            # Nobody keeps the SO PIN: all it is good for is to set a new user PIN.
            return softhsm.create(folder, pin=pin, so_pin=secrets.token_hex(_PIN_BYTES).encode())
        case "nss":
            from hsm import nss

            return nss.create(folder, pin=pin)
        case uri:
            from hsm.uri import parse

            return parse(uri)


def _make_token(home: Path, wishes: Wishes, pin: bytes, pin_file: Path) -> hsm.Token:
    """Token and kms.toml. Raises hsm.TokenError."""
    spec = _token_spec(home, wishes, pin)
    configuration.write_default_config(
        home,
        identity=wishes.identity,
        grpc=wishes.grpc,
        metrics=wishes.metrics,
        engines=wishes.engines,
        pin_file=home_folder.PIN if wishes.pin_file is None else str(pin_file),
        token=spec.to_config(home),
    )
    config = home_folder.load(home)
    return hsm.open_token(hsm.TokenSpec.from_config(config.token, home), pin)


def _make_rsa(home: Path, wishes: Wishes, token: hsm.Token, ca: tls.Issued) -> x509.Certificate | None:
    """The RSA key in the token and its certificate; None if the token refuses. Raises hsm.TokenError."""
    key = public_key.create(token)
    if key is None:
        return None
    certificate = tls.issue_kms(ca, wishes.identity, key)
    home_folder.write_new(home / home_folder.PK_CERT, certificate.public_bytes(Encoding.PEM), 0o644)
    return certificate


def _print(home: Path, wishes: Wishes, made: Made, pin_file: Path) -> None:
    console = output.console()
    fingerprints = [
        *((f"key {label}", fingerprint) for label, fingerprint in made.key_fingerprints()),
        ("CA, SHA-256", tls.fingerprint(made.ca.certificate)),
        ("TLS certificate, SHA-256", tls.fingerprint(made.server.certificate)),
    ]
    if made.kms is not None:
        fingerprints.append(("certificate of the RSA key, SHA-256", tls.fingerprint(made.kms)))
    console.print(output.table("Keys and certificates made", ("what", "fingerprint"), fingerprints))
    files = [
        (str(home / configuration.CONFIG_NAME), f"configuration of {wishes.identity}"),
        (str(pin_file), "PIN of the token: back it up, apart from the token"),
        (str(home / home_folder.TLS_CA), "CA of server and users"),
        (str(home / home_folder.TLS_CA_KEY), "its key, for `kms user add`"),
        (str(home / home_folder.TLS_CERT), "TLS certificate of the server"),
        (str(home / home_folder.TLS_KEY), "its key"),
    ]
    if made.kms is not None:
        files.append((str(home / home_folder.PK_CERT), "certificate of the RSA key in the token"))
    console.print(output.table("Files made", ("path", "what"), files))
    if made.kms is None:
        console.print("The token refuses RSA keys: users can be enrolled with PSKs, not by certificate.")
    option = f" --home {home}"
    for number, (command, purpose) in enumerate(_NEXT, 1):
        console.print(
            Text(f"{number}. {command}{option}", style="bold"), Text(f"  {purpose}"), soft_wrap=True
        )


_NEXT = (
    ("kms serve", "run it"),
    ("kms user add sip:alice@example.com --role client", "enrol a participant"),
    ("kms doctor", "see how it does its key operations"),
)


def _json(home: Path, wishes: Wishes, made: Made) -> dict[str, Any]:
    return {
        "home": str(home),
        "identity": wishes.identity,
        "config": str(home / configuration.CONFIG_NAME),
        "keys": [{"label": label, "fingerprint": mark} for label, mark in made.key_fingerprints()],
        "tls_ca_sha256": tls.fingerprint(made.ca.certificate),
        "tls_cert_sha256": tls.fingerprint(made.server.certificate),
        "kms_cert_sha256": None if made.kms is None else tls.fingerprint(made.kms),
    }

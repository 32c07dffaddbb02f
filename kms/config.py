"""The configuration file of a KMS home folder, kms.toml."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, overload

CONFIG_NAME = "kms.toml"

_DEFAULT = """\
# Configuration of the KMS in this folder. Paths are relative to it.

[kms]
# The identity of this KMS in MIKEY messages (IDRkms), a URI.
identity = {identity}

[listen]
# Where participants and foci connect (gRPC over mutual TLS). Port 0 takes any free port.
grpc = {grpc}
# Prometheus metrics over HTTP, without TLS: keep it on a private address.
metrics = {metrics}
# REQUEST and RESOLVE over HTTP, with the same mutual TLS (docs/http.md). Off without this line.
# http = "127.0.0.1:8443"

[processes]
# Processes that use the token, one per core.
engines = {engines}
# Processes that face the network. Only 1 until the replay cache can be shared.
frontends = 1

[tls]
# The CA that signed the clients' certificates, and the server's own certificate and key (PEM).
ca = "tls/ca.pem"
cert = "tls/server.pem"
key = "tls/server.key"

[pk]
# For subscribers that sign instead of having a PSK: the CAs of their certificates (PEM, one or several), and the
# certificate of this KMS's RSA key.
ca = "tls/ca.pem"
cert = "tls/kms.pem"

[limits]
# A message whose timestamp is further off is refused.
clock_skew_seconds = 60
# No ticket is granted for longer; the key of an epoch is destroyed this long after the epoch's end.
max_ticket_lifetime_seconds = 86400
# How long one ticket protection key (TPK) is used for new tickets.
epoch_seconds = 86400

[token]
# File with the PIN of the token, mode 0600.
pin_file = {pin_file}
# With require_native_prf = true a token is refused that does not derive every key by itself.
"""


class ConfigError(Exception):
    """kms.toml cannot be used; the text names file, key and what is expected."""


@dataclass(frozen=True)
class Address:
    """A TCP address to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read HOST:PORT or [IPV6]:PORT. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        if not colon or not host or (":" in host) != bracketed:
            raise ValueError("expected HOST:PORT")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError("the port must be a number from 0 to 65535")
        return cls(host, int(port))


@dataclass(frozen=True)
class PeerConfig:
    """Another KMS, which resolves its tickets for us: [peers."IDENTITY"].

    `target` is its gRPC address; ca, cert and key (PEM) are for TLS with it, and for the frontend only; psk is a file
    for the engine only.
    """

    target: str
    ca: Path
    cert: Path
    key: Path
    psk: Path


@dataclass(frozen=True)
class Config:
    """What kms.toml says. All paths are absolute. Without `http` the HTTP endpoint is off."""

    identity: str
    grpc: Address
    metrics: Address
    engines: int
    frontends: int
    tls_ca: Path
    tls_cert: Path
    tls_key: Path
    pk_ca: Path
    pk_cert: Path
    clock_skew_seconds: int
    max_ticket_lifetime_seconds: int
    epoch_seconds: int
    pin_file: Path
    # What the token layer needs to find the token; checked there.
    token: Mapping[str, Any] = field(default_factory=dict)
    http: Address | None = None
    # By identity (IDRkms).
    peers: Mapping[str, PeerConfig] = field(default_factory=dict)


def load_config(home: Path) -> Config:
    """Read home/kms.toml. Raises ConfigError."""
    path = home / CONFIG_NAME
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: run `kms init --home {home}` first") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return _Reader(path, content).config()


def default_config(
    *,
    identity: str,
    token: Mapping[str, str | int | bool],
    pin_file: str = "token/pin",
    grpc: str = "127.0.0.1:7443",
    metrics: str = "127.0.0.1:9464",
    engines: int = 1,
) -> str:
    """Text of a commented kms.toml; token holds further keys of the [token] table."""
    text = _DEFAULT.format(
        identity=_toml(identity),
        grpc=_toml(grpc),
        metrics=_toml(metrics),
        engines=_toml(engines),
        pin_file=_toml(pin_file),
    )
    return text + "".join(f"{key} = {_toml(value)}\n" for key, value in token.items())


def peer_table(identity: str, values: Mapping[str, str]) -> str:
    """Text to append to kms.toml for a peer. values: the keys of PeerConfig, paths relative to the home."""
    lines = [f"{key} = {_toml(value)}\n" for key, value in values.items()]
    return f"\n[peers.{_toml(identity)}]\n{''.join(lines)}"


def write_default_config(
    home: Path, *, identity: str, token: Mapping[str, str | int | bool], **options: Any
) -> Path:
    """Write home/kms.toml, which must not exist yet (FileExistsError), and return its path.

    options are those of default_config.
    """
    path = home / CONFIG_NAME
    text = default_config(identity=identity, token=token, **options)
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
    return path


class _Reader:
    """Takes the keys it knows out of the parsed file; what is left over is an error."""

    def __init__(self, path: Path, content: dict[str, Any]) -> None:
        self._path = path
        self._content = content

    def config(self) -> Config:
        tls_ca = self._file("tls", "ca", "tls/ca.pem")
        config = Config(
            identity=self._identity(),
            grpc=self._address("listen", "grpc", "127.0.0.1:7443"),
            metrics=self._address("listen", "metrics", "127.0.0.1:9464"),
            engines=self._integer("processes", "engines", 1, 1, 256),
            frontends=self._frontends(),
            tls_ca=tls_ca,
            tls_cert=self._file("tls", "cert", "tls/server.pem"),
            tls_key=self._file("tls", "key", "tls/server.key"),
            pk_ca=self._file("pk", "ca", str(tls_ca)),
            pk_cert=self._file("pk", "cert", "tls/kms.pem"),
            clock_skew_seconds=self._integer("limits", "clock_skew_seconds", 60, 1, 3600),
            max_ticket_lifetime_seconds=self._integer(
                "limits", "max_ticket_lifetime_seconds", 86400, 60, 366 * 86400
            ),
            epoch_seconds=self._integer("limits", "epoch_seconds", 86400, 60, 366 * 86400),
            pin_file=self._file("token", "pin_file", "token/pin"),
            token=self._table("token"),
            http=self._address("listen", "http", None),
            peers=self._peers(),
        )
        if config.identity in config.peers:
            self._fail(f"[peers.{_toml(config.identity)}]", "is this KMS itself: name another one")
        self._content.pop("token", None)
        for name, table in self._content.items():
            if not isinstance(table, dict):
                self._fail(name, "is not a known key")
            for key in table:
                self._fail(f"[{name}] {key}", "is not a known key")
            if name not in ("kms", "listen", "processes", "tls", "pk", "limits"):
                self._fail(f"[{name}]", "is not a known table")
        return config

    def _fail(self, key: str, reason: str) -> NoReturn:
        raise ConfigError(f"{self._path}: {key} {reason}")

    def _table(self, name: str) -> dict[str, Any]:
        table = self._content.setdefault(name, {})
        if not isinstance(table, dict):
            self._fail(name, f"must be a table, written [{name}]")
        return table

    def _identity(self) -> str:
        value = self._table("kms").pop("identity", None)
        if not isinstance(value, str) or not value.partition(":")[2] or not value.isascii():
            self._fail("[kms] identity", 'must be a URI, such as "sip:kms@example.com"')
        return value

    @overload
    def _address(self, table: str, key: str, default: str) -> Address: ...
    @overload
    def _address(self, table: str, key: str, default: None) -> Address | None: ...
    def _address(self, table: str, key: str, default: str | None) -> Address | None:
        value = self._table(table).pop(key, default)
        if value is None:
            return None
        try:
            return Address.parse(value if isinstance(value, str) else "")
        except ValueError as error:
            example = default or "127.0.0.1:8443"
            self._fail(f"[{table}] {key}", f'must be an address such as "{example}": {error}')

    def _peers(self) -> dict[str, PeerConfig]:
        tables, peers = self._table("peers"), {}
        self._content.pop("peers")
        for identity, table in tables.items():
            where = f"[peers.{_toml(identity)}]"
            if not isinstance(table, dict) or not identity.partition(":")[2] or not identity.isascii():
                self._fail(where, "must be a table with the URI of a KMS as its name: see `kms peer add`")
            names = [item.name for item in fields(PeerConfig)]
            for name in {*names, *table}:
                if name not in names:
                    self._fail(f"{where} {name}", "is not a known key")
                if not isinstance(table.get(name), str) or not table[name]:
                    self._fail(f"{where} {name}", "must be a text: see `kms peer add`")
            target, *files = (table[name] for name in names)
            peers[identity] = PeerConfig(target, *((self._path.parent / file).absolute() for file in files))
        return peers

    def _integer(self, table: str, key: str, default: int, least: int, most: int) -> int:
        value = self._table(table).pop(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self._fail(f"[{table}] {key}", f"must be a whole number from {least} to {most}")
        return value

    def _frontends(self) -> int:
        value = self._integer("processes", "frontends", 1, 1, 256)
        if value > 1:
            self._fail(
                "[processes] frontends",
                "must be 1: each frontend has a replay cache of its own, so a message could be replayed to the others",
            )
        return value

    def _file(self, table: str, key: str, default: str) -> Path:
        value = self._table(table).pop(key, default)
        if not isinstance(value, str) or not value:
            self._fail(f"[{table}] {key}", f'must be the path of a file, such as "{default}"')
        return (self._path.parent / value).absolute()


def _toml(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value):
        raise ValueError("a configuration value must not hold control characters")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'

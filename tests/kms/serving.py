"""A KMS home with certificates, and a running server whose engines are fault injectors."""

import datetime
import ipaddress
import json
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kms.config import write_default_config
from tests.kms.fault_engine import PIN

ALICE = "sip:alice@example.com"
WAIT_SECONDS = 20.0


class Authority:
    """A certification authority of a test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        self.certificate = self._certificate(
            self._name, self._key, [x509.BasicConstraints(ca=True, path_length=0)]
        )

    def issue(self, name: str, alternatives: Sequence[x509.GeneralName]) -> tuple[bytes, bytes]:
        """Certificate and key, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        extensions: list[x509.ExtensionType] = [usage]
        if alternatives:
            extensions.append(x509.SubjectAlternativeName(alternatives))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return self._certificate(subject, key, extensions), pem

    def _certificate(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        extensions: Sequence[x509.ExtensionType],
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_home(home: Path, *, pin: bytes = PIN, engines: int = 1) -> Authority:
    """A home folder with kms.toml, PIN and TLS files; the CA for clients of it."""
    authority = Authority()
    write_default_config(
        home,
        identity="sip:kms@example.com",
        token={},
        grpc="127.0.0.1:0",
        metrics="127.0.0.1:0",
        pin_file="pin",
    )
    config = home / "kms.toml"
    config.write_text(config.read_text().replace("engines = 1", f"engines = {engines}"))
    (home / "pin").write_bytes(pin + b"\n")
    (home / "tls").mkdir()
    cert, key = authority.issue(
        "server", [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    (home / "tls/ca.pem").write_bytes(authority.certificate)
    (home / "tls/server.pem").write_bytes(cert)
    (home / "tls/server.key").write_bytes(key)
    return authority


class Serving:
    """A server process. Leaves with SIGTERM, or SIGKILL if the test stopped caring."""

    def __init__(self, home: Path, authority: Authority, command: Sequence[str] | None = None) -> None:
        self.home = home
        self.authority = authority
        script = Path(__file__).with_name("fault_serve.py")
        self.process = subprocess.Popen(
            command or [sys.executable, str(script), str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        fields = dict(field.split("=") for field in self.ready_line.split()[1:])
        self.grpc_address = fields.get("grpc", "")
        self.metrics_address = fields.get("metrics", "")

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()

    def __enter__(self) -> "Serving":
        assert self.ready_line.startswith("ready "), "".join(self.lines)
        # The log comes through another pipe, read by another thread: let it catch up.
        self.wait_log(lambda line: line["event"] == "serving")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.end()
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit code and what more it printed on standard output."""
        code = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        assert self.process.stdout is not None
        rest = self.process.stdout.read() if not self.process.stdout.closed else ""
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return code, rest

    def log(self) -> list[dict[str, Any]]:
        with self._changed:
            return [json.loads(line) for line in self.lines if line.startswith("{")]

    def wait_log(self, wanted: Callable[[dict[str, Any]], bool], count: int = 1) -> list[dict[str, Any]]:
        """Wait until the log has so many lines that are wanted."""
        deadline = time.monotonic() + WAIT_SECONDS
        with self._changed:
            while True:
                found = [line for line in map(_json, self.lines) if line is not None and wanted(line)]
                if len(found) >= count:
                    return found
                assert self._changed.wait(deadline - time.monotonic()), "".join(self.lines)

    def pids(self, child: str) -> list[int]:
        """Process ids that a child, such as "engine 0", has had."""
        return [
            int(line["pid"])
            for line in self.log()
            if line["event"] == "child ready" and line["child"] == child
        ]

    def wait_replaced(self, child: str, lives: int) -> int:
        """Wait for the child's so-manieth life; its process id."""
        lines = self.wait_log(lambda line: line["event"] == "child ready" and line["child"] == child, lives)
        return int(lines[lives - 1]["pid"])

    @contextmanager
    def channel(
        self, identity: str | None = ALICE, authority: Authority | None = None
    ) -> Iterator[grpc.Channel]:
        """A channel of a client with a certificate for an identity, from the server's CA unless told."""
        names = (
            [x509.UniformResourceIdentifier(identity)] if identity else [x509.DNSName("client.example.com")]
        )
        cert, key = (authority or self.authority).issue("client", names)
        credentials = grpc.ssl_channel_credentials(self.authority.certificate, key, cert)
        with grpc.secure_channel(self.grpc_address, credentials) as channel:
            yield channel

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(
            f"http://{self.metrics_address}/metrics", timeout=WAIT_SECONDS
        ) as response:
            lines = response.read().decode().splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}


def _json(line: str) -> dict[str, Any] | None:
    return json.loads(line) if line.startswith("{") else None

"""A KMS as its operator has it: a home made by `kms init`, a real `kms serve`, users enrolled by `kms user add`."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

KMS = (sys.executable, "-m", "kms.cli.main")
IDENTITY = "sip:kms@example.com"

_COMMAND_SECONDS = 60
_READY_SECONDS = 60
_STOP_SECONDS = 40


def kms(
    *arguments: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run one `kms` command to its end."""
    return subprocess.run(
        [*KMS, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=_COMMAND_SECONDS,
        cwd=cwd,
        env={**os.environ, **environment},
        check=False,
    )


def init(home: Path, token: str = "softhsm", *options: str) -> None:
    """Make a home that listens on free ports."""
    made = kms(
        *("init", "--home", home, "--token", token, "--identity", IDENTITY),
        *("--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", *options),
    )
    assert made.returncode == 0, made.stderr


@dataclass
class Server:
    """A running `kms serve` and its home."""

    home: Path
    grpc: str
    metrics: str
    pid: int
    log: Path
    """What it wrote on standard error."""
    http: str = ""
    """Empty unless kms.toml turns the HTTP endpoint on."""
    _files: dict[str, Path] = field(default_factory=dict)

    def enrol(self, identity: str, role: str = "client", *options: str) -> Path:
        """The enrolment file of a user, who is enrolled by the first call."""
        if identity not in self._files:
            out = self.home.parent / f"{len(self._files)}-{self.home.name}.json"
            command = ("user", "add", identity, "--role", role, *options)
            added = kms(*command, "--home", self.home, "--target", self.grpc, "--out", out)
            assert added.returncode == 0, added.stderr
            self._files[identity] = out
        return self._files[identity]


@contextlib.contextmanager
def serving(home: Path) -> Iterator[Server]:
    """Run `kms serve` for a home until the block ends; SIGTERM must end it with exit code 0."""
    log = home.parent / f"{home.name}-serve.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [*KMS, "serve", "--home", str(home)], stdout=subprocess.PIPE, stderr=errors
        )
    try:
        ready = _ready(process, log)
        yield Server(home, ready["grpc"], ready["metrics"], process.pid, log, ready.get("http", ""))
        process.send_signal(signal.SIGTERM)
        assert process.wait(_STOP_SECONDS) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _ready(process: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    """The addresses of the line `ready grpc=HOST:PORT metrics=HOST:PORT`."""
    assert process.stdout is not None
    line = b""
    deadline = time.monotonic() + _READY_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            assert left > 0, f"no ready line: {log.read_text()}"
            if selector.select(left):
                chunk = os.read(process.stdout.fileno(), 4096)
                assert chunk, f"kms serve ended: {log.read_text()}"
                line += chunk
    word, *addresses = line.decode().split()
    assert word == "ready"
    return dict(address.split("=") for address in addresses)

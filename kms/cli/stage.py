"""A KMS to try things on, in a temporary folder: made, run and filled by the `kms` command, as an operator would."""

import contextlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kms.cli.errors import CommandError

_KMS = (sys.executable, "-m", "kms.cli.main")
_COMMAND_SECONDS = 60
_STOP_SECONDS = 40


@dataclass(frozen=True, slots=True)
class Running:
    """A running `kms serve`: its gRPC address, and the process id of the supervisor."""

    target: str
    pid: int


@dataclass(frozen=True, slots=True)
class Stage:
    """A temporary folder with the home of a KMS in it."""

    folder: Path

    @property
    def home(self) -> Path:
        """The home folder of the KMS."""
        return self.folder / "home"

    def init(self, identity: str, *, token: str = "softhsm", engines: int = 1) -> None:  # noqa: S107
        """`kms init`, listening on free ports."""
        free = "127.0.0.1:0"
        wishes = ["--token", token, "--identity", identity, "--engines", str(engines)]
        _kms("init", "--home", self.home, "--listen", free, "--metrics", free, *wishes)

    def enrol(self, identity: str, role: str, target: str) -> Path:
        """`kms user add`; the enrolment file."""
        out = self.folder / f"{len(list(self.folder.glob('*.json')))}.json"
        _kms("user", "add", identity, "--role", role, "--home", self.home, "--target", target, "--out", out)
        return out

    @contextlib.contextmanager
    def serving(self) -> Iterator[Running]:
        """`kms serve` until the block ends."""
        log = self.folder / "serve.log"
        with log.open("wb") as errors:
            process = subprocess.Popen(  # noqa: S603
                [*_KMS, "serve", "--home", str(self.home)], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line.startswith("ready grpc="):
                raise CommandError(f"`kms serve` did not start: {_last_line(log.read_text())}")
            yield Running(line.split()[1].removeprefix("grpc="), process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@contextlib.contextmanager
def temporary_stage(*, keep: bool = False) -> Iterator[Stage]:
    """A stage in a temporary folder, which is removed at the end unless it is to be kept."""
    if keep:
        yield Stage(Path(tempfile.mkdtemp(prefix="kms-")))
        return
    with tempfile.TemporaryDirectory(prefix="kms-") as folder:
        yield Stage(Path(folder))


def _kms(*arguments: str | Path) -> None:
    """Run one `kms` command. Raises CommandError with its own words."""
    result = subprocess.run(  # noqa: S603
        [*_KMS, *map(str, arguments)], capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False
    )
    if result.returncode != 0:
        raise CommandError(f"`kms {arguments[0]}` failed: {_last_line(result.stderr)}")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("kms: ") if lines else "it said nothing"

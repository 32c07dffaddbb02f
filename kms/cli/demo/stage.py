"""The stage: a KMS of its own, set up and run as an operator would, and a subscriber for each player."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kms.cli.errors import CommandError

_KMS = (sys.executable, "-m", "kms.cli.main")
_COMMAND_SECONDS = 60
_STOP_SECONDS = 40


@dataclass(frozen=True)
class Stage:
    """A temporary folder with the home of the demonstration's KMS in it."""

    folder: Path

    @property
    def home(self) -> Path:
        """The home folder of the KMS."""
        return self.folder / "home"

    def init(self, identity: str) -> None:
        """`kms init` on SoftHSM, listening on free ports."""
        free = "127.0.0.1:0"
        _kms(
            "init",
            "--token",
            "softhsm",
            "--identity",
            identity,
            "--home",
            self.home,
            "--listen",
            free,
            "--metrics",
            free,
        )

    def enrol(self, identity: str, role: str, target: str) -> Path:
        """`kms user add`; the enrolment file."""
        out = self.folder / f"{len(list(self.folder.glob('*.json')))}.json"
        _kms("user", "add", identity, "--role", role, "--home", self.home, "--target", target, "--out", out)
        return out

    @contextlib.contextmanager
    def serving(self) -> Iterator[tuple[str, float]]:
        """`kms serve` until the block ends; gives its gRPC address and how many seconds it took to be ready."""
        begun = time.monotonic()
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
            yield line.split()[1].removeprefix("grpc="), time.monotonic() - begun
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()


@contextlib.contextmanager
def temporary_stage(*, keep: bool) -> Iterator[Stage]:
    """A stage in a temporary folder, which is removed at the end unless it is to be kept."""
    if keep:
        yield Stage(Path(tempfile.mkdtemp(prefix="kms-demo-")))
        return
    with tempfile.TemporaryDirectory(prefix="kms-demo-") as folder:
        yield Stage(Path(folder))


def _kms(*arguments: str | Path) -> None:
    """Run one `kms` command. Raises CommandError with its own words."""
    command: Sequence[str] = [*_KMS, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)  # noqa: S603
    if result.returncode != 0:
        raise CommandError(f"`kms {arguments[0]}` failed: {_last_line(result.stderr)}")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("kms: ") if lines else "it said nothing"

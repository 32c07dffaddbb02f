"""`kms demo`, whole."""

import os
import subprocess
from pathlib import Path

from tests.e2e.home import KMS


def test_demo(tmp_path: Path) -> None:
    played = subprocess.run(
        [*KMS, "demo"],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert played.returncode == 0, played.stdout + played.stderr
    assert played.stderr == ""
    for line in (
        "150 packets came out",
        "INITIATOR_NOT_AUTHENTIC",
        "NOT_AUTHORIZED",
        "replay",
        "false focus",
    ):
        assert line in played.stdout
    assert list(tmp_path.iterdir()) == [], "the temporary home is left"
    assert _processes_of(tmp_path) == []


def _processes_of(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found

"""`kms bench`: what one exchange costs, measured in one run on one machine.

For each token: the engine alone in a process of its own, with its PKCS#11 calls counted one by one; then the whole
server under closed-loop load over gRPC with mTLS.
"""

import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kms.cli.bench import report
from kms.cli.bench.served import Served
from kms.cli.errors import CommandError
from kms.cli.stage import Stage, temporary_stage
from kms.config import load_config

_IDENTITY = "sip:kms@example.com"
_PARTICIPANT, _FOCUS = "sip:alice@example.com", "sip:focus@example.com"
_ALONE_SECONDS = 300


def bench_command(*, tokens: Sequence[str], count: int, callers: int, engines: int, as_json: bool) -> int:
    """Measure and print a table, or JSON. `count` exchanges of each kind, by `callers` at once."""
    figures: dict[str, Any] = {"machine": _machine(), "tokens": {}}
    for token in tokens:
        with temporary_stage() as stage:
            stage.init(_IDENTITY, token=token, engines=engines)
            figures["tokens"][token] = _measure(stage, count, callers)
    if as_json:
        print(json.dumps(figures, indent=2))
    else:
        report.show(figures)
    return 0


def _measure(stage: Stage, count: int, callers: int) -> dict[str, Any]:
    with stage.serving() as running:
        participant = stage.enrol(_PARTICIPANT, "client", running.target)
        focus = stage.enrol(_FOCUS, "focus", running.target)
        served = Served(running.pid, participant, focus)
        try:
            loads = [
                served.requests(count, callers),
                served.resolves(count, callers),
                served.resolves(max(100, count // 4), 1),
                served.batches(count, 64),
            ]
            memory = served.memory_mb()
        finally:
            served.close()
    return {
        "engine_alone": _alone(stage.home, participant, focus, count),
        "served": [load.as_dict() for load in loads],
        "memory_mb": memory,
    }


def _alone(home: Path, participant: Path, focus: Path, count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "kms.cli.bench.alone", "--home", str(home), "--count", str(count)]
    command += ["--participant", str(participant), "--focus", str(focus)]
    pin = load_config(home).pin_file.read_bytes()
    result = subprocess.run(  # noqa: S603
        command, input=pin, capture_output=True, timeout=_ALONE_SECONDS, check=False
    )
    if result.returncode != 0:
        raise CommandError(
            f"the engine alone failed: {result.stderr.decode(errors='replace').strip()[-300:]}"
        )
    figures: dict[str, Any] = json.loads(result.stdout)
    return figures


def _machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    load = Path("/proc/loadavg")
    return {
        "cpu": model or platform.machine(),
        "cores": len(load.parent.joinpath("cpuinfo").read_text().split("processor\t:")) - 1,
        "load_before": load.read_text().split()[0],
        "python": platform.python_version(),
    }

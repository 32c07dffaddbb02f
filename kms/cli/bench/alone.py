"""The engine alone, in a process of its own: `python -m kms.cli.bench.alone`. Prints one JSON object.

Engine.handle is called with prepared messages; what it costs is the CPU time of this process. One more exchange of
each kind is then counted call by call.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from kms import logs
from kms.cli.bench import codec
from kms.cli.bench.messages import Load
from kms.engine.build import build_engine
from kms.engine.engine import Engine
from kms.engine.v1.link_pb2 import (
    CALLED_SERVICE_CLIENT,
    CALLED_SERVICE_FOCUS,
    OPERATION_REQUEST_TICKET,
    OPERATION_RESOLVE_TICKET,
    EngineRequest,
)
from kms.party.party import Party


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--participant", type=Path, required=True)
    parser.add_argument("--focus", type=Path, required=True)
    parser.add_argument("--count", type=int, default=500)
    options = parser.parse_args()
    logs.configure("bench")
    pin = sys.stdin.buffer.readline().strip()
    bench = _Bench(build_engine(options.home, pin, 0), Load.of(options.participant, options.focus))
    print(json.dumps(bench.run(options.count)))
    return 0


class _Bench:
    def __init__(self, engine: Engine, load: Load) -> None:
        self._engine = engine
        self._load = load

    def run(self, count: int) -> dict[str, Any]:
        """Figures for REQUEST and RESOLVE: CPU and wall milliseconds per exchange, and PKCS#11 calls."""
        figures: dict[str, Any] = {
            "request": self._measure(
                self._load.participant, OPERATION_REQUEST_TICKET, self._load.requests(count)
            ),
            "resolve": self._measure(
                self._load.focus, OPERATION_RESOLVE_TICKET, self._load.resolves(count, self._request)
            ),
        }
        calls = self._engine.count_calls()
        for kind, party, operation, messages in (
            ("request", self._load.participant, OPERATION_REQUEST_TICKET, self._load.requests(20)),
            ("resolve", self._load.focus, OPERATION_RESOLVE_TICKET, self._load.resolves(20, self._request)),
        ):
            calls.clear()
            for message in messages:
                self._handle(party, operation, message)
            figures[kind]["pkcs11"] = {
                name: {"calls": number / len(messages), "ms": 1000 * seconds / len(messages)}
                for name, (number, seconds) in sorted(calls.items())
            }
        figures["codec"] = codec.measure(self._load.exchange(self._request, self._resolve))
        figures["memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return figures

    def _measure(self, party: Party, operation: Any, messages: list[bytes]) -> dict[str, Any]:
        for message in messages[:10]:
            self._handle(party, operation, message)
        cpu, walls = time.process_time(), []
        for message in messages[10:]:
            start = time.perf_counter()
            self._handle(party, operation, message)
            walls.append(1000 * (time.perf_counter() - start))
        spent = 1000 * (time.process_time() - cpu) / len(walls)
        return {"cpu_ms": spent, "wall_ms_median": statistics.median(walls)}

    def _request(self, message: bytes) -> bytes:
        return self._handle(self._load.participant, OPERATION_REQUEST_TICKET, message)

    def _resolve(self, message: bytes) -> bytes:
        return self._handle(self._load.focus, OPERATION_RESOLVE_TICKET, message)

    def _handle(self, party: Party, operation: Any, message: bytes) -> bytes:
        focus = party is self._load.focus
        request = EngineRequest(
            called_service=CALLED_SERVICE_FOCUS if focus else CALLED_SERVICE_CLIENT,
            operation=operation,
            tls_identities=[party.identity.decode()],
            mikey_messages=[message],
        )
        (outcome,) = self._engine.handle(request).outcomes
        if outcome.WhichOneof("outcome") != "mikey_message":
            raise SystemExit(f"refused: {outcome.refusal.reason}: {outcome.refusal.message}")
        return outcome.mikey_message


if __name__ == "__main__":
    sys.exit(main())

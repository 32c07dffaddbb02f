"""The whole server under load: gRPC with mTLS, closed-loop callers, CPU time by process from /proc."""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from kms.cli.bench.messages import Load
from kms.client.v1.client_pb2 import RequestTicketRequest
from kms.client.v1.client_pb2_grpc import ClientServiceStub
from kms.focus.v1.focus_pb2 import BatchResolveTicketsRequest, ResolveTicketRequest
from kms.focus.v1.focus_pb2_grpc import FocusServiceStub
from kms.party.credential import Credential

_DEADLINE_SECONDS = 20
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figures:
    """One load: exchanges per second, latencies in ms, CPU ms per exchange by process role."""

    name: str
    rate: float
    p50_ms: float
    p99_ms: float
    cpu_ms: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "exchanges_per_s": self.rate,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "cpu_ms": self.cpu_ms,
        }


class Served:
    """A running server, a participant and a focus."""

    def __init__(self, supervisor_pid: int, participant_file: Path, focus_file: Path) -> None:
        self._pid = supervisor_pid
        self._load = Load.of(participant_file, focus_file)
        client = Credential.load(participant_file)
        focus = Credential.load(focus_file)
        self._channels = [_channel(client), _channel(focus)]
        self._client = ClientServiceStub(self._channels[0])
        self._focus = FocusServiceStub(self._channels[1])

    def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            channel.close()

    def memory_mb(self) -> dict[str, float]:
        """Peak resident memory by process role, in MiB; the largest where a role has several processes."""
        peaks: dict[str, float] = {}
        for role, pid in _processes(self._pid):
            status = Path(f"/proc/{pid}/status").read_text()
            peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
            peaks[role] = max(peaks.get(role, 0.0), peak / 1024)
        return peaks

    def requests(self, count: int, callers: int) -> Figures:
        """Unary RequestTicket."""
        messages = self._load.requests(count)
        return self._run(f"REQUEST, {callers} callers", messages, callers, self._request)

    def resolves(self, count: int, callers: int) -> Figures:
        """Unary ResolveTicket."""
        messages = self._load.resolves(count, self._request)
        return self._run(f"RESOLVE, {callers} callers", messages, callers, self._resolve)

    def batches(self, count: int, size: int) -> Figures:
        """BatchResolveTickets, one caller; latencies are of whole batches."""
        messages = self._load.resolves(count, self._request)
        batches = [messages[i : i + size] for i in range(0, len(messages), size)]
        return self._run(f"RESOLVE in batches of {size}", batches, 1, self._resolve_batch, size)

    def _request(self, message: bytes) -> bytes:
        request = RequestTicketRequest(mikey_message=message)
        return self._client.RequestTicket(request, timeout=_DEADLINE_SECONDS).mikey_message

    def _resolve(self, message: bytes) -> bytes:
        request = ResolveTicketRequest(mikey_message=message)
        return self._focus.ResolveTicket(request, timeout=_DEADLINE_SECONDS).mikey_message

    def _resolve_batch(self, messages: list[bytes]) -> None:
        request = BatchResolveTicketsRequest(
            requests=[ResolveTicketRequest(mikey_message=m) for m in messages]
        )
        for result in self._focus.BatchResolveTickets(request, timeout=_DEADLINE_SECONDS).results:
            if result.WhichOneof("result") != "mikey_message":
                raise RuntimeError(f"refused: {result.error.message}")

    def _run(
        self, name: str, work: list[Any], callers: int, call: Callable[[Any], object], weight: int = 1
    ) -> Figures:
        for item in work[:callers]:
            call(item)
        todo = iter(work[callers:])
        lock = threading.Lock()
        latencies: list[float] = []
        failures: list[Exception] = []

        def caller() -> None:
            while True:
                with lock:
                    item = next(todo, None)
                if item is None or failures:
                    return
                start = time.perf_counter()
                try:
                    call(item)
                except (grpc.RpcError, RuntimeError) as error:
                    failures.append(error)
                    return
                latencies.append(1000 * (time.perf_counter() - start))

        before, start = _cpu_seconds(self._pid), time.perf_counter()
        threads = [threading.Thread(target=caller) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds, after = time.perf_counter() - start, _cpu_seconds(self._pid)
        if failures:
            raise failures[0]
        done = len(latencies) * weight
        cpu = {role: 1000 * (after[role] - before.get(role, 0.0)) / done for role in after}
        quantiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else latencies * 99
        return Figures(name, done / seconds, quantiles[49], quantiles[98], cpu)


def _channel(credential: Credential) -> grpc.Channel:
    credentials = grpc.ssl_channel_credentials(
        credential.ca_cert.encode(), credential.tls_key.encode(), credential.tls_cert.encode()
    )
    return grpc.secure_channel(credential.target, credentials)


def _processes(supervisor_pid: int) -> Iterable[tuple[str, int]]:
    """The role and pid of the supervisor and of its children."""
    yield "supervisor", supervisor_pid
    for pid in map(int, Path(f"/proc/{supervisor_pid}/task/{supervisor_pid}/children").read_text().split()):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        role = "engine" if b"kms.engine.process" in words else "frontend"
        yield role, pid


def _cpu_seconds(supervisor_pid: int) -> dict[str, float]:
    spent: dict[str, float] = {}
    for role, pid in _processes(supervisor_pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent[role] = spent.get(role, 0.0) + (int(fields[11]) + int(fields[12])) / _TICKS
    return spent

"""`kms serve`: start the processes, keep them alive, end them in order."""

import fcntl
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from pathlib import Path
from types import FrameType

import structlog

from kms import link, logs
from kms.config import Config
from kms.engine.v1.link_pb2 import EngineTimedOut
from kms.link.hardening import forbid_core_dumps
from kms.supervisor.child import Child, State

EXIT_START_FAILED = 2

ENGINE_COMMAND = (sys.executable, "-I", "-m", "kms.engine.process")
FRONTEND_COMMAND = (sys.executable, "-I", "-m", "kms.frontend.process")

_START_SECONDS = 60.0
# A frontend's own grace for calls in flight is shorter (kms.frontend.process).
_DRAIN_SECONDS = 25.0
_ENGINE_STOP_SECONDS = 5.0

_log = structlog.get_logger()


class StartError(Exception):
    """The KMS cannot start; the text is one line, what is wrong and what to do."""


class Stopped(Exception):
    """SIGTERM or SIGINT came before everything had started."""


def serve(home: Path, config: Config, engine_command: Sequence[str] = ENGINE_COMMAND) -> int:
    """Run the KMS of a home folder until SIGTERM or SIGINT; the exit code.

    Prints one line, `ready grpc=HOST:PORT metrics=HOST:PORT`, when everything serves; with [listen] http it ends with
    ` http=HOST:PORT`. A start that fails ends every child, prints one line on standard error and returns 2. Call it
    from the main thread of a process with no other children. engine_command is another than the engine's own only in
    tests.
    """
    forbid_core_dumps()
    logs.configure("supervisor")
    try:
        lock = _lock(home)
        supervisor = Supervisor(home, config, _read_pin(config.pin_file), engine_command)
    except StartError as error:
        return _failed(error)
    try:
        try:
            supervisor.start()
            print(supervisor.ready_line(), flush=True)  # noqa: T201
            supervisor.run()
        except Stopped:
            pass
        except StartError as error:
            supervisor.stop()
            return _failed(error)
        supervisor.stop()
        _log.info("stopped")
        return 0
    finally:
        supervisor.kill()
        os.close(lock)


def _failed(error: StartError) -> int:
    print(f"kms: {error}", file=sys.stderr, flush=True)  # noqa: T201
    return EXIT_START_FAILED


def _lock(home: Path) -> int:
    """Take home/run/kms.lock until it is closed: one server for one home. Raises StartError."""
    run = home / "run"
    try:
        run.mkdir(mode=0o700, exist_ok=True)
        run.chmod(0o700)
        lock = os.open(run / "kms.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"{run} cannot be used: {error.strerror}; run `kms serve` as the owner of {home}"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise StartError(f"another `kms serve` runs in {home}: stop it first") from None
    return lock


def _read_pin(path: Path) -> bytes:
    try:
        pin = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise StartError(
            f"the PIN file {path} cannot be read: {error.strerror}; set [token] pin_file in kms.toml"
        ) from None
    if not 0 < len(pin) <= 255:
        raise StartError(f"the PIN file {path} must hold one line of 1 to 255 bytes, the PIN of the token")
    return pin


class Phase(Enum):
    """What the supervisor does when a child dies: give up, replace it, let it go."""

    STARTING = "starting"
    SERVING = "serving"
    STOPPING = "stopping"


class Supervisor:
    """The children and the one loop that watches them. Single-threaded."""

    def __init__(self, home: Path, config: Config, pin: bytes, engine_command: Sequence[str]) -> None:
        self._home = home
        self._pin = pin
        self._engines = [Child("engine", index, engine_command) for index in range(config.engines)]
        self._frontends = [Child("frontend", index, FRONTEND_COMMAND) for index in range(config.frontends)]
        self._children = [*self._engines, *self._frontends]
        # After the first start these hold the ports that were bound, so that a replacement takes the same ones.
        self.grpc_address = str(config.grpc)
        self.metrics_address = str(config.metrics)
        self.http_address = str(config.http or "")
        self._selector = selectors.DefaultSelector()
        self._phase = Phase.STARTING
        self._stop_signals = 0
        self._pin_rejected = False
        self._restarts: list[tuple[float, Child]] = []
        self._watch_signals()

    def start(self) -> None:
        """Start everything and wait until it serves. Raises StartError, Stopped."""
        # Engine 0 alone: a wrong PIN must cost one attempt only, or the token locks.
        for group in (self._engines[:1], self._engines[1:], self._frontends):
            for child in group:
                self._start_child(child)
            self._wait_ready(group)
        self._phase = Phase.SERVING
        _log.info("serving", grpc=self.grpc_address, metrics=self.metrics_address, engines=len(self._engines))

    def ready_line(self) -> str:
        """What tells the caller of `kms serve` where it serves."""
        line = f"ready grpc={self.grpc_address} metrics={self.metrics_address}"
        return f"{line} http={self.http_address}" if self.http_address else line

    def run(self) -> None:
        """Replace what dies until a stop signal. Raises StartError if no engine is left that may be started."""
        while not self._stop_signals:
            now = time.monotonic()
            for due, child in [entry for entry in self._restarts if entry[0] <= now]:
                self._restarts.remove((due, child))
                self._start_child(child)
            if all(engine.state is State.DEAD for engine in self._engines) and self._pin_rejected:
                raise StartError(
                    "the token refused the PIN, and no engine is left; the PIN is not tried again"
                )
            for child in self._children:
                if child.overdue(_START_SECONDS):
                    _log.error("child hangs", child=str(child), pid=child.pid, state=child.state.value)
                    child.kill()
            waits = [due - now for due, _child in self._restarts]
            passing = any(child.state in (State.STARTING, State.ENDING) for child in self._children)
            self._step(min([*waits, 1.0] if passing else waits, default=None))

    def stop(self) -> None:
        """End the frontends when their calls are answered, then the engines. A second stop signal hurries."""
        self._phase = Phase.STOPPING
        signals_before = self._stop_signals
        for child in self._alive(self._frontends):
            child.terminate()
        self._wait_dead(
            self._frontends, _DRAIN_SECONDS, hurry=lambda: self._stop_signals > max(signals_before, 1)
        )
        for child in self._alive(self._engines):
            child.hang_up()
        self._wait_dead(self._engines, _ENGINE_STOP_SECONDS)

    def kill(self) -> None:
        """SIGKILL for every child that still runs."""
        for child in self._alive(self._children):
            child.kill()
            self._reap(child)

    # --- children

    def _start_child(self, child: Child) -> None:
        arguments = ["--home", str(self._home), "--index", str(child.index)]
        try:
            if child.kind == "engine":
                child.start(arguments, self._pin)
            else:
                addresses = ["--grpc", self.grpc_address, "--metrics", self.metrics_address]
                if self.http_address:
                    addresses += ["--http", self.http_address]
                child.start([*arguments, *addresses])
        except OSError as error:
            raise StartError(f"{child} cannot be started: {error.strerror}") from None
        self._selector.register(child.control, selectors.EVENT_READ, lambda: self._on_report(child))
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._on_death(child))
        if child.kind == "frontend":
            for engine in self._engines:
                if engine.state is State.READY:
                    self._link(child, engine)

    def _link(self, frontend: Child, engine: Child) -> None:
        frontend_end, engine_end = socket.socketpair()
        with frontend_end, engine_end:
            try:
                engine.add_link(engine_end, engine)
                frontend.add_link(frontend_end, engine)
            except link.LinkError:
                _log.warning("link not handed over", frontend=frontend.index, engine=engine.index)

    def _on_report(self, child: Child) -> None:
        try:
            message = child.report()
        except link.LinkClosed:
            # Its pidfd says when it has ended, and it can still say how.
            self._selector.unregister(child.control)
            child.state, child.since = State.ENDING, time.monotonic()
            return
        except link.LinkError as error:
            _log.error("child talks nonsense", child=str(child), reason=str(error))
            self._selector.unregister(child.control)
            child.kill()
            return
        match message.WhichOneof("report"):
            case "ready":
                child.state = State.READY
                if child.kind == "engine":
                    for frontend in self._alive(self._frontends):
                        self._link(frontend, child)
                else:
                    self.grpc_address = message.ready.grpc_address
                    self.metrics_address = message.ready.metrics_address
                    self.http_address = message.ready.http_address
                _log.info("child ready", child=str(child), pid=child.pid)
            case "start_failed":
                if message.start_failed.pin_rejected:
                    self._pin_rejected = True
                if self._phase is Phase.STARTING:
                    raise StartError(f"{child} could not start: {message.start_failed.message}")
                _log.error("child could not start", child=str(child), reason=message.start_failed.message)
            case "engine_timed_out":
                self._on_engine_timed_out(message.engine_timed_out)

    def _on_engine_timed_out(self, report: EngineTimedOut) -> None:
        for engine in self._alive(self._engines):
            if (engine.index, engine.pid) == (report.engine, report.engine_pid):
                _log.error("engine does not answer", child=str(engine), pid=engine.pid)
                engine.kill()

    def _on_death(self, child: Child) -> None:
        # What it said before it died counts, above all that the token refused the PIN.
        while child.control in self._selector.get_map():
            self._on_report(child)
        how = self._reap(child)
        if self._phase is Phase.STARTING:
            raise StartError(f"{child} ended with {how} during the start; its log lines are above")
        if self._phase is Phase.STOPPING:
            return
        if child.kind == "engine" and self._pin_rejected:
            _log.error("engine not replaced: the token refused the PIN", child=str(child), ended=how)
            return
        delay = child.restart_delay()
        _log.error("child died", child=str(child), pid=child.pid, ended=how, restart_in_seconds=delay)
        self._restarts.append((time.monotonic() + delay, child))

    def _reap(self, child: Child) -> str:
        for watched in (child.control, child.pidfd):
            if watched in self._selector.get_map():
                self._selector.unregister(watched)
        return child.reap()

    @staticmethod
    def _alive(children: Iterable[Child]) -> list[Child]:
        return [child for child in children if child.state is not State.DEAD]

    # --- the loop

    def _step(self, timeout: float | None) -> None:
        for key, _events in self._selector.select(timeout if timeout is None else max(timeout, 0.0)):
            # A handler may have unregistered what another event of this round is about.
            if self._selector.get_map().get(key.fd) is key:
                key.data()

    def _wait_ready(self, children: Sequence[Child]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not all(child.state is State.READY for child in children):
            if self._stop_signals:
                raise Stopped
            if time.monotonic() > deadline:
                slow = ", ".join(str(child) for child in children if child.state is not State.READY)
                raise StartError(
                    f"{slow} did not become ready within {_START_SECONDS:.0f} s: is the token reachable?"
                )
            self._step(deadline - time.monotonic())

    def _wait_dead(
        self, children: Sequence[Child], seconds: float, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        deadline = time.monotonic() + seconds
        while alive := self._alive(children):
            if time.monotonic() > deadline or hurry():
                _log.error("killed", children=[str(child) for child in alive])
                for child in alive:
                    child.kill()
                    self._reap(child)
                return
            self._step(deadline - time.monotonic())

    def _watch_signals(self) -> None:
        """Stop signals arrive as readable bytes, so that the loop sees them in turn."""
        wake, notify = socket.socketpair()
        notify.setblocking(False)
        wake.setblocking(False)
        self._notify = notify

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self._stop_signals += 1

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        signal.set_wakeup_fd(notify.fileno(), warn_on_full_buffer=False)
        self._selector.register(wake, selectors.EVENT_READ, lambda: wake.recv(64))

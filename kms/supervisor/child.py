"""One child process of the supervisor: its control channel, its end, when it may start again."""

import contextlib
import math
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from enum import Enum

from kms import link
from kms.engine.v1.link_pb2 import ChildReport, ControlMessage, LinkAdded

# More deaths than this within the window, and the next start waits.
_DEATHS = 5
_DEATHS_WINDOW_SECONDS = 60.0
_SLOW_RESTART_SECONDS = 15.0
_CONTROL_SECONDS = 5.0
_END_SECONDS = 5.0


class State(Enum):
    """What a child is doing."""

    STARTING = "starting"
    READY = "ready"
    # It closed its control channel: it exits, or hangs doing so.
    ENDING = "ending"
    DEAD = "dead"


class Child:
    """An engine or a frontend. Started again and again under the same kind and index."""

    def __init__(self, kind: str, index: int, command: Sequence[str]) -> None:
        self.kind = kind
        self.index = index
        self.state = State.DEAD
        self.pid = 0
        # time.monotonic of the last change of state that must not last.
        self.since = 0.0
        self._command = list(command)
        self._deaths: deque[float] = deque(maxlen=_DEATHS + 1)
        self._process: subprocess.Popen[bytes]
        self.control: socket.socket
        self.pidfd: int

    def __str__(self) -> str:
        return f"{self.kind} {self.index}"

    def start(self, arguments: Sequence[str], pin: bytes | None = None) -> None:
        """Exec the child with a control channel and, if it needs one, a pipe that holds the PIN.

        Its standard output goes where our standard error goes. Raises OSError.
        """
        self.control, control_end = socket.socketpair()
        link.limit_waiting(self.control, _CONTROL_SECONDS)
        fds = [control_end.fileno()]
        arguments = [*arguments, "--control-fd", str(control_end.fileno())]
        if pin is not None:
            fds.append(_pipe_with(pin))
            arguments += ["--pin-fd", str(fds[-1])]
        try:
            # process_group: a Ctrl-C at the terminal reaches the supervisor alone, which drains the children.
            self._process = subprocess.Popen(  # noqa: S603 - no shell, our own modules
                [*self._command, *arguments],
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=2,
                process_group=0,
            )
        finally:
            control_end.close()
            for fd in fds[1:]:
                os.close(fd)
        self.pid = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)
        self.state = State.STARTING
        self.since = time.monotonic()

    def overdue(self, start_seconds: float) -> bool:
        """Whether its start takes longer than it may, or its end."""
        limits = {State.STARTING: start_seconds, State.ENDING: _END_SECONDS}
        return time.monotonic() - self.since > limits.get(self.state, math.inf)

    def report(self) -> ChildReport:
        """The next report from the child. Blocks; raises LinkError."""
        return link.receive(self.control, ChildReport)

    def add_link(self, sock: socket.socket, engine: "Child") -> None:
        """Hand over one end of a link. Raises LinkError (the child died or hangs; its death is seen elsewhere)."""
        message = ControlMessage(link_added=LinkAdded(engine=engine.index, engine_pid=engine.pid))
        link.send(self.control, message, [sock.fileno()])

    def terminate(self) -> None:
        """SIGTERM: a frontend drains."""
        self._process.terminate()

    def hang_up(self) -> None:
        """End the control channel: an engine exits after the message it is at."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def reap(self) -> str:
        """Collect the process, which has ended or is about to, and say how it ended."""
        code = self._process.wait()
        self.control.close()
        os.close(self.pidfd)
        self.state = State.DEAD
        self._deaths.append(time.monotonic())
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def restart_delay(self) -> float:
        """Seconds until it may start again: 0, unless it died too often lately."""
        if len(self._deaths) > _DEATHS and self._deaths[-1] - self._deaths[0] < _DEATHS_WINDOW_SECONDS:
            return _SLOW_RESTART_SECONDS
        return 0.0


def _pipe_with(secret: bytes) -> int:
    """The reading end of a pipe that holds the bytes (fewer than a pipe's 64 KiB) and then ends."""
    read_end, write_end = os.pipe()
    os.write(write_end, secret)
    os.close(write_end)
    return read_end

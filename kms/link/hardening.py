"""What every process of the KMS does before anything else: no core dumps, no orphans."""

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4

# For the isolation test, which reads a frontend's memory from outside: set it to 1 and the process stays readable
# by its own user. Core dumps stay off.
DUMPABLE_VARIABLE = "KMS_DUMPABLE"


def forbid_core_dumps() -> None:
    """No core file, and no other process of the same user may read this one's memory (ptrace, /proc/PID/mem)."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.environ.get(DUMPABLE_VARIABLE) != "1":
        _prctl(_PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """SIGKILL for this process when its parent dies.

    A parent that died before this call shows as end of file on the control channel.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {value}): {os.strerror(error)}")

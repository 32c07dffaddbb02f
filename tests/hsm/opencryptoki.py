"""opencryptoki's soft token for tests: a daemon and a token of this process's own.

The paths of opencryptoki are compiled in, and its daemon serves a whole machine. So the calling thread, and the
programs that it starts from then on, move into mount and IPC namespaces where those paths are empty folders. That
needs root.
"""

import atexit
import ctypes
import os
import subprocess
import time
from pathlib import Path

import hsm

MODULES = (
    Path("/usr/lib/x86_64-linux-gnu/pkcs11/libopencryptoki.so"),
    Path("/usr/lib/aarch64-linux-gnu/pkcs11/libopencryptoki.so"),
    Path("/usr/lib64/pkcs11/libopencryptoki.so"),
)
LABEL = "kms on opencryptoki"

_DAEMON = Path("/usr/sbin/pkcsslotd")
_CONF = Path("/etc/opencryptoki/opencryptoki.conf")
_SLOT = "version opencryptoki-3.1\nslot 0\n{\nstdll = libpkcs11_sw.so\n}\n"
_FACTORY_SO_PIN = "87654321"
_FACTORY_USER_PIN = "12345678"
_CLONE_NEWNS, _CLONE_NEWIPC = 0x00020000, 0x08000000
_START_SECONDS = 20.0


class Unavailable(Exception):
    """opencryptoki cannot run here; the text says why."""


def create(folder: Path, *, pin: bytes, so_pin: bytes) -> hsm.TokenSpec:
    """Start pkcsslotd in namespaces of its own, to be ended with this process, and make a token. Raises Unavailable."""
    module = next((path for path in MODULES if path.is_file()), None)
    if module is None or not _DAEMON.is_file():
        raise Unavailable("the Debian package opencryptoki is not installed")
    _enter_namespaces(folder)
    _start_daemon()
    _initialise(pin.decode(), so_pin.decode())
    return hsm.TokenSpec(module, label=LABEL)


def _enter_namespaces(folder: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS | _CLONE_NEWIPC) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise Unavailable(f"opencryptoki needs root, to get a mount namespace of its own: {reason}")
    try:
        _mount("--make-rprivate", "/")
    except subprocess.CalledProcessError:
        # Nothing may be mounted before this: it would show in the machine's own namespace.
        raise Unavailable(
            "opencryptoki needs mounts of its own, and / is no mount point here (a chroot?)"
        ) from None
    folder.mkdir()
    conf = folder / "opencryptoki.conf"
    conf.write_text(_SLOT)
    # In this order: /var/lock is often inside /run.
    for path in ("/var/run", "/var/lock", "/dev/shm", "/var/lib/opencryptoki"):
        Path(path).resolve().mkdir(parents=True, exist_ok=True)
        _mount("-t", "tmpfs", "tmpfs", str(Path(path).resolve()))
    for path in ("/var/lock/opencryptoki/swtok", "/var/lib/opencryptoki/swtok/TOK_OBJ"):
        Path(path).mkdir(parents=True)
    _mount("--bind", str(conf), str(_CONF))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=60)


def _start_daemon() -> None:
    # The daemon ends with the thread that started it, however that ends. Its namespaces end with both.
    daemon = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", str(_DAEMON), "-f"], stderr=subprocess.DEVNULL
    )
    atexit.register(_end, daemon)
    deadline = time.monotonic() + _START_SECONDS
    while not Path("/var/run/pkcsslotd.socket").exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("pkcsslotd did not start")
        time.sleep(0.05)


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    # SIGTERM ends one of its threads only.
    daemon.kill()
    daemon.wait()


def _initialise(pin: str, so_pin: str) -> None:
    """As an operator does it. Both factory PINs must be changed before the token does anything."""
    steps = (
        ("-I -S " + _FACTORY_SO_PIN, LABEL),
        (f"-P -S {_FACTORY_SO_PIN} -n {so_pin}", ""),
        (f"-u -S {so_pin} -n {_FACTORY_USER_PIN}", ""),
        (f"-p -U {_FACTORY_USER_PIN} -n {pin}", ""),
    )
    for arguments, answer in steps:
        subprocess.run(
            ["pkcsconf", "-c", "0", *arguments.split()],
            input=answer + "\n",
            text=True,
            check=True,
            capture_output=True,
            timeout=60,
        )

"""Listening and connecting at a path, and who is at the other end."""

import os
import socket
import struct
from pathlib import Path


def listen_path(path: Path) -> socket.socket:
    """A Unix stream socket that listens at path with mode 0600; replaces a socket left there by a dead process.

    Only for a folder that this process alone serves. Raises OSError.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    mask = os.umask(0o177)
    try:
        listener.bind(_short_path(folder, path.name))
        listener.listen(16)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
        os.close(folder)
    return listener


def connect_path(path: Path) -> socket.socket:
    """A Unix stream socket connected to path. Raises OSError (FileNotFoundError, ConnectionRefusedError)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        sock.connect(_short_path(folder, path.name))
    except OSError:
        sock.close()
        raise
    finally:
        os.close(folder)
    return sock


def peer_uid(sock: socket.socket) -> int:
    """User id of the process that connected a Unix socket (SO_PEERCRED)."""
    _pid, uid, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)


def _short_path(folder: int, name: str) -> str:
    # A socket address holds 107 bytes of path; a home folder may be deeper than that.
    return f"/proc/self/fd/{folder}/{name}"

"""Asking an engine, wherever it is: over the admin socket of a running KMS, or one opened here for this command."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from kms import link
from kms.admin.v1.admin_pb2 import AdminReply, AdminRequest
from kms.cli import home as home_folder
from kms.cli.errors import CommandError
from kms.engine.process import ADMIN_SOCKET, Engine

# The server may be starting, or its engine may be being replaced.
_PATIENCE_SECONDS = 15.0
_RETRY_SECONDS = 0.1
_ANSWER_SECONDS = 30.0


class Admin(Protocol):
    """An engine that answers operators' requests; `running` says whether it is that of a running `kms serve`."""

    @property
    def running(self) -> bool: ...

    def ask(self, request: AdminRequest) -> AdminReply:
        """The reply to a request. Raises CommandError with the engine's own words if it refuses."""


@contextlib.contextmanager
def open_admin(home: Path) -> Iterator[Admin]:
    """The running server's engine, or, under the home's lock, one of our own. Never both: one token session.

    Raises CommandError.
    """
    home_folder.load(home)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        sock = _connect(home / ADMIN_SOCKET)
        if sock is not None:
            with sock:
                yield _RunningEngine(sock)
            return
        with home_folder.lock(home) as ours:
            if ours:
                with _own_engine(home) as engine:
                    yield engine
                return
        time.sleep(_RETRY_SECONDS)
    raise CommandError(f"a `kms serve` runs in {home} but its engine does not answer: look at its log")


class _RunningEngine:
    running = True

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def ask(self, request: AdminRequest) -> AdminReply:
        try:
            link.send(self._sock, request, timeout=_ANSWER_SECONDS)
            reply = link.receive(self._sock, AdminReply, timeout=_ANSWER_SECONDS)
        except link.LinkClosed:
            raise CommandError(
                "the KMS closed its admin socket: run this as root or as the user that runs `kms serve`"
            ) from None
        except link.LinkError as error:
            raise CommandError(
                f"the KMS did not answer on its admin socket ({error}): look at its log"
            ) from None
        return _checked(reply)


class _OwnEngine:
    running = False

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def ask(self, request: AdminRequest) -> AdminReply:
        return _checked(self._engine.handle_admin(request, os.geteuid()))


@contextlib.contextmanager
def _own_engine(home: Path) -> Iterator[_OwnEngine]:
    # PKCS#11 is loaded into this process only where no server runs.
    from kms.engine.build import build_engine
    from kms.engine.faults import EngineFault, StartRefused
    from kms.link.hardening import forbid_core_dumps

    forbid_core_dumps()
    _quiet_log()
    pin = home_folder.read_pin(home_folder.load(home).pin_file)
    try:
        engine = build_engine(home, pin, 0)
    except StartRefused as error:
        raise CommandError(str(error)) from None
    try:
        yield _OwnEngine(engine)
    except EngineFault as fault:
        raise CommandError(f"the token failed: {fault}") from None
    finally:
        engine.close()


def _connect(path: Path) -> socket.socket | None:
    try:
        return link.connect_path(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except PermissionError:
        raise CommandError(
            f"{path}: permission denied; run this as root or as the owner of the home"
        ) from None


def _checked(reply: AdminReply) -> AdminReply:
    if reply.WhichOneof("reply") == "error":
        raise CommandError(reply.error.message)
    return reply


def _quiet_log() -> None:
    """The engine's log is for the server's operator; a person who typed a command sees warnings and worse."""
    import logging

    import structlog

    from kms import logs

    logs.configure("kms")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))

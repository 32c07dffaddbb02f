"""The engine process: one Engine, one thread, and the sockets that it answers.

Started by the supervisor as `python -m kms.engine.process --home DIR --index N --pin-fd F --control-fd F`. Links to
frontends arrive over the control channel. Engine 0 also answers the local admin socket, DIR/run/admin.sock.
"""

import argparse
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from kms import link, logs
from kms.admin.v1.admin_pb2 import AdminError, AdminReply, AdminRequest
from kms.config import ConfigError
from kms.engine.faults import EngineFault, StartRefused
from kms.engine.v1.link_pb2 import (
    ChildReport,
    ControlMessage,
    EngineReply,
    EngineRequest,
    Outcome,
    Ready,
    Refusal,
    StartFailed,
)
from kms.link.hardening import die_with_parent, forbid_core_dumps

EXIT_START_FAILED = 2
EXIT_TOKEN_GONE = 75

ADMIN_SOCKET = "run/admin.sock"

_CODE_INTERNAL = 13  # google.rpc.Code
_MAX_PIN = 4096
_TICK_SECONDS = 1.0
# A peer that does not take a reply must not hold up the others.
_SEND_SECONDS = 2.0

_log = structlog.get_logger()


class Engine(Protocol):
    """What the process needs of an engine. One thread calls it."""

    def handle(self, request: EngineRequest) -> EngineReply:
        """Answer each message with an outcome. Raises EngineFault when the token is gone."""

    def handle_admin(self, request: AdminRequest, uid: int) -> AdminReply:
        """Answer an operator's command; uid is the user id of the peer. Raises EngineFault."""

    def tick(self) -> None:
        """Called about once a second: key epochs. Raises EngineFault."""


Build = Callable[[Path, bytes, int], Engine]


def main(argv: Sequence[str] | None = None, build: Build | None = None) -> int:
    """Build the engine and answer until the supervisor closes the control channel; the exit code.

    build makes the engine from home folder, PIN and index; kms.engine.build.build_engine unless a test brings its own.
    """
    forbid_core_dumps()
    die_with_parent()
    # The supervisor says when to end. A service manager that signals the whole group must not take the engines from
    # under frontends that are still draining.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    options = _parse(argv)
    logs.configure(f"engine-{options.index}")
    control = socket.socket(fileno=options.control_fd)
    try:
        return _serve(options, control, build or _build)
    except link.LinkClosed:
        # The supervisor went away before it heard from us.
        return 0


def _serve(options: argparse.Namespace, control: socket.socket, build: Build) -> int:
    try:
        engine = build(options.home, _read_pin(options.pin_fd), options.index)
        admin = link.listen_path(options.home / ADMIN_SOCKET) if options.index == 0 else None
    except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor reports it
        link.send(control, ChildReport(start_failed=_start_failed(error)))
        return EXIT_START_FAILED
    link.send(control, ChildReport(ready=Ready()))
    return run(engine, control, admin)


def run(engine: Engine, control: socket.socket, admin: socket.socket | None = None) -> int:
    """Answer links and admin connections until the control channel ends; the exit code.

    admin: a listening Unix socket, or None.
    """
    try:
        _Loop(engine, control, admin).run()
    except EngineFault as fault:
        _log.error("token gone", **logs.where(fault))
        return EXIT_TOKEN_GONE
    return 0


class _Loop:
    def __init__(self, engine: Engine, control: socket.socket, admin: socket.socket | None) -> None:
        self._engine = engine
        self._selector = selectors.DefaultSelector()
        self._running = True
        self._watch(control, lambda: self._on_control(control))
        if admin is not None:
            self._watch(admin, lambda: self._on_admin_connection(admin))

    def run(self) -> None:
        next_tick = time.monotonic() + _TICK_SECONDS
        while self._running:
            for key, _events in self._selector.select(max(0.0, next_tick - time.monotonic())):
                key.data()
            if time.monotonic() >= next_tick:
                self._tick()
                next_tick = time.monotonic() + _TICK_SECONDS

    def _watch(self, sock: socket.socket, on_readable: Callable[[], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, on_readable)

    def _drop(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        sock.close()

    def _on_control(self, control: socket.socket) -> None:
        try:
            _message, fds = link.receive_with_fds(control, ControlMessage)
        except link.LinkClosed:
            self._running = False
            return
        for fd in fds:
            self._add_link(socket.socket(fileno=fd))

    def _add_link(self, sock: socket.socket) -> None:
        link.limit_waiting(sock, _SEND_SECONDS)
        buffer = link.FrameBuffer()

        def answer() -> None:
            try:
                buffer.read_from(sock)
                while (request := buffer.pop(EngineRequest)) is not None:
                    link.send(sock, self._handle(request))
            except link.LinkClosed:
                self._drop(sock)
            except link.LinkError as error:
                _log.error("link dropped", reason=str(error))
                self._drop(sock)

        self._watch(sock, answer)

    def _handle(self, request: EngineRequest) -> EngineReply:
        """Message by message, so that a fault costs the answer of one message only."""
        reply = EngineReply()
        for message in request.mikey_messages:
            single = EngineRequest(
                called_service=request.called_service,
                operation=request.operation,
                tls_identities=request.tls_identities,
                mikey_messages=[message],
                peer_answer=request.peer_answer if request.HasField("peer_answer") else None,
            )
            try:
                (outcome,) = self._engine.handle(single).outcomes
            except EngineFault:
                raise
            except Exception as error:  # noqa: BLE001 - one bug must not end the engine
                _log.error("fault while handling a message", **logs.where(error))
                outcome = Outcome(refusal=_ENGINE_FAULT)
            reply.outcomes.append(outcome)
        return reply

    def _on_admin_connection(self, listener: socket.socket) -> None:
        sock, _address = listener.accept()
        uid = link.peer_uid(sock)
        if uid not in (0, os.geteuid()):
            _log.warning("admin connection refused", uid=uid)
            sock.close()
            return
        link.limit_waiting(sock, _SEND_SECONDS)
        buffer = link.FrameBuffer()

        def answer() -> None:
            try:
                buffer.read_from(sock)
                while (request := buffer.pop(AdminRequest)) is not None:
                    link.send(sock, self._handle_admin(request, uid))
            except link.LinkError:
                self._drop(sock)

        self._watch(sock, answer)

    def _handle_admin(self, request: AdminRequest, uid: int) -> AdminReply:
        try:
            return self._engine.handle_admin(request, uid)
        except EngineFault:
            raise
        except Exception as error:  # noqa: BLE001
            _log.error("fault while handling an admin request", **logs.where(error))
            return AdminReply(error=AdminError(message="a fault of the KMS: see its log"))

    def _tick(self) -> None:
        try:
            self._engine.tick()
        except EngineFault:
            raise
        except Exception as error:  # noqa: BLE001
            _log.error("fault in the periodic work", **logs.where(error))


_ENGINE_FAULT = Refusal(
    code=_CODE_INTERNAL,
    reason="ENGINE_FAULT",
    message="a fault of the KMS, not of the message: its operator finds it in the engine's log",
)


def _start_failed(error: Exception) -> StartFailed:
    if isinstance(error, StartRefused):
        return StartFailed(message=str(error), pin_rejected=error.pin_rejected)
    if isinstance(error, ConfigError):
        return StartFailed(message=str(error))
    _log.error("fault at start", **logs.where(error))
    return StartFailed(
        message=f"an unexpected {type(error).__qualname__}; the log line before this says where"
    )


def _build(home: Path, pin: bytes, index: int) -> Engine:
    # Loads PKCS#11, which other users of this module (tests with an engine of their own) do without.
    from kms.engine.build import build_engine

    return build_engine(home, pin, index)


def _read_pin(fd: int) -> bytes:
    with os.fdopen(fd, "rb", buffering=0) as pipe:
        pin = b""
        while len(pin) <= _MAX_PIN and (chunk := pipe.read(_MAX_PIN)):
            pin += chunk
    return pin


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kms.engine.process", description="Started by `kms serve`.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--pin-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

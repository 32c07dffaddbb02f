"""The frontend process, from its start by the supervisor to the end of its drain.

Started as `python -m kms.frontend.process --home DIR --index N --grpc ADDRESS --metrics ADDRESS [--http ADDRESS]
--control-fd F`. Links to engines arrive over the control channel.
"""

import argparse
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import prometheus_client
import structlog

from kms import link, logs
from kms.config import Address, Config, ConfigError, load_config
from kms.engine.v1.link_pb2 import ChildReport, ControlMessage, EngineTimedOut, Ready, StartFailed
from kms.frontend.answering import Answering
from kms.frontend.errors import StartError
from kms.frontend.http import HttpServer
from kms.frontend.metrics import Metrics
from kms.frontend.peers import Peers
from kms.frontend.pool import EngineLink, EnginePool
from kms.frontend.replay import MemoryReplayCache
from kms.frontend.server import Server, check_free
from kms.link.hardening import die_with_parent, forbid_core_dumps

EXIT_START_FAILED = 2

# Shorter than what the supervisor gives a draining frontend.
_DRAIN_SECONDS = 20.0
_ENGINE_ANSWER_SECONDS = 10.0
_BATCH_THREADS = 16

_log = structlog.get_logger()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or until the supervisor is gone; the exit code."""
    forbid_core_dumps()
    die_with_parent()
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = _parse(argv)
    logs.configure(f"frontend-{options.index}")
    control = Control(socket.socket(fileno=options.control_fd), stop)
    try:
        config = load_config(options.home)
        metrics = Metrics()
        pool = EnginePool(_ENGINE_ANSWER_SECONDS, on_timeout=control.engine_timed_out)
        replay_cache = MemoryReplayCache(config.clock_skew_seconds)
        metrics.watch(pool.counts, replay_cache.__len__)
        executor = ThreadPoolExecutor(_BATCH_THREADS, thread_name_prefix="batch")
        peers = Peers(config.peers, metrics)
        answering = Answering(pool, replay_cache, metrics, executor, peers)
        server = Server(config, options.grpc, answering, metrics)
        http = None if options.http is None else _http_server(config, options.http, answering, metrics)
        metrics_address = _serve_metrics(options.metrics, metrics)
    except (ConfigError, StartError) as error:
        control.report(ChildReport(start_failed=StartFailed(message=str(error))))
        return EXIT_START_FAILED
    pool.on_change = lambda engines: server.set_serving(engines > 0)
    control.receive_links(pool)
    server.start()
    if http is not None:
        http.start()
    ready = Ready(grpc_address=str(server.address), metrics_address=str(metrics_address))
    ready.http_address = "" if http is None else str(http.address)
    control.report(ChildReport(ready=ready))
    stop.wait()
    _log.info("draining")
    deadline = time.monotonic() + _DRAIN_SECONDS
    if http is not None:
        http.stop()
    server.drain(_DRAIN_SECONDS)
    if http is not None:
        http.drain(max(0.0, deadline - time.monotonic()))
    return 0


class Control:
    """This process' end of the supervisor's control channel. End of file on it sets stop."""

    def __init__(self, sock: socket.socket, stop: threading.Event) -> None:
        self._socket = sock
        self._stop = stop
        self._sending = threading.Lock()

    def report(self, report: ChildReport) -> None:
        """Tell the supervisor."""
        try:
            with self._sending:
                link.send(self._socket, report)
        except link.LinkClosed:
            self._stop.set()

    def engine_timed_out(self, timed_out: EngineLink) -> None:
        """Have an engine replaced that does not answer."""
        _log.error("engine does not answer", engine=timed_out.engine, pid=timed_out.engine_pid)
        self.report(
            ChildReport(
                engine_timed_out=EngineTimedOut(engine=timed_out.engine, engine_pid=timed_out.engine_pid)
            )
        )

    def receive_links(self, pool: EnginePool) -> None:
        """Add the links that arrive to the pool, in a thread of their own."""

        def receive() -> None:
            try:
                while True:
                    message, fds = link.receive_with_fds(self._socket, ControlMessage)
                    for fd in fds:
                        added = message.link_added
                        pool.add(EngineLink(added.engine, added.engine_pid, socket.socket(fileno=fd)))
            except link.LinkError:
                self._stop.set()

        threading.Thread(target=receive, name="control", daemon=True).start()


def _http_server(config: Config, address: Address, answering: Answering, metrics: Metrics) -> HttpServer:
    check_free("[listen] http", address)
    return HttpServer(config, address, answering, metrics)


def _serve_metrics(address: Address, metrics: Metrics) -> Address:
    check_free("[listen] metrics", address)
    http, _thread = prometheus_client.start_http_server(address.port, address.host, metrics.registry)
    return Address(address.host, http.server_port)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kms.frontend.process", description="Started by `kms serve`.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--grpc", type=Address.parse, required=True)
    parser.add_argument("--metrics", type=Address.parse, required=True)
    parser.add_argument("--http", type=Address.parse)
    parser.add_argument("--control-fd", type=int, required=True)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())

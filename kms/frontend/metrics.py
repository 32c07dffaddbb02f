"""Every metric of the frontend. Labels are bounded: method names, codes, reasons; never an identity."""

from collections.abc import Callable
from importlib.metadata import version

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
)

_DURATION_BUCKETS = (
    0.001,
    0.002,
    0.003,
    0.005,
    0.0075,
    0.01,
    0.02,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


class Metrics:
    """The metrics of one frontend process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(GC_COLLECTOR)
        registry.register(PLATFORM_COLLECTOR)
        Info("kms_build", "Version of the KMS.", registry=registry).info(
            {"version": version("mikey-ticket-kms")}
        )
        self.requests = Counter(
            "kms_frontend_requests",
            "gRPC calls and HTTP requests that ended, by gRPC status code.",
            ("service", "method", "code"),
            registry=registry,
        )
        self.duration = Histogram(
            "kms_frontend_request_duration_seconds",
            "Duration of a call in the frontend, waiting for an engine included.",
            ("service", "method"),
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.refusals = Counter(
            "kms_frontend_refusals",
            "MIKEY messages refused, by ErrorInfo reason.",
            ("reason",),
            registry=registry,
        )
        self.engine_losses = Counter(
            "kms_frontend_engine_losses",
            "Times that an engine died or did not answer with messages in its hands.",
            registry=registry,
        )
        self._engines = Gauge(
            "kms_frontend_engines",
            "Engines linked to this frontend, by state.",
            ("state",),
            registry=registry,
        )
        self._replay_entries = Gauge(
            "kms_frontend_replay_cache_entries",
            "Messages that the replay cache remembers.",
            registry=registry,
        )
        self.replays = Counter(
            "kms_frontend_replays", "Messages refused because they were seen before.", registry=registry
        )

        self.forwards = Counter(
            "kms_frontend_forwards",
            "Messages forwarded to the KMS that made their ticket, by that KMS and by what became of them.",
            ("peer", "outcome"),
            registry=registry,
        )

    def watch(self, engines: Callable[[], tuple[int, int]], replay_entries: Callable[[], int]) -> None:
        """Read the gauges from these when they are scraped. engines: how many are linked and how many idle."""
        self._engines.labels("linked").set_function(lambda: engines()[0])
        self._engines.labels("idle").set_function(lambda: engines()[1])
        self._replay_entries.set_function(replay_entries)

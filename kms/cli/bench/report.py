"""The tables of `kms bench`."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show(figures: dict[str, Any]) -> None:
    """Print every figure, token by token."""
    console = Console()
    machine = figures["machine"]
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"load {machine['load_before']} before the run"
    )
    for token, measured in figures["tokens"].items():
        console.print(_served(token, measured["served"], measured["memory_mb"]))
        console.print(_alone(token, measured["engine_alone"]))
        for kind in ("request", "resolve"):
            console.print(
                _calls(f"{token}: PKCS #11 calls of one {kind.upper()}", measured["engine_alone"][kind])
            )


def _served(token: str, loads: list[dict[str, Any]], memory: dict[str, float]) -> Table:
    table = _table(f"{token}: over gRPC with mTLS", "load", "per s", "p50 ms", "p99 ms")
    roles = sorted({role for load in loads for role in load["cpu_ms"]})
    for role in roles:
        table.add_column(f"{role} CPU ms", justify="right")
    for load in loads:
        cpu = [f"{load['cpu_ms'].get(role, 0):.2f}" for role in roles]
        rates = [f"{load['exchanges_per_s']:.0f}", f"{load['p50_ms']:.2f}", f"{load['p99_ms']:.2f}"]
        table.add_row(load["name"], *rates, *cpu)
    table.caption = "peak memory: " + ", ".join(
        f"{role} {mib:.0f} MiB" for role, mib in sorted(memory.items())
    )
    return table


def _alone(token: str, figures: dict[str, Any]) -> Table:
    table = _table(f"{token}: engine alone, without frontend", "exchange", "CPU ms", "wall ms (median)")
    for kind in ("request", "resolve"):
        table.add_row(
            kind.upper(), f"{figures[kind]['cpu_ms']:.3f}", f"{figures[kind]['wall_ms_median']:.3f}"
        )
    codec = figures["codec"]
    table.caption = (
        f"codec alone, the six messages of a forked exchange: parse {codec['parse_ms']:.2f} ms, "
        f"build {codec['build_ms']:.2f} ms; peak memory {figures['memory_mb']:.0f} MiB, "
        "with the message maker in the same process"
    )
    return table


def _calls(title: str, figures: dict[str, Any]) -> Table:
    table = _table(title, "function", "calls", "ms")
    calls = figures["pkcs11"]
    for name, entry in sorted(calls.items(), key=lambda item: -item[1]["ms"]):
        table.add_row(name, f"{entry['calls']:.1f}", f"{entry['ms']:.3f}")
    total = [sum(entry[field] for entry in calls.values()) for field in ("calls", "ms")]
    table.add_section()
    table.add_row("all", f"{total[0]:.1f}", f"{total[1]:.3f}")
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    return table

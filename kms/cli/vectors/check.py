"""`kms vectors check`: play every vector of a file in every role, and say what came of it."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from kms.cli.errors import CommandError
from kms.cli.output import console, print_json, table
from kms.cli.vectors.entries import Json
from kms.cli.vectors.exchanges import check_exchanges
from kms.cli.vectors.negatives import check_negatives
from kms.cli.vectors.payloads import check_errors, check_payloads
from kms.cli.vectors.primitives import check_algorithms, check_derivations, check_own_derivations, check_prf
from kms.cli.vectors.report import Result, Verdict

CHECKS: dict[str, Callable[[list[Json]], Iterator[Result]]] = {
    "prf": check_prf,
    "derivations": check_derivations,
    "algorithms": check_algorithms,
    "own_derivations": check_own_derivations,
    "payloads": check_payloads,
    "errors": check_errors,
    "exchanges": check_exchanges,
    "negatives": check_negatives,
}
"""What checks the entries under each key of a vector file."""

_MAX_FILE = 256 << 20
_STYLES = {Verdict.PASS: "green", Verdict.REFUSED: "green", Verdict.FAIL: "bold red"}


@dataclass(frozen=True, slots=True)
class VectorFile:
    """A vector file: its entries by key."""

    path: Path
    entries: dict[str, list[Any]]

    @classmethod
    def load(cls, path: Path) -> "VectorFile":
        """Read a file. Raises CommandError if it is no vector file."""
        try:
            if path.stat().st_size > _MAX_FILE:
                raise CommandError(f"{path}: more than {_MAX_FILE >> 20} MiB: not a vector file")
            content = json.loads(path.read_bytes())
        except OSError as error:
            raise CommandError(f"{path}: cannot be read: {error.strerror}") from None
        except RecursionError:
            raise CommandError(f"{path}: not a vector file: it is nested too deeply") from None
        except ValueError as error:
            raise CommandError(f"{path}: not JSON: {error}") from None
        known = ", ".join(CHECKS)
        if not isinstance(content, dict) or not any(key in content for key in CHECKS):
            raise CommandError(
                f"{path}: not a vector file: an object with at least one of {known} is expected"
            )
        entries = {key: content[key] for key in CHECKS if key in content}
        for key, value in entries.items():
            if not isinstance(value, list):
                raise CommandError(f"{path}: {key} must be a list of vectors")
        if not any(entries.values()):
            raise CommandError(f"{path}: there is no vector in it")
        return cls(path, entries)

    def check(self) -> Iterator[Result]:
        """Play every vector."""
        for key, entries in self.entries.items():
            # What is no object lacks everything, which is what its own result then says.
            yield from CHECKS[key]([entry if isinstance(entry, dict) else {} for entry in entries])


def check_command(paths: Sequence[Path], *, as_json: bool) -> int:
    """Check files and print a table, or JSON. The exit code: 1 if any vector failed. Raises CommandError."""
    files = [VectorFile.load(path) for path in paths]
    results = {file.path: list(file.check()) for file in files}
    if as_json:
        print_json(_report(results))
    else:
        _show(results)
    return 1 if any(r.verdict is Verdict.FAIL for found in results.values() for r in found) else 0


def _report(results: dict[Path, list[Result]]) -> Json:
    files = [{"file": str(path), "results": [r.as_dict() for r in found]} for path, found in results.items()]
    return {"files": files, "totals": _totals(results)}


def _totals(results: dict[Path, list[Result]]) -> dict[str, int]:
    counts = Counter(r.verdict for found in results.values() for r in found)
    return {verdict.value: counts[verdict] for verdict in Verdict}


def _show(results: dict[Path, list[Result]]) -> None:
    out = console()
    for path, found in results.items():
        rows = [
            (_line(r.name), _line(r.role), Text(r.verdict.value, _STYLES[r.verdict]), _line(r.detail))
            for r in found
        ]
        out.print(table(str(path), ("vector", "role", "verdict", "detail"), rows))
    totals = _totals(results)
    out.print(", ".join(f"{count} {verdict}" for verdict, count in totals.items()))


def _line(text: str) -> str:
    """One printable line of whatever a file has for a name."""
    return "".join(c if c.isprintable() else "?" for c in text)

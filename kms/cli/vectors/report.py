"""What came of a vector: pass, fail with the first difference, or refused as expected."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kms.cli.inspect import Node, inspect
from kms.cli.vectors.entries import BrokenVector, Json
from kms.crypto.interface import KeyOperationError
from kms.mikey.errors import MikeyError

_SHOWN = 24  # bytes around a difference


class Verdict(StrEnum):
    """The outcome for one vector in one role."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    REFUSED = "refused-as-expected"


@dataclass(frozen=True, slots=True)
class Result:
    """One vector in one role. `difference` says, in a failure, what differed: see docs/vectors.md."""

    kind: str
    name: str
    role: str
    verdict: Verdict
    detail: str = ""
    difference: Json | None = None

    def as_dict(self) -> Json:
        """For JSON."""
        out: Json = {"kind": self.kind, "name": self.name, "role": self.role, "verdict": self.verdict.value}
        out["detail"] = self.detail
        out["difference"] = self.difference
        return out


class Mismatch(Exception):
    """The code made something else than the vector says."""

    def __init__(self, text: str, difference: Json | None = None) -> None:
        super().__init__(text)
        self.difference = difference


def judge(kind: str, name: str, role: str, play: Callable[[], str | None]) -> Result:
    """The result of `play`, which returns a remark or raises. Nothing that a vector causes escapes."""
    try:
        return Result(kind, name, role, Verdict.PASS, play() or "")
    except Mismatch as mismatch:
        return Result(kind, name, role, Verdict.FAIL, str(mismatch), mismatch.difference)
    except BrokenVector as broken:
        return Result(kind, name, role, Verdict.FAIL, f"broken vector: {broken}")
    except MikeyError as error:
        return Result(kind, name, role, Verdict.FAIL, f"refused: {error} (Error no {int(error.error_no)})")
    except KeyOperationError as error:
        return Result(kind, name, role, Verdict.FAIL, f"key operation refused: {error}")
    except Exception as error:  # noqa: BLE001 - whatever a hostile file brings about fails its own entry
        return Result(kind, name, role, Verdict.FAIL, f"{type(error).__name__}: {_one_line(error)}")


def equal(what: str, expected: Any, got: Any) -> None:
    """Raise Mismatch unless two plain values, or their bytes, are the same."""
    if isinstance(expected, bytes) and isinstance(got, bytes):
        if expected != got:
            offset = first_difference(expected, got)
            raise _bytes_differ(what, expected, got, offset, "")
    elif expected != got:
        text = f"{what}: expected {_short(expected)}, got {_short(got)}"
        raise Mismatch(text, {"where": what, "expected": _short(expected), "got": _short(got)})


def equal_messages(what: str, expected: bytes, got: bytes) -> None:
    """Raise Mismatch with the payload and field at the first differing byte of two messages."""
    if expected != got:
        offset = first_difference(expected, got)
        raise _bytes_differ(what, expected, got, offset, _place(expected, offset))


def equal_forms(what: str, expected: object, got: object) -> None:
    """Raise Mismatch unless a JSON form has everything of `got`; members that only `expected` has are ignored."""
    if isinstance(got, dict) and isinstance(expected, dict):
        for name, value in got.items():
            if name not in expected:
                raise Mismatch(f"{what}: the vector has no {name}", {"where": f"{what}.{name}"})
            equal_forms(f"{what}.{name}", expected[name], value)
    elif isinstance(got, list) and isinstance(expected, list) and len(got) == len(expected):
        for i, (want, have) in enumerate(zip(expected, got, strict=True)):
            equal_forms(f"{what}[{i}]", want, have)
    else:
        equal(what, expected, got)


def first_difference(a: bytes, b: bytes) -> int:
    """Offset of the first byte that differs; the shorter length if one is the start of the other."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _bytes_differ(what: str, expected: bytes, got: bytes, offset: int, place: str) -> Mismatch:
    want, have = (v[offset : offset + _SHOWN].hex() or "the end" for v in (expected, got))
    text = f"{what}: first difference at byte {offset}{f' ({place})' if place else ''}: expected {want}, got {have}"
    difference = {
        "where": what,
        "offset": offset,
        "field": place,
        "expected": expected.hex(),
        "got": got.hex(),
    }
    return Mismatch(text, difference)


def _place(message: bytes, offset: int) -> str:
    """The payloads, from the outermost, in which the byte at `offset` lies."""
    path, parts = [], inspect(message).parts
    while found := _part_at(parts, offset):
        path.append(found.name)
        parts = found.parts
    return " > ".join(path) or "behind the last payload"


def _part_at(parts: list[Node], offset: int) -> Node | None:
    return next((p for p in parts if p.offset <= offset < p.offset + p.length), None)


def _short(value: Any) -> Any:
    shown = str(value)
    return value if len(shown) <= 2 * _SHOWN * 4 else shown[: 2 * _SHOWN * 4] + "..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

"""docs/conformance.md says nothing of tests and code that do not exist, and leaves no requirement of RFC 6043 out."""

import ast
import importlib
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "conformance.md").read_text()

KEY_WORDS = {
    "4.1": "SHOULD 1",
    "4.2.1": "MUST 1, SHALL 2",
    "4.2.1.1": "MANDATORY 1, MUST 3, SHALL 3, SHALL NOT 1, SHOULD 2",
    "4.2.1.2": "SHALL 2, SHOULD 1",
    "4.2.1.3": "MUST 2, SHOULD 2",
    "4.2.1.4": "MUST 2, SHOULD 1",
    "4.2.1.5": "RECOMMENDED 1, SHALL 12",
    "4.2.1.6": "MUST 1, SHALL 2, SHOULD 1",
    "4.2.2.1": "MUST 1, SHALL 5, SHALL NOT 1, SHOULD 1",
    "4.2.2.2": "MUST 1, SHALL 2, SHOULD 1",
    "4.2.2.3": "MUST 3, SHALL 9, SHALL NOT 1, SHOULD NOT 1",
    "4.2.2.4": "MUST 1, SHALL 1, SHOULD 1",
    "4.2.3": "MUST 1, SHALL 2, SHOULD 1",
    "4.2.3.1": "MANDATORY 1, MUST 3, SHALL 3, SHALL NOT 1, SHOULD 1",
    "4.2.3.2": "SHALL 2, SHOULD 1",
    "4.2.3.3": "MUST 2, SHOULD 2",
    "4.2.3.4": "MUST 1, SHALL 1, SHOULD 1",
    "4.2.3.5": "SHALL 14",
    "4.2.3.6": "MUST 1, SHALL 1, SHOULD 1",
    "5.1": "SHALL 2, SHALL NOT 2",
    "5.1.1": "SHALL 2, SHALL NOT 1",
    "5.1.2": "SHALL 7",
    "5.1.3": "MUST 1, SHALL 7, SHALL NOT 1",
    "5.2": "MUST 3, MUST NOT 1, SHALL 4, SHALL NOT 3, SHOULD NOT 1",
    "5.3": "MUST 1, MUST NOT 1, SHALL 1, SHOULD NOT 1",
    "5.4": "SHALL 5, SHOULD 4",
    "5.5": "MUST 2, SHALL NOT 1",
    "6.1": "MUST 1, SHALL 3, SHALL NOT 1, SHOULD 1",
    "6.1.1": "MUST 5, SHALL 2, SHOULD 1",
    "6.2": "SHALL 2",
    "6.2.1": "MUST 1, SHALL NOT 1",
    "6.3": "MANDATORY 1, SHALL 1",
    "6.6": "MUST 1",
    "6.10": "MANDATORY 1, MUST 1, SHALL 21, SHALL NOT 9, SHOULD 4",
    "9": "MUST 1, SHALL 1",
    "9.1": "MUST 1",
    "10": "SHALL 2, SHOULD 3",
    "11": "MUST 4, RECOMMENDED 1, SHOULD 1, SHOULD NOT 1",
    "12": "MUST 1, SHOULD 1",
    "12.1": "MUST 4, SHALL 1, SHALL NOT 2, SHOULD 1",
    "12.2": "MUST NOT 1",
    "12.3": "SHOULD 2",
    "12.4": "RECOMMENDED 1",
    "12.5": "NOT RECOMMENDED 1",
    "14": "SHOULD 4",
    "A": "SHALL 2, SHOULD 1",
    "A.1": "MUST 1, SHALL 5",
    "A.2": "SHALL NOT 1",
    "A.2.1": "SHALL 1",
    "A.2.2": "SHALL 2",
    "A.3": "SHOULD 1",
}
"""How often RFC 6043 uses each key word of RFC 2119, by section; section 2 only quotes them."""

OTHERS = {
    "RFC 3830": "4.1.3 4.2.1 4.2.2 4.2.3 4.2.4 4.2.5 4.2.6 4.2.8 4.2.9 4.3.2 4.4 4.5 5.1.1 5.1.2 5.2 5.3 5.4 6.1 6.1.1 "
    "6.3 6.4 6.6 6.11 6.13 6.14",
    "RFC 4563": "3 4 6",
    "RFC 6309": "2",
    "RFC 4567": "3 3.1 3.2 4 4.1.1 4.1.2 4.1.3 4.1.4 4.2 6 7 7.1 8",
}
"""Sections with key words of the others, of RFC 3830 within 4 to 6."""


@dataclass(frozen=True)
class Row:
    """A line of a table."""

    section: str
    levels: tuple[str, ...]
    requirement: str
    code: str
    tests: str


def rows(rfc: str) -> list[Row]:
    (part,) = re.findall(rf"^## {rfc}\b.*?(?=^## |\Z)", TEXT, re.M | re.S)
    lines = [line for line in part.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [Row(s, tuple(levels.split(", ")), *rest) for s, levels, *rest in cells]


ALL = [row for rfc in ("RFC 6043", *OTHERS) for row in rows(rfc)]


@cache
def functions(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def resolve(name: str) -> Any:
    """A module, or what is in one. Raises ImportError or AttributeError."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise ImportError(name)


NAMED_TESTS = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("file", "name"), NAMED_TESTS)
def test_every_named_test_exists(file: str, name: str) -> None:
    assert name.startswith("test_")
    assert name in functions(file), f"{file} has no {name}"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(kms\.[\w.]+)`", TEXT))))
def test_all_named_code_exists(name: str) -> None:
    resolve(name)


def test_all_backticked_names_were_looked_up() -> None:
    looked_up = {f"{file}::{name}" for file, name in NAMED_TESTS} | set(re.findall(r"`(kms\.[\w.]+)`", TEXT))
    for name in re.findall(r"`([^`]+)`", TEXT):
        assert name in looked_up or "::" not in name, name


def test_every_row_names_a_test_or_says_why_not() -> None:
    for row in ALL:
        assert row.requirement, row
        assert "::test_" in row.tests or re.match(r"Does not apply: \w+", row.tests), row
        assert row.code == "-" if row.tests.startswith("Does not apply") else row.code, row


def test_no_key_word_of_rfc_6043_is_left_out() -> None:
    found: dict[str, Counter[str]] = {}
    for row in rows("RFC 6043"):
        found.setdefault(row.section, Counter()).update(row.levels)
    counted = {s: ", ".join(f"{k} {n}" for k, n in sorted(c.items())) for s, c in found.items()}
    assert counted == KEY_WORDS


@pytest.mark.parametrize("rfc", OTHERS)
def test_no_section_of_the_others_is_left_out(rfc: str) -> None:
    assert set(OTHERS[rfc].split()) <= {section for row in rows(rfc) for section in row.section.split(", ")}


def test_all_readings_are_cited() -> None:
    known = set(re.findall(r"^\*\*(A-\d\d) ", (ROOT / "tests/vectors/AMBIGUITIES.md").read_text(), re.M))
    cited = set(re.findall(r"\bA-\d\d\b", TEXT))
    assert cited == known

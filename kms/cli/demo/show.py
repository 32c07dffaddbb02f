"""What the spectator sees: each step as it happens with its time, and the tables at the end."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from rich.text import Text

from kms.cli import output
from kms.client import Refused

_WHO_WIDTH = 12
_INDENT = 23 + _WHO_WIDTH


class Unexpected(Exception):
    """Something did not go as it must: a step failed, or an attack did not."""


@dataclass
class Refusal:
    """What was said to an attempt."""

    attempt: str
    error: Exception | None = None

    @property
    def said(self) -> str:
        """The error's own words; of the KMS, its reason first."""
        return (
            f"{self.error.reason}: {self.error.message}"
            if isinstance(self.error, Refused)
            else str(self.error)
        )

    def must_be(self, reason: str) -> None:
        """Raise Unexpected unless this was the KMS's reason."""
        if not isinstance(self.error, Refused) or self.error.reason != reason:
            raise Unexpected(f"{self.attempt}: refused, but not as {reason}: {self.said}")


@dataclass
class Show:
    """Prints steps; collects what the tables at the end hold."""

    started: float = field(default_factory=time.monotonic)
    authenticated: list[tuple[str, str, str]] = field(default_factory=list)
    """Who is authenticated, to whom, how."""
    refusals: list[tuple[str, str, str]] = field(default_factory=list)
    """Who tried what, who refused, what it said."""

    def __post_init__(self) -> None:
        self._console = output.console()

    def act(self, title: str) -> None:
        """Begin a part."""
        self._console.print()
        self._console.print(Text(f"{title}", style="bold"))

    @contextlib.contextmanager
    def step(self, who: str, what: str) -> Iterator[None]:
        """One step that must succeed: printed when it has, with its time."""
        begun = time.monotonic()
        with self._console.status(f"{who} {what}"):
            yield
        self._line(who, what, begun, "green")

    def done(self, who: str, what: str, seconds: float) -> None:
        """A step that took so long and is over."""
        self._line(who, what, time.monotonic() - seconds, "green")

    def note(self, text: str) -> None:
        """What came of the last step."""
        self._console.print(Text(f"{'':{_INDENT}}{text}", style="green"))

    @contextlib.contextmanager
    def refused(self, who: str, what: str, by: str, error_type: type[Exception]) -> Iterator[Refusal]:
        """One step that must be refused with this error. Raises Unexpected if it succeeds."""
        begun = time.monotonic()
        refusal = Refusal(f"{who} {what}")
        try:
            yield refusal
        except error_type as error:
            refusal.error = error
            self._line(who, what, begun, "yellow")
            self._console.print(Text(f"{'':{_INDENT}}refused by {by}: {refusal.said}", style="yellow"))
            self.refusals.append((refusal.attempt, by, refusal.said))
            return
        raise Unexpected(f"{refusal.attempt}: nobody refused it")

    def summary(self) -> None:
        """Print who is authenticated to whom, and the refusals."""
        self._console.print()
        columns = ("who", "is authenticated to", "how")
        self._console.print(output.table("Authenticated", columns, self.authenticated))
        columns = ("attempt", "refused by", "what it said")
        self._console.print(output.table("Refused", columns, self.refusals))

    def end(self, text: str, style: str) -> None:
        """The last line."""
        self._console.print(Text(f"{text} ({time.monotonic() - self.started:.1f} s)", style=style))

    def _line(self, who: str, what: str, begun: float, style: str) -> None:
        milliseconds = (time.monotonic() - begun) * 1000
        at = begun - self.started
        line = Text(f"{at:6.2f} s ", style="dim")
        line.append(f"{milliseconds:7.1f} ms  ", style=style)
        line.append(f"{who:<{_WHO_WIDTH}} ", style="bold")
        line.append(what)
        self._console.print(line)

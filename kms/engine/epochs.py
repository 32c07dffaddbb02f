"""Ticket protection keys live in epochs: numbered spans of time, each with a TPK of its own in the token.

The number of an epoch is its start divided by its length, so every engine computes the same. One engine, the leader,
makes the current and the next epoch and destroys those whose last ticket has expired; the others only look them up.
"""

import time
from collections.abc import Callable
from typing import Protocol

import structlog

from hsm import KeyNotFound, Token
from kms.crypto.interface import Key, Use
from kms.engine.faults import EngineFault
from kms.mikey import labels
from kms.mikey.registry import PrfFunc

LABEL_PREFIX = "kms TPK "
_ID_FORMAT = 1
_BASE_TPK_LENGTH = 32
_REFRESH_SECONDS = 1.0

_log = structlog.get_logger()


class TicketKeys(Protocol):
    """Where the engine finds the keys that protect tickets. An id is the ID Data of IDRpsk in Ticket Data."""

    def current(self, now: float) -> tuple[bytes, Key]:
        """Id and BRANCH key of the TPK epoch that protects derived tickets granted now."""

    def epoch(self, psk_id: bytes | None) -> Key | None:
        """The BRANCH key of an epoch; None if it is unknown or destroyed."""

    def current_base(self, now: float, prf: PrfFunc) -> tuple[bytes, Key]:
        """Id and PRF key of the TPK that protects base tickets granted now."""

    def base(self, psk_id: bytes | None, prf: PrfFunc) -> Key | None:
        """The PRF key of a base ticket's TPK; None if it is unknown or destroyed."""

    def forget(self) -> None:
        """Look the keys up anew: the token said that one of them is gone."""


class Epochs:
    """The TPK epochs in a token. `length` and `lifetime` (the longest ticket) are in seconds."""

    def __init__(self, token: Token, length: int, lifetime: int, *, leader: bool) -> None:
        self._token = token
        self._length = length
        self._lifetime = lifetime
        self._leader = leader
        self._keys: dict[int, Key] = {}
        self._looked_up = 0.0
        self._monotonic: Callable[[], float] = time.monotonic

    # -- what protects tickets ---------------------------------------------------------------------------------------

    def current(self, now: float) -> tuple[bytes, Key]:
        """See TicketKeys. Raises EngineFault if the token has no epoch for now."""
        number = self.number(now)
        key = self._find(number)
        if key is None and self._leader:
            key = self._create(number)
        if key is None:
            raise EngineFault(f"the token has no key for TPK epoch {number}: is engine 0 running?")
        return _encode(number), key

    def epoch(self, psk_id: bytes | None) -> Key | None:
        """See TicketKeys."""
        number = _decode(psk_id)
        return None if number is None else self._find(number)

    def current_base(self, now: float, prf: PrfFunc) -> tuple[bytes, Key]:
        """See TicketKeys."""
        psk_id, key = self.current(now)
        return psk_id, self._base(key)

    def base(self, psk_id: bytes | None, prf: PrfFunc) -> Key | None:
        """See TicketKeys."""
        key = self.epoch(psk_id)
        return None if key is None else self._base(key)

    # -- making and destroying ---------------------------------------------------------------------------------------

    def number(self, now: float) -> int:
        """The number of the epoch at `now` (Unix seconds)."""
        return int(now) // self._length

    def destroy_at(self, number: int) -> int:
        """When an epoch is destroyed, in Unix seconds: its last ticket has expired then."""
        return (number + 1) * self._length + self._lifetime

    def maintain(self, now: float) -> None:
        """Now and then: drop the ended epochs; as the leader, make the current and the next, destroy the ended ones."""
        ended = [number for number in self._keys if self._ended(number, now)]
        for number in ended:
            del self._keys[number]
            self._token.forget_master(label(number))
        current = self.number(now)
        if not self._leader or (not ended and {current, current + 1} <= self._keys.keys()):
            return
        known = self._numbers()
        for number in {current, current + 1} - set(known):
            self._create(number)
        for number in known:
            if self._ended(number, now):
                self._token.destroy_master(label(number))
                _log.info("TPK epoch destroyed", epoch=number)
            else:
                self._keys.setdefault(number, self._token.master(label(number)))

    def _ended(self, number: int, now: float) -> bool:
        return self.destroy_at(number) <= now

    def forget(self) -> None:
        """See TicketKeys."""
        self._token.masters()  # drops the handles of keys that are gone
        self._keys.clear()
        self._looked_up = 0.0

    def _numbers(self) -> list[int]:
        return [n for n in (number_of(info.label) for info in self._token.masters()) if n is not None]

    def _find(self, number: int) -> Key | None:
        key = self._keys.get(number)
        if key is None and self._monotonic() - self._looked_up >= _REFRESH_SECONDS:
            # Rate-limited: anybody can send tickets that name epochs which do not exist.
            self._looked_up = self._monotonic()
            for known in self._numbers():
                self._keys.setdefault(known, self._token.master(label(known)))
            key = self._keys.get(number)
        return key

    def _create(self, number: int) -> Key:
        try:
            key = self._token.master(label(number))
        except KeyNotFound:
            key = self._token.create_master(label(number))
            _log.info("TPK epoch made", epoch=number)
        self._keys[number] = key
        return key

    def _base(self, epoch: Key) -> Key:
        return self._token.leaf(epoch, labels.base_ticket_tpk(), _BASE_TPK_LENGTH, Use.PRF)


def label(number: int) -> str:
    """The token label of an epoch's TPK."""
    return f"{LABEL_PREFIX}{number}"


def number_of(token_label: str) -> int | None:
    """The epoch number of a token label, or None if it is another key's."""
    digits = token_label.removeprefix(LABEL_PREFIX)
    return int(digits) if token_label.startswith(LABEL_PREFIX) and digits.isdigit() else None


def _encode(number: int) -> bytes:
    return bytes((_ID_FORMAT,)) + number.to_bytes(4, "big")


def _decode(psk_id: bytes | None) -> int | None:
    if psk_id is None or len(psk_id) != 5 or psk_id[0] != _ID_FORMAT:
        return None
    return int.from_bytes(psk_id[1:], "big")

"""The codec alone: parsing and building the six messages of a forked exchange, without any cryptography."""

import statistics
import time
from collections.abc import Sequence

from kms.mikey.exchange import check_message
from kms.mikey.message import Message

_ROUNDS = 200
_REPEATS = 7


def measure(raws: Sequence[bytes]) -> dict[str, float]:
    """CPU milliseconds to parse (decode and check) and to build all of `raws` once: medians of several repeats."""
    messages = [Message.decode(raw) for raw in raws]

    def parse() -> None:
        for raw in raws:
            message = Message.decode(raw)
            check_message(message, message.hdr.data_type)

    def build() -> None:
        for message in messages:
            Message.build(message.hdr, message.payloads)

    figures = {"parse_ms": [0.0] * _REPEATS, "build_ms": [0.0] * _REPEATS}
    for repeat in range(_REPEATS):
        for name, work in (("parse_ms", parse), ("build_ms", build)):
            start = time.process_time()
            for _ in range(_ROUNDS):
                work()
            figures[name][repeat] = 1000 * (time.process_time() - start) / _ROUNDS
    return {name: statistics.median(values) for name, values in figures.items()}

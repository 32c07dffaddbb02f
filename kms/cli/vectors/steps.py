"""The messages of a vector, in order."""

from dataclasses import dataclass

from kms.cli.vectors.entries import BrokenVector, Json, octets, optional, text
from kms.mikey import timestamps
from kms.mikey.errors import MikeyError
from kms.mikey.message import Message
from kms.mikey.payloads import GenericIdSession, T, Ticket
from kms.mikey.registry import DataType, TsType


@dataclass(frozen=True, slots=True)
class Step:
    """One message with its time of sending (Unix seconds). `update` says that it belongs to a CSB update (5.2)."""

    index: int
    name: str
    message: Message
    time: float
    update: bool = False

    @property
    def kind(self) -> DataType:
        """The Data Type."""
        return self.message.hdr.data_type

    @property
    def csb_id(self) -> int:
        """The CSB ID, which names the exchange that the message belongs to."""
        return self.message.hdr.csb_id

    @property
    def where(self) -> str:
        """How a difference names this message."""
        return f"message {self.index} {self.name}"


def read_steps(entries: list[Json], clock: float) -> list[Step]:
    """The messages of an exchange or of a negative's context. `clock` is the time of one that tells none.

    Raises BrokenVector for one that cannot be decoded.
    """
    steps: list[Step] = []
    updating: dict[int, bool] = {}
    for i, entry in enumerate(entries):
        where = f"messages[{i}]"
        name, raw = text(entry, "name", where), octets(entry, "hex", where)
        try:
            message = Message.decode(raw)
        except MikeyError as error:
            raise BrokenVector(f"message {i} {name} does not decode: {error}") from None
        update = name.startswith("UPDATE")
        if message.hdr.data_type == DataType.TRANSFER_INIT:
            update = updating[message.hdr.csb_id] = update or message.find(Ticket) is None
        elif message.hdr.data_type == DataType.TRANSFER_RESP:
            update = updating.get(message.hdr.csb_id, update)
        time = optional(entry, "unix_time", (int, float), None, where)
        steps.append(Step(i, name, message, _time(message, clock) if time is None else float(time), update))
    return steps


def _time(message: Message, clock: float) -> float:
    """When a message that does not say so was sent: at its T, unless that is a COUNTER."""
    t = message.find(T)
    return clock if t is None or t.ts_type == TsType.COUNTER else timestamps.unix_time(t)


def sessions_of(message: Message) -> list[GenericIdSession]:
    """The GENERIC-ID map of a message."""
    return [s for s in message.hdr.sessions if isinstance(s, GenericIdSession)]

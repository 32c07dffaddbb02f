"""Reading and writing the primitive fields of MIKEY: big-endian integers and length-prefixed bytes."""

from kms.mikey.errors import DecodeError, EncodeError
from kms.mikey.registry import ErrorNo

MAX_DEPTH = 8
"""How many blocks may stand in one another. TP Data may hold any payload, even a TP: nothing needs more than three."""

MAX_PAYLOADS = 4096
"""How many payloads a message may have, those in its blocks included: a local limit. A payload can have 2 bytes only,
and 64 KiB of such took a receiver a fifth of a second.
"""


class Reader:
    """A cursor over a block of bytes that knows the block's name and every field's absolute offset."""

    __slots__ = ("_base", "_data", "_depth", "_end", "_payloads", "_pos", "where")

    def __init__(
        self, data: bytes, where: str, base: int = 0, depth: int = 0, payloads: list[int] | None = None
    ) -> None:
        """`base` is the offset of `data` in the whole message, so that errors name absolute offsets."""
        self._depth = depth
        self._payloads = [0] if payloads is None else payloads  # shared by all blocks of a message
        self._data = data
        self._pos = 0
        self._end = len(data)
        self._base = base
        self.where = where

    @property
    def offset(self) -> int:
        """Absolute offset of the next byte."""
        return self._base + self._pos

    @property
    def left(self) -> int:
        """How many bytes are not read yet."""
        return self._end - self._pos

    def u8(self, field: str) -> int:
        """One octet."""
        pos = self._pos
        if pos >= self._end:
            self._short(field, 1)
        self._pos = pos + 1
        return self._data[pos]

    def u16(self, field: str) -> int:
        """Two octets, big-endian."""
        return int.from_bytes(self.take(2, field), "big")

    def u32(self, field: str) -> int:
        """Four octets, big-endian."""
        return int.from_bytes(self.take(4, field), "big")

    def take(self, length: int, field: str) -> bytes:
        """Exactly `length` bytes."""
        pos = self._pos
        stop = pos + length
        if stop > self._end:
            self._short(field, length)
        self._pos = stop
        return self._data[pos:stop]

    def block8(self, field: str) -> bytes:
        """An 8-bit length and that many bytes."""
        return self.take(self.u8(f"{field} length"), field)

    def block16(self, field: str) -> bytes:
        """A 16-bit length and that many bytes."""
        return self.take(self.u16(f"{field} length"), field)

    def sub(self, data: bytes, where: str) -> "Reader":
        """A reader over `data`, the last bytes taken: a block with an end of its own.

        Raises DecodeError if blocks are nested deeper than MAX_DEPTH.
        """
        if self._depth == MAX_DEPTH:
            raise self.fail(f"{where} is nested more than {MAX_DEPTH} blocks deep")
        base = self.offset - len(data)
        return Reader(data, f"{self.where} > {where}", base, self._depth + 1, self._payloads)

    def count_payload(self) -> None:
        """Note that a payload starts here. Raises DecodeError for one more than MAX_PAYLOADS."""
        self._payloads[0] += 1
        if self._payloads[0] > MAX_PAYLOADS:
            raise self.fail(f"more than {MAX_PAYLOADS} payloads")

    def finish(self) -> None:
        """Raise unless the block ends here."""
        if self.left:
            raise self.fail(f"{self.left} bytes left over")

    def fail(self, reason: str, error_no: ErrorNo = ErrorNo.UNSPECIFIED) -> DecodeError:
        """A DecodeError at the next byte, for the caller to raise."""
        return DecodeError(self.where, self.offset, reason, error_no)

    def unknown(self, field: str, value: int, error_no: ErrorNo = ErrorNo.UNSPECIFIED) -> DecodeError:
        """A DecodeError at the octet just read, whose value has no meaning, for the caller to raise."""
        return DecodeError(self.where, self.offset - 1, f"{field} {value} is unknown", error_no)

    def _short(self, field: str, need: int) -> None:
        raise self.fail(f"{field} needs {need} bytes, only {self.left} left")


def u8(value: int, field: str) -> bytes:
    """`value` as one octet."""
    return _uint(value, 1, field)


def u16(value: int, field: str) -> bytes:
    """`value` as two octets, big-endian."""
    return _uint(value, 2, field)


def u32(value: int, field: str) -> bytes:
    """`value` as four octets, big-endian."""
    return _uint(value, 4, field)


def block8(data: bytes, field: str) -> bytes:
    """`data` behind its 8-bit length."""
    return _uint(len(data), 1, f"{field} length") + data


def block16(data: bytes, field: str) -> bytes:
    """`data` behind its 16-bit length."""
    return _uint(len(data), 2, f"{field} length") + data


def bits(value: int, width: int, field: str) -> int:
    """`value`, for a field of `width` bits that shares its octet with others. Raises EncodeError if it is too wide."""
    if not 0 <= value < 1 << width:
        raise EncodeError(f"{field}: {value} does not fit in {width} bits")
    return int(value)


def exact(data: bytes, length: int, field: str) -> bytes:
    """`data`, for a field whose length is given by another. Raises EncodeError if it has a different one."""
    if len(data) != length:
        raise EncodeError(f"{field}: {len(data)} bytes where {length} are needed")
    return data


def _uint(value: int, size: int, field: str) -> bytes:
    try:
        return value.to_bytes(size, "big")
    except OverflowError:
        raise EncodeError(f"{field}: {value} does not fit in {8 * size} bits") from None

"""Reading and writing the primitive fields of MIKEY: big-endian integers and length-prefixed bytes."""

from kms.mikey.errors import DecodeError, EncodeError
from kms.mikey.registry import ErrorNo


class Reader:
    """A cursor over a block of bytes that knows the block's name and every field's absolute offset."""

    __slots__ = ("_base", "_data", "_end", "_pos", "where")

    def __init__(self, data: bytes, where: str, base: int = 0) -> None:
        """`base` is the offset of `data` in the whole message, so that errors name absolute offsets."""
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
        """A reader over `data`, the last bytes taken: a block with an end of its own."""
        return Reader(data, f"{self.where} > {where}", self.offset - len(data))

    def finish(self) -> None:
        """Raise unless the block ends here."""
        if self.left:
            raise DecodeError(self.where, self.offset, f"{self.left} bytes left over")

    def fail(self, reason: str, error_no: ErrorNo = ErrorNo.UNSPECIFIED) -> DecodeError:
        """A DecodeError at this place, for the caller to raise."""
        return DecodeError(self.where, self.offset, reason, error_no)

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


def _uint(value: int, size: int, field: str) -> bytes:
    try:
        return value.to_bytes(size, "big")
    except OverflowError:
        raise EncodeError(f"{field}: {value} does not fit in {8 * size} bits") from None

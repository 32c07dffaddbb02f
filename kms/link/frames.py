"""Frames: one protobuf message each, with the file descriptors that travel with it."""

import os
import socket
import struct
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

# A batch of 256 messages of 64 KiB is 16 MiB; what a link carries never comes near this.
MAX_FRAME = 20 * 1024 * 1024
_HEADER = struct.Struct("!I")
_READ_SIZE = 256 * 1024

M = TypeVar("M", bound=Message)


class LinkError(Exception):
    """The other end of the socket cannot be talked to any more: close it."""


class LinkClosed(LinkError):
    """The other end closed the socket, or its process ended."""


class LinkTimeout(LinkError):
    """The other end did not send or take a whole frame in time."""


class FrameTooLarge(LinkError):
    """A frame is longer than MAX_FRAME."""


class BadFrame(LinkError):
    """The bytes of a frame are not the message that was expected."""


def encode(message: Message) -> bytes:
    """The frame of a message. Raises FrameTooLarge."""
    body = message.SerializeToString()
    _check_length(len(body))
    return _HEADER.pack(len(body)) + body


def decode(body: bytes, message_type: type[M]) -> M:
    """The message of a frame's body. Raises BadFrame."""
    try:
        return message_type.FromString(body)
    except DecodeError:
        raise BadFrame(f"a frame of {len(body)} bytes is not a {message_type.DESCRIPTOR.full_name}") from None


def limit_waiting(sock: socket.socket, seconds: float | None) -> None:
    """From now on, send and receive on a blocking socket give up when nothing moves for so long; None: never."""
    # The kernel's timeouts, not Python's: those poll before every call, which doubles the cost of an exchange.
    value = struct.pack("@ll", int(seconds or 0), int((seconds or 0) % 1 * 1_000_000))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def send(
    sock: socket.socket, message: Message, fds: Sequence[int] = (), timeout: float | None = None
) -> None:
    """Send one frame and, with it, file descriptors; blocks until the kernel has all of it.

    timeout: see limit_waiting; None leaves the socket as it is. Raises FrameTooLarge, LinkClosed, LinkTimeout.
    """
    if timeout is not None:
        limit_waiting(sock, timeout)
    frame = encode(message)
    try:
        if fds:
            # The kernel ties the descriptors to the first byte; what it did not take of the rest follows without.
            sent = socket.send_fds(sock, [frame], list(fds))
            frame = frame[sent:]
        sock.sendall(frame)
    except BlockingIOError:
        raise LinkTimeout("the other end of the link does not read") from None
    except ConnectionError:
        raise LinkClosed("the other end of the link is closed") from None


def receive(sock: socket.socket, message_type: type[M], timeout: float | None = None) -> M:
    """Receive one frame; blocks.

    timeout: see limit_waiting; None leaves the socket as it is. Raises LinkClosed, LinkTimeout, FrameTooLarge,
    BadFrame.
    """
    if timeout is not None:
        limit_waiting(sock, timeout)
    length = _length(_receive_exactly(sock, _HEADER.size))
    return decode(_receive_exactly(sock, length), message_type)


def receive_with_fds(sock: socket.socket, message_type: type[M], max_fds: int = 1) -> tuple[M, list[int]]:
    """Receive one frame and the file descriptors sent with it; the caller owns them. Blocks.

    Raises LinkClosed, FrameTooLarge, BadFrame; then no descriptor stays open.
    """
    fds: list[int] = []
    try:
        header = b""
        while len(header) < _HEADER.size:
            try:
                chunk, received, _flags, _address = socket.recv_fds(sock, _HEADER.size - len(header), max_fds)
            except ConnectionError:
                chunk, received = b"", []
            for fd in received:
                # Python 3.11's recv_fds drops the flag that would do this at once.
                os.set_inheritable(fd, False)
            fds += received
            if not chunk:
                raise LinkClosed("the other end of the control channel is closed")
            header += chunk
        body = _receive_exactly(sock, _length(header))
        return decode(body, message_type), fds
    except LinkError:
        for fd in fds:
            os.close(fd)
        raise


class FrameBuffer:
    """Collects what a socket delivers until it is whole frames; for a loop that must not block on a slow peer."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def read_from(self, sock: socket.socket) -> None:
        """Take what a readable socket has. Raises LinkClosed."""
        try:
            chunk = sock.recv(_READ_SIZE)
        except ConnectionError:
            chunk = b""
        if not chunk:
            raise LinkClosed("the other end of the link is closed")
        self._buffer += chunk

    def pop(self, message_type: type[M]) -> M | None:
        """The next whole frame's message, or None until more has come. Raises FrameTooLarge, BadFrame."""
        if len(self._buffer) < _HEADER.size:
            return None
        end = _HEADER.size + _length(self._buffer)
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        return decode(body, message_type)


def _length(header: bytes | bytearray) -> int:
    length: int = _HEADER.unpack_from(header)[0]
    _check_length(length)
    return length


def _check_length(length: int) -> None:
    if length > MAX_FRAME:
        raise FrameTooLarge(f"a frame of {length} bytes is over the limit of {MAX_FRAME}")


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        try:
            chunk = sock.recv(min(size - len(received), _READ_SIZE))
        except BlockingIOError:
            raise LinkTimeout("the other end of the link did not answer in time") from None
        except ConnectionError:
            chunk = b""
        if not chunk:
            raise LinkClosed("the other end of the link is closed")
        received += chunk
    return bytes(received)

"""Frames on Unix stream sockets: the frontend-engine link, the supervisor's control channels, the admin socket.

A frame is a 32-bit big-endian length and that many bytes of one protobuf message.
"""

from kms.link.frames import (
    MAX_FRAME,
    BadFrame,
    FrameBuffer,
    FrameTooLarge,
    LinkClosed,
    LinkError,
    LinkTimeout,
    limit_waiting,
    receive,
    receive_with_fds,
    send,
)
from kms.link.sockets import connect_path, listen_path, peer_uid

__all__ = [
    "MAX_FRAME",
    "BadFrame",
    "FrameBuffer",
    "FrameTooLarge",
    "LinkClosed",
    "LinkError",
    "LinkTimeout",
    "connect_path",
    "limit_waiting",
    "listen_path",
    "peer_uid",
    "receive",
    "receive_with_fds",
    "send",
]

"""Frames over real Unix sockets: round trip, end of file, limits, descriptors, paths, peers."""

import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kms import link
from kms.engine.v1.link_pb2 import ControlMessage, EngineReply, EngineRequest, LinkAdded
from kms.link.frames import encode

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_a_message_arrives_as_it_was_sent(pair: Pair) -> None:
    request = EngineRequest(mikey_messages=[b"one", b"two"], tls_identities=["sip:alice@example.com"])
    link.send(pair[0], request)
    link.send(pair[0], EngineRequest())
    assert link.receive(pair[1], EngineRequest) == request
    assert link.receive(pair[1], EngineRequest) == EngineRequest()


def test_end_of_file_between_and_inside_frames(pair: Pair) -> None:
    frame = encode(EngineRequest(mikey_messages=[b"message"]))
    pair[0].sendall(frame[:-1])
    pair[0].close()
    with pytest.raises(link.LinkClosed):
        link.receive(pair[1], EngineRequest)
    with pytest.raises(link.LinkClosed):
        link.receive(pair[1], EngineRequest)


def test_sending_to_a_closed_end(pair: Pair) -> None:
    pair[1].close()
    with pytest.raises(link.LinkClosed):
        link.send(pair[0], EngineRequest(mikey_messages=[b"message"]))


def test_a_closed_end_with_unread_bytes(pair: Pair) -> None:
    link.send(pair[0], EngineRequest(mikey_messages=[b"never read"]))
    pair[1].close()
    with pytest.raises(link.LinkClosed):
        link.receive(pair[0], EngineReply)


def test_a_frame_over_the_limit_is_neither_sent_nor_received(pair: Pair) -> None:
    with pytest.raises(link.FrameTooLarge):
        link.send(pair[0], EngineRequest(mikey_messages=[bytes(link.MAX_FRAME)]))
    pair[0].sendall(struct.pack("!I", link.MAX_FRAME + 1))
    with pytest.raises(link.FrameTooLarge, match=str(link.MAX_FRAME)):
        link.receive(pair[1], EngineRequest)


def test_bytes_that_are_no_message(pair: Pair) -> None:
    pair[0].sendall(struct.pack("!I", 3) + b"\xff\xff\xff")
    with pytest.raises(link.BadFrame, match=r"kms\.engine\.v1\.EngineRequest"):
        link.receive(pair[1], EngineRequest)


def test_an_answer_that_does_not_come_and_a_peer_that_does_not_read(pair: Pair) -> None:
    pair[0].sendall(b"\x00\x00")
    with pytest.raises(link.LinkTimeout):
        link.receive(pair[1], EngineRequest, timeout=0.05)
    with pytest.raises(link.LinkTimeout):
        link.send(pair[0], EngineRequest(mikey_messages=[bytes(4_000_000)]), timeout=0.05)


def test_descriptors_travel_with_their_frame(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    first = ControlMessage(link_added=LinkAdded(engine=7, engine_pid=1))
    link.send(pair[0], first, [write_end])
    link.send(pair[0], ControlMessage())
    os.close(write_end)
    message, (received,) = link.receive_with_fds(pair[1], ControlMessage)
    assert message == first
    assert not os.get_inheritable(received)
    os.write(received, b"through the passed end")
    os.close(received)
    assert os.read(read_end, 100) == b"through the passed end"
    os.close(read_end)
    assert link.receive_with_fds(pair[1], ControlMessage) == (ControlMessage(), [])
    pair[0].close()
    with pytest.raises(link.LinkClosed):
        link.receive_with_fds(pair[1], ControlMessage)


def test_descriptors_of_a_bad_frame_are_closed(pair: Pair) -> None:
    read_end, write_end = os.pipe()
    socket.send_fds(pair[0], [struct.pack("!I", 2) + b"\xff\xff"], [write_end])
    os.close(write_end)
    with pytest.raises(link.BadFrame):
        link.receive_with_fds(pair[1], ControlMessage)
    # The last writing end is gone, or this would block.
    assert os.read(read_end, 1) == b""
    os.close(read_end)


@given(
    messages=st.lists(st.lists(st.binary(max_size=40), max_size=3), max_size=5),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=20),
)
def test_a_buffer_gives_the_frames_however_they_are_cut(messages: list[list[bytes]], cuts: list[int]) -> None:
    requests = [EngineRequest(mikey_messages=each) for each in messages]
    stream = b"".join(map(encode, requests))
    buffer = link.FrameBuffer()
    received = []
    left, right = socket.socketpair()
    with left, right:
        for step in range(len(stream)):
            size = cuts[step % len(cuts)]
            chunk, stream = stream[:size], stream[size:]
            if not chunk:
                break
            left.sendall(chunk)
            buffer.read_from(right)
            while (request := buffer.pop(EngineRequest)) is not None:
                received.append(request)
        left.close()
        with pytest.raises(link.LinkClosed):
            buffer.read_from(right)
    assert received == requests


def test_a_buffer_refuses_an_announced_giant_at_once(pair: Pair) -> None:
    pair[0].sendall(struct.pack("!I", link.MAX_FRAME + 1))
    buffer = link.FrameBuffer()
    buffer.read_from(pair[1])
    with pytest.raises(link.FrameTooLarge):
        buffer.pop(EngineRequest)


def test_a_path_of_any_length_with_mode_and_peer(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 30)
    folder.mkdir()
    path = folder / "admin.sock"
    with pytest.raises(FileNotFoundError):
        link.connect_path(path)
    link.listen_path(path).close()
    with pytest.raises(ConnectionRefusedError):
        link.connect_path(path)
    with link.listen_path(path) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with link.connect_path(path) as client:
            server, _address = listener.accept()
            with server:
                assert link.peer_uid(server) == os.geteuid()
                link.send(client, EngineRequest(mikey_messages=[b"hello"]))
                assert link.receive(server, EngineRequest).mikey_messages == [b"hello"]

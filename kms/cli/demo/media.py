"""Media: real SRTP (libsrtp) over UDP on the loopback, from every member through the focus to every other."""

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pylibsrtp

from kms.cli.demo.show import Unexpected
from kms.party.media import SrtpKeys

PACKETS = 25
_PAYLOAD = 160  # 20 ms of G.711
_SECONDS = 5.0


class Endpoint:
    """A UDP socket and the SRTP keys of whoever has it."""

    def __init__(self, keys: SrtpKeys) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(_SECONDS)
        self.socket.bind(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.ssrc = keys.ssrc
        self._outgoing = _session(keys, pylibsrtp.Policy.SSRC_ANY_OUTBOUND)
        self._incoming = _session(keys, pylibsrtp.Policy.SSRC_ANY_INBOUND)

    def __enter__(self) -> "Endpoint":
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def send(self, rtp: bytes, to: tuple[str, int]) -> bytes:
        """Protect a packet and send it; the SRTP packet."""
        srtp: bytes = self._outgoing.protect(rtp)
        self.socket.sendto(srtp, to)
        return srtp

    def receive(self) -> tuple[bytes, bytes]:
        """The next packet: SRTP as it came, and RTP. Raises pylibsrtp.Error if it is not authentic."""
        srtp = self.socket.recv(2048)
        return srtp, self._incoming.unprotect(srtp)


def play(members: Mapping[str, SrtpKeys], focus: SrtpKeys) -> int:
    """Send PACKETS from each member; how many packets other members decrypted, each equal to what was sent.

    Members and focus hold the keys that each derived for itself. Raises Unexpected for any difference.
    """
    heard = 0
    with ExitStack() as stack:
        endpoints = {name: stack.enter_context(Endpoint(keys)) for name, keys in members.items()}
        hub = stack.enter_context(Endpoint(focus))
        for name, speaker in endpoints.items():
            listeners = [endpoint for other, endpoint in endpoints.items() if other != name]
            for rtp in _packets(speaker.ssrc):
                srtp = speaker.send(rtp, hub.address)
                if rtp[12:] in srtp:
                    raise Unexpected(f"a packet of {name} was sent in the clear")
                heard += _through(hub, listeners, rtp)
    return heard


def _through(hub: Endpoint, listeners: list[Endpoint], rtp: bytes) -> int:
    """The focus checks a packet and forwards it as it is: all share one group key."""
    forwarded, seen = hub.receive()
    if seen != rtp:
        raise Unexpected("the focus decrypted something else than was sent")
    for listener in listeners:
        hub.socket.sendto(forwarded, listener.address)
        _srtp, got = listener.receive()
        if got != rtp:
            raise Unexpected("a member decrypted something else than was sent")
    return len(listeners)


def _packets(ssrc: int) -> Iterator[bytes]:
    for number in range(PACKETS):
        header = struct.pack("!BBHII", 0x80, 0, number + 1, number * _PAYLOAD, ssrc)
        yield header + os.urandom(_PAYLOAD)


def _session(keys: SrtpKeys, direction: int) -> pylibsrtp.Session:
    if keys.profile != "AES_CM_128_HMAC_SHA1_80":
        raise Unexpected(f"libsrtp's Python binding has no {keys.profile}")
    policy = pylibsrtp.Policy(
        key=keys.libsrtp_key,
        ssrc_type=direction,
        srtp_profile=pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80,
    )
    return pylibsrtp.Session(policy=policy)

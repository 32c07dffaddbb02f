"""tshark on captures that tests write: what it calls malformed, and what its dissectors found, field by field."""

import os
import shutil
import struct
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kms.mikey.sdp import key_mgmt_line

SCRIPT = Path(__file__).parent.parent.parent / "deploy" / "wireshark" / "mikey_ticket.lua"
MIKEY_PORT, SIP_PORT = 2269, 5060
_RAW_IP = 101  # link type: the packet starts with the IP header
_MARKS = ("_ws.malformed", "_ws.expert", "_ws.lua.error")
_MAX_UDP = 65507


@dataclass(frozen=True)
class Field:
    """One line of a dissection. `value` is hex; empty for a heading."""

    name: str
    value: str
    text: str


@dataclass(frozen=True)
class Frame:
    """One dissected packet: its fields in their order, and what was marked as wrong with it."""

    fields: tuple[Field, ...]
    protocols: tuple[str, ...]
    marks: tuple[str, ...]

    def of(self, protocol: str) -> tuple[Field, ...]:
        """The fields of one protocol."""
        return tuple(f for f in self.fields if f.name.startswith(f"{protocol}."))


def tshark() -> str:
    """The program's path."""
    found = shutil.which("tshark")
    assert found, "tshark is missing: run ./dev setup, or install it"
    return found


def capture(payloads: Iterable[bytes], port: int = MIKEY_PORT) -> bytes:
    """A pcap file of UDP datagrams to `port`."""
    packets = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 0x40000, _RAW_IP)]
    for number, payload in enumerate(payloads):
        assert len(payload) <= _MAX_UDP, "too long for a datagram"
        udp = struct.pack(">HHHH", 40000, port, 8 + len(payload), 0) + payload
        local = bytes((127, 0, 0, 1))
        packet = (
            struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), number & 0xFFFF, 0, 64, 17, 0)
            + local
            + local
            + udp
        )
        packets.append(struct.pack("<IIII", 1_700_000_000 + number, 0, len(packet), len(packet)) + packet)
    return b"".join(packets)


def invite(message: bytes) -> bytes:
    """A SIP INVITE that carries a MIKEY message in its session description."""
    body = "\r\n".join(
        (
            "v=0",
            "o=alice 1 1 IN IP4 192.0.2.1",
            "s=call",
            "c=IN IP4 192.0.2.1",
            "t=0 0",
            key_mgmt_line(message),
            "m=audio 49170 RTP/SAVP 0",
            "",
        )
    )
    head = "\r\n".join(
        (
            "INVITE sip:bob@example.com SIP/2.0",
            "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1",
            "Max-Forwards: 70",
            "From: <sip:alice@example.com>;tag=1",
            "To: <sip:bob@example.com>",
            "Call-ID: 1@example.com",
            "CSeq: 1 INVITE",
            "Contact: <sip:alice@192.0.2.1>",
            "Content-Type: application/sdp",
            f"Content-Length: {len(body)}",
            "",
            "",
        )
    )
    return (head + body).encode()


def dissect(
    pcap: bytes, folder: Path, *, script: Path | None = SCRIPT, options: Sequence[str] = ()
) -> list[Frame]:
    """The frames as tshark sees them, with this project's dissector or without. Reads no settings of the user."""
    file = folder / "messages.pcap"
    file.write_bytes(pcap)
    command = [tshark(), "-r", str(file), "-n", "-T", "pdml", *options]
    if script is not None:
        command += ["-X", f"lua_script:{script}"]
    home = {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8", **home}
    result = subprocess.run(command, capture_output=True, timeout=100, env=environment)
    errors = result.stderr.decode(errors="replace")
    assert result.returncode == 0, f"tshark ended with {result.returncode}: {errors[-500:]}"
    assert "Lua" not in errors, errors
    return [_frame(packet) for packet in ElementTree.fromstring(result.stdout)]


def _frame(packet: ElementTree.Element) -> Frame:
    fields, marks = [], []
    for element in packet.iter():
        name, text = element.get("name", ""), element.get("showname", "")
        if name.startswith(_MARKS) or "Lua Error" in text:
            marks.append(text or element.get("show", ""))
        elif element.tag == "field":
            fields.append(Field(name, element.get("value", ""), text))
    protocols = tuple(p.get("name", "") for p in packet.iter("proto"))
    return Frame(tuple(fields), protocols, tuple(m for m in marks if m))

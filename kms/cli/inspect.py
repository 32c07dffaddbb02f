"""`kms inspect`: any MIKEY message as a readable tree.

A decoded payload becomes a `Node`: plain values for JSON, which `rich` shows as a tree. Key bytes never enter one.
"""

import base64
import binascii
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text
from rich.tree import Tree

from kms.cli.examine import Examiner, Finding
from kms.cli.fields import SECTIONS, hdr_fields, key_entry, key_summary, named, payload_fields, payload_name
from kms.cli.output import console
from kms.mikey import sdp
from kms.mikey.errors import DecodeError, MikeyError
from kms.mikey.message import MAX_MESSAGE_LENGTH
from kms.mikey.payloads import Hdr, Kemac, KeyData, Payload, Ticket, TicketPolicy, Tp, read_payload
from kms.mikey.registry import EncrAlg, ErrorNo, PayloadType
from kms.mikey.ticket_data import BASE_TICKET, DERIVED_TICKET, read_key_list, read_thdr
from kms.mikey.wire import MAX_DEPTH, Reader
from kms.party.credential import Credential, CredentialError

_MAX_INPUT = 8 * MAX_MESSAGE_LENGTH
_SHOWN = 32  # bytes of a long value in the tree; JSON has all
_STYLES = {"ok": "green", "note": "yellow", "error": "bold red"}
_TP_DATA = 10  # offset of TP Data in a TP or TICKET payload


@dataclass
class Node:
    """A part of a message: its name, absolute offset and length in bytes, its fields, the parts inside it, and where
    the RFCs define it.
    """

    name: str
    offset: int
    length: int
    fields: dict[str, Any] = field(default_factory=dict)
    parts: list["Node"] = field(default_factory=list)
    section: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: bytes are hex."""
        out: dict[str, Any] = {"name": self.name, "offset": self.offset, "length": self.length}
        out |= {"section": self.section} if self.section else {}
        out |= {name: _json(value) for name, value in self.fields.items()}
        return out | {"parts": [part.as_dict() for part in self.parts]} if self.parts else out


@dataclass
class Inspection:
    """What could be decoded of a message of `length` bytes, the errors that stopped it, and what else was found."""

    length: int
    parts: list[Node] = field(default_factory=list)
    errors: list[MikeyError] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether it does not decode, breaks a rule, or fails a MAC."""
        return bool(self.errors) or any(f.level == "error" for f in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        errors = [{"error": str(e), "error_no": named(ErrorNo, e.error_no)} for e in self.errors]
        findings = [{"level": f.level, "text": f.text} for f in self.findings]
        parts = [part.as_dict() for part in self.parts]
        return {"length": self.length, "parts": parts, "errors": errors, "findings": findings}

    def as_tree(self) -> Tree:
        """For people."""
        kind = self.parts[0].fields.get("Data Type", "") if self.parts else "not decoded"
        tree = Tree(Text.assemble(("MIKEY message", "bold"), f"  {kind}, {self.length} bytes"))
        for part in self.parts:
            _branch(tree, part)
        for error in self.errors:
            tree.add(Text(f"error: {error}", style="bold red"))
        for finding in self.findings:
            tree.add(Text(f"{finding.level}: {finding.text}", style=_STYLES[finding.level]))
        return tree


def inspect_command(*files: Path | str, as_json: bool, credential: Path | None = None) -> int:
    """Print the MIKEY messages in `files` ("-" is standard input), and check them in that order.

    With `credential`, an enrolment file, MACs are verified and KEMACs opened. Returns the exit code: 0; 1 for malformed
    input, which is shown as far as it decodes, a broken rule or a wrong MAC; 2 if there is nothing to read. Raises
    nothing for bad input.
    """
    messages: list[bytes] = []
    for file in files:
        try:
            messages += read_input(file)
        except OSError as error:
            print(f"cannot read {file}: {error.strerror}", file=sys.stderr)
            return 2
        except MikeyError as error:
            print(f"{file}: {error}", file=sys.stderr)
            return 1
    try:
        examiner = Examiner(None if credential is None else Credential.load(credential))
    except CredentialError as error:
        print(error, file=sys.stderr)
        return 2
    inspections = [inspect(data) for data in messages]
    for inspection, data in zip(inspections, messages, strict=True):
        inspection.findings = examiner.examine(data)
    if as_json:
        print(json.dumps({"messages": [i.as_dict() for i in inspections]}, indent=2))
    else:
        for inspection in inspections:
            console().print(inspection.as_tree())
    return 1 if any(i.bad for i in inspections) else 0


def render(data: bytes) -> str:
    """The tree of one binary message as plain text."""
    out = Console(width=160, highlight=False, no_color=True)
    with out.capture() as captured:
        out.print(inspect(data).as_tree())
    return captured.get()


# -- input -------------------------------------------------------------------------------------------------------------


def read_input(file: Path | str) -> list[bytes]:
    """The MIKEY messages in a file, or in standard input for "-". One, except in SDP.

    Binary, hex, base64 and SDP are told apart by content. Raises OSError, or DecodeError if it is none of them.
    """
    if str(file) == "-":
        data = sys.stdin.buffer.read(_MAX_INPUT + 1)
    else:
        with Path(file).open("rb") as stream:
            data = stream.read(_MAX_INPUT + 1)
    if len(data) > _MAX_INPUT:
        raise DecodeError("input", _MAX_INPUT, f"more than {_MAX_INPUT} bytes: not a MIKEY message")
    return detect(data)


def detect(data: bytes) -> list[bytes]:
    """The MIKEY messages in binary, hex, base64 or SDP. Raises DecodeError if there is none."""
    if not data.strip():
        raise DecodeError("input", 0, "it is empty")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = ""
    if not text or not all(c.isprintable() or c.isspace() for c in text):
        return [data]  # a MIKEY message starts with the octet 1, which no text has
    if "key-mgmt:" in text or text.startswith("v=0"):
        found = sdp.messages("\n".join(_attributes(text)))
        if not found:
            raise DecodeError("SDP", 0, "there is no a=key-mgmt:mikey line")
        return found
    packed = "".join(text.split())
    try:
        return [bytes.fromhex(packed.removeprefix("0x").replace(":", ""))]
    except ValueError:
        pass
    try:
        return [base64.b64decode(packed, validate=True)]
    except (binascii.Error, ValueError):
        raise DecodeError("input", 0, "it is neither binary, hex, base64 nor SDP") from None


def _attributes(text: str) -> Iterator[str]:
    """The lines of a session description; a lone attribute may lack its "a=" when it was copied from a log."""
    for line in text.splitlines():
        yield f"a={line.strip()}" if line.strip().startswith("key-mgmt:") else line


# -- decoding ----------------------------------------------------------------------------------------------------------


def inspect(data: bytes) -> Inspection:
    """Decode one binary message as far as possible. Raises nothing."""
    result = Inspection(len(data))
    blocks = _Blocks(result.errors)
    r = Reader(data, "message")
    try:
        if len(data) > MAX_MESSAGE_LENGTH:
            raise r.fail(f"{len(data)} bytes are more than the limit of {MAX_MESSAGE_LENGTH}")
        number, hdr = Hdr.read(r)
        r.where = "message"
        result.parts.append(Node("HDR", 0, r.offset, hdr_fields(hdr), section=SECTIONS["HDR"]))
        if number == PayloadType.LAST:
            raise DecodeError("HDR", 2, "Next Payload is 0, but a payload must follow HDR")
        blocks.chain(r, number, data, 0, result.parts)
    except MikeyError as error:
        result.errors.append(error)
    return result


_Read = Callable[[Reader, bytes, Node], None]
"""Decodes a block into its node."""


class _Blocks:
    """Decodes chains of payloads and the blocks inside them, down to MAX_DEPTH. An error ends its own block only."""

    def __init__(self, errors: list[MikeyError]) -> None:
        self._errors = errors
        self._depth = 0

    def chain(self, r: Reader, number: int, data: bytes, base: int, parts: list[Node]) -> None:
        """Add the payloads from type `number` on, at the cursor, to `parts`. `data` is the block, `base` its offset."""
        while number != PayloadType.LAST:
            start = r.offset
            number, payload = read_payload(r, number)
            parts.append(self._node(payload, data[start - base : r.offset - base], start))
        r.finish()

    def _node(self, payload: Payload, raw: bytes, offset: int) -> Node:
        section = SECTIONS.get(payload.NAME, "")
        node = Node(payload_name(payload), offset, len(raw), payload_fields(payload), section=section)
        if isinstance(payload, Tp | Ticket):
            length = int.from_bytes(raw[_TP_DATA - 2 : _TP_DATA], "big")
            tp_data = raw[_TP_DATA : _TP_DATA + length]
            node.parts.append(self._block("TP Data", tp_data, offset + _TP_DATA, self._listed))
        if isinstance(payload, Ticket):
            end = offset + len(raw) - len(payload.initiator_data)
            read = self._ticket_reader(payload.policy)
            start = end - 2 - len(payload.ticket_data)
            node.parts.append(self._block("Ticket Data", payload.ticket_data, start, read))
            if payload.initiator_data:
                node.parts.append(
                    self._block("Initiator Data", payload.initiator_data, end, self._initiator_data)
                )
        if isinstance(payload, Kemac) and payload.encr_alg == EncrAlg.NULL:
            try:
                node.fields["keys"] = [key_summary(key) for key in KeyData.read_all(payload.encr_data)]
            except MikeyError as error:
                self._errors.append(error)
        return node

    def _block(self, name: str, data: bytes, offset: int, read: _Read) -> Node:
        node = Node(name, offset, len(data))
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH:
                raise DecodeError(name, offset, f"it is nested more than {MAX_DEPTH} blocks deep")
            read(Reader(data, name, offset), data, node)
        except MikeyError as error:
            self._errors.append(error)
        finally:
            self._depth -= 1
        return node

    def _listed(self, r: Reader, data: bytes, node: Node) -> None:
        """A block that starts with a First Payload octet."""
        self.chain(r, r.u8("First Payload"), data, node.offset, node.parts)

    def _initiator_data(self, r: Reader, data: bytes, node: Node) -> None:
        self._listed(r, data, node)
        if [part.name for part in node.parts] == ["V", "V"]:
            node.parts[0].name, node.parts[1].name = "Vi", "Vr"

    def _ticket_reader(self, policy: TicketPolicy) -> _Read:
        kind = (policy.ticket_type, policy.subtype, policy.version)
        if kind == DERIVED_TICKET:
            return self._derived_ticket
        return self._base_ticket if kind == BASE_TICKET else _opaque

    def _base_ticket(self, r: Reader, data: bytes, node: Node) -> None:
        number, thdr_data = read_thdr(r)
        node.parts.append(Node("THDR", node.offset, r.offset - node.offset, {"THDR Data": thdr_data}))
        self.chain(r, number, data, node.offset, node.parts)

    def _derived_ticket(self, r: Reader, data: bytes, node: Node) -> None:
        self._base_ticket(r, data, node)
        thdr = node.parts[0]
        keys = read_key_list(thdr.fields["THDR Data"])
        thdr.fields = {"keys": [key_entry(k.key_type, k.length, k.salt_length, k.spi) for k in keys]}


def _opaque(_r: Reader, _data: bytes, node: Node) -> None:
    node.fields["content"] = "opaque: the Ticket Type is unknown"


# -- showing -----------------------------------------------------------------------------------------------------------


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {name: _json(v) for name, v in value.items()}
    return [_json(v) for v in value] if isinstance(value, list) else value


def _branch(tree: Tree, node: Node) -> None:
    place = f"  offset {node.offset}, {node.length} bytes" + (f"  {node.section}" if node.section else "")
    branch = tree.add(Text.assemble((node.name, "bold cyan"), (place, "dim")))
    for name, value in node.fields.items():
        _field(branch, name, value)
    for part in node.parts:
        _branch(branch, part)


def _field(tree: Tree, name: str, value: Any) -> None:
    if isinstance(value, dict):
        branch = tree.add(_line(name, "" if value else "none"))
        for inner, content in value.items():
            _field(branch, inner, content)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for i, item in enumerate(value):
            tree.add(_line(f"{name} {i}", ", ".join(f"{k} {_text(v)}" for k, v in item.items())))
    else:
        tree.add(_line(name, _text(value)))


def _line(name: str, value: str) -> RenderableType:
    return Text.assemble((f"{name}: ", "dim"), value)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        more = f"... ({len(value)} bytes)" if len(value) > _SHOWN else ""
        return (value[:_SHOWN].hex() + more) or "empty"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {_text(v)}" for k, v in value.items()) + ")"
    if isinstance(value, list):
        return " ".join(_text(v) for v in value) or "none"
    return str(value)

"""MIKEY in SDP: `a=key-mgmt` lines of offers and answers, at session and media level (RFC 4567).

A *level* is None for the session, or the position of an m= line, from 0. A line at media level overrides those at
session level for its medium (RFC 4567 3.1), so several MIKEY messages may be needed for one description.
"""

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from kms.mikey.errors import DecodeError, EncodeError, ProtocolError
from kms.mikey.message import Message
from kms.mikey.payloads import GeneralExtension
from kms.mikey.registry import ErrorNo, ExtensionType

MIKEY = "mikey"
"""The key management protocol identifier (KMPID) of MIKEY (RFC 4567 section 7)."""
Level = int | None
"""None for the session level, else the position of the m= line, from 0."""

_ATTRIBUTE = "a=key-mgmt:"


def key_mgmt_line(message: bytes) -> str:
    """The SDP attribute line, without line end, that carries a MIKEY message."""
    return f"{_ATTRIBUTE}{MIKEY} {base64.b64encode(message).decode()}"


def parse_key_mgmt_line(line: str) -> bytes:
    """The MIKEY message of one `a=key-mgmt:mikey` line.

    Raises DecodeError, whose offset counts the characters of the line.
    """
    protocol, data = _split(line)
    if protocol != MIKEY:
        raise DecodeError("SDP", len(_ATTRIBUTE), f"the key management protocol is {protocol!r}, not 'mikey'")
    if not data:
        raise DecodeError("SDP", len(line), "the key-mgmt data is missing")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise DecodeError("SDP", line.rindex(data), "the key-mgmt data is not base64") from None


def _split(line: str) -> tuple[str, str]:
    """prtcl-id and keymgmt-data of an attribute line; one space may precede prtcl-id (RFC 4567 3.1)."""
    if not line.startswith(_ATTRIBUTE):
        raise DecodeError("SDP", 0, f"not an {_ATTRIBUTE} line")
    protocol, _, data = line.removeprefix(_ATTRIBUTE).removeprefix(" ").partition(" ")
    return protocol, data.strip()


def messages(sdp: str) -> list[bytes]:
    """The MIKEY messages of all `a=key-mgmt:mikey` lines of a session description, in order.

    Lines of other key management protocols are passed over. Raises DecodeError for a broken mikey line.
    """
    lines = (line.strip() for line in sdp.splitlines())
    return [
        parse_key_mgmt_line(line)
        for line in lines
        if line.startswith(_ATTRIBUTE) and _split(line)[0] == MIKEY
    ]


# -- descriptions --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Description:
    """The key-mgmt lines of a session description: `session` are those before the first m= line, `media` those of
    each medium, in order. A line is kept as it is, without spaces around it."""

    session: tuple[str, ...]
    media: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def parse(cls, sdp: str) -> "Description":
        """Read an offer or answer. Raises DecodeError for a prtcl-id that is none, or two MIKEY lines at one level."""
        levels: list[list[str]] = [[]]
        for line in (line.strip() for line in sdp.splitlines()):
            if line.startswith("m="):
                levels.append([])
            elif line.startswith(_ATTRIBUTE):
                protocol = _split(line)[0]
                if not _is_protocol(protocol):
                    raise DecodeError("SDP", len(_ATTRIBUTE), f"{protocol!r} is no key management protocol")
                if protocol == MIKEY and any(_split(other)[0] == MIKEY for other in levels[-1]):
                    raise DecodeError(
                        "SDP", 0, "two a=key-mgmt:mikey lines at one level where one is expected"
                    )
                levels[-1].append(line)
        session, *media = map(tuple, levels)
        return cls(session, tuple(media))

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocol of every line, in order: what SDP IDs authenticates (RFC 4567 4.1.4)."""
        return tuple(_split(line)[0] for level in (self.session, *self.media) for line in level)

    def lines(self, medium: int) -> tuple[str, ...]:
        """The lines that apply to a medium: its own, or else those of the session. Raises IndexError."""
        return self.media[medium] or self.session

    @cached_property
    def mikey(self) -> dict[Level, bytes]:
        """The MIKEY messages to process, by level. Empty if MIKEY is not offered.

        The session's message is among them if it applies to a medium, or there are no media. Raises DecodeError.
        """
        found: dict[Level, bytes] = {}
        if not self.media or not all(self.media):
            found.update(
                (None, parse_key_mgmt_line(line)) for line in self.session if _split(line)[0] == MIKEY
            )
        for position, lines in enumerate(self.media):
            found.update((position, parse_key_mgmt_line(line)) for line in lines if _split(line)[0] == MIKEY)
        return found


def with_messages(sdp: str, messages: Mapping[Level, bytes]) -> str:
    """A session description with a key-mgmt line for each message, at its level: an offer, or an answer whose levels
    are those of the offer. Raises EncodeError for a level that the description does not have."""
    sections: list[list[str]] = [[]]
    for line in sdp.splitlines():
        if line.startswith("m="):
            sections.append([])
        sections[-1].append(line)
    for level, message in messages.items():
        if level is not None and not 0 <= level < len(sections) - 1:
            raise EncodeError(f"SDP: there is no medium {level}")
        section = sections[0 if level is None else level + 1]
        while section and not section[-1].strip():
            section.pop()
        section.append(key_mgmt_line(message))
    return "".join(f"{line}\r\n" for section in sections for line in section)


# -- bidding-down (RFC 4567 4.1.4 and 7) -----------------------------------------------------------------------------


def sdp_ids(protocols: Iterable[str] = (MIKEY,)) -> GeneralExtension:
    """The General Extension "SDP IDs": the protocols of all lines of an offer, in order, for V to authenticate.

    Raises EncodeError for a name that is no KMPID.
    """
    names = tuple(protocols)
    for name in names:
        if not _is_protocol(name):
            raise EncodeError(f"SDP IDs: {name!r} is no key management protocol")
    return GeneralExtension(ExtensionType.SDP_IDS, ";".join(names).encode())


def check_sdp_ids(message: Message, description: Description) -> None:
    """Raise ProtocolError unless an offer's protocols are those that its MIKEY message lists (RFC 4567 section 7).

    A message without a list is accepted only where MIKEY is the sole protocol offered. V authenticates the list, so
    the check is worth something once V was verified.
    """
    lists = [p.data for p in message.find_all(GeneralExtension) if p.ext_type == ExtensionType.SDP_IDS]
    offered = description.protocols
    if lists:
        if any(data != ";".join(offered).encode() for data in lists):
            raise ProtocolError(
                "SDP: the key management protocols are not those that the offerer listed (bidding-down)",
                ErrorNo.AUTH_FAILURE,
            )
    elif set(offered) - {MIKEY}:
        raise ProtocolError(
            "SDP: other protocols are offered beside MIKEY, but the message does not list them (SDP IDs)",
            ErrorNo.AUTH_FAILURE,
        )


def _is_protocol(name: str) -> bool:
    """KMPID = 1*(ALPHA / DIGIT)."""
    return name.isascii() and name.isalnum()

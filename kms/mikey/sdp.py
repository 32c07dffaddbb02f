"""MIKEY in SDP: the attribute `a=key-mgmt:mikey <base64>` (RFC 4567 section 3)."""

import base64
import binascii

from kms.mikey.errors import DecodeError

_ATTRIBUTE = "a=key-mgmt:"


def key_mgmt_line(message: bytes) -> str:
    """The SDP attribute line, without line end, that carries a MIKEY message."""
    return f"{_ATTRIBUTE}mikey {base64.b64encode(message).decode()}"


def parse_key_mgmt_line(line: str) -> bytes:
    """The MIKEY message of one `a=key-mgmt:mikey` line.

    Raises DecodeError, whose offset counts the characters of the line.
    """
    protocol, data = _split(line)
    if protocol != "mikey":
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
        if line.startswith(_ATTRIBUTE) and _split(line)[0] == "mikey"
    ]

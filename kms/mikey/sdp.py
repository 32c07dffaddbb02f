"""MIKEY in SDP: the attribute `a=key-mgmt:mikey <base64>` (RFC 4567 section 3)."""

import base64
import binascii

from kms.mikey.errors import DecodeError

_PREFIX = "key-mgmt:"


def key_mgmt_line(message: bytes) -> str:
    """The SDP attribute line, without line end, that carries a MIKEY message."""
    return f"a={_PREFIX}mikey {base64.b64encode(message).decode()}"


def parse_key_mgmt_line(line: str) -> bytes:
    """The MIKEY message of one `a=key-mgmt:mikey` line. Raises DecodeError."""
    text = line.strip().removeprefix("a=")
    if not text.startswith(_PREFIX):
        raise DecodeError("SDP", 0, "not an a=key-mgmt line")
    protocol, _, data = text.removeprefix(_PREFIX).strip().partition(" ")
    if protocol != "mikey":
        raise DecodeError("SDP", 0, "the key management protocol is not mikey")
    try:
        return base64.b64decode(data.strip().strip('"'), validate=True)
    except (binascii.Error, ValueError):
        raise DecodeError("SDP", 0, "key-mgmt data is not base64") from None


def messages(sdp: str) -> list[bytes]:
    """The MIKEY messages of all `a=key-mgmt:mikey` lines of a session description, in order.

    Lines of other key management protocols are passed over. Raises DecodeError for a broken mikey line.
    """
    found = []
    for line in sdp.splitlines():
        text = line.strip()
        if text.startswith(f"a={_PREFIX}") and text.removeprefix(f"a={_PREFIX}").split(" ", 1)[0] == "mikey":
            found.append(parse_key_mgmt_line(text))
    return found

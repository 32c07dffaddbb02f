"""PKCS#11 URIs (RFC 7512), as `kms init --token` takes them."""

from pathlib import Path
from urllib.parse import unquote

from hsm.errors import TokenNotFound
from hsm.spec import TokenSpec

_EXAMPLE = "pkcs11:token=NAME?module-path=/path/of/library.so"


def parse(uri: str) -> TokenSpec:
    """The token of a URI with module-path and one or more of token, serial, slot-id.

    Raises TokenNotFound for anything else: an attribute that was ignored might have meant another token.
    """
    scheme, colon, rest = uri.partition(":")
    if scheme.lower() != "pkcs11" or not colon:
        raise TokenNotFound(f"not a PKCS#11 URI: expected {_EXAMPLE}")
    path, _, query = rest.partition("?")
    attributes = _attributes(path, ";") | _attributes(query, "&")
    if any(name in attributes for name in ("pin-value", "pin-source")):
        raise TokenNotFound("the PIN does not belong into the URI: it is read from a file of mode 0600")
    module = attributes.pop("module-path", None)
    if not module or not module.startswith("/"):
        raise TokenNotFound(f"the PKCS#11 URI needs the absolute path of the library: {_EXAMPLE}")
    label, serial, slot = (attributes.pop(name, None) for name in ("token", "serial", "slot-id"))
    if attributes:
        names = ", ".join(sorted(attributes))
        raise TokenNotFound(
            f"{names} in the PKCS#11 URI: only token, serial, slot-id and module-path are understood"
        )
    if slot is not None and not (slot.isascii() and slot.isdigit()):
        raise TokenNotFound("slot-id in the PKCS#11 URI must be a number")
    if label is None and serial is None and slot is None:
        raise TokenNotFound(f"the PKCS#11 URI names no token, serial or slot-id: {_EXAMPLE}")
    return TokenSpec(Path(module), label, serial, None if slot is None else int(slot))


def _attributes(text: str, separator: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in filter(None, text.split(separator)):
        name, equals, value = part.partition("=")
        if not equals or name in found:
            raise TokenNotFound(f"{name} in the PKCS#11 URI has no value, or more than one")
        try:
            found[name] = unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise TokenNotFound(f"{name} in the PKCS#11 URI is not UTF-8") from None
    return found

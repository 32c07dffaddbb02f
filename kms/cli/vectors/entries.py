"""Reading the JSON of a vector file. Whatever is wrong with an entry is that entry's failure, never a crash."""

from typing import Any

Json = dict[str, Any]


class BrokenVector(Exception):
    """An entry cannot be played as it stands; the text names the field and what is wrong with it."""


def field(entry: object, name: str, kind: type | tuple[type, ...], where: str = "") -> Any:
    """A mandatory member of a JSON object. Raises BrokenVector if it is missing or of another type."""
    place = f"{where}.{name}" if where else name
    if not isinstance(entry, dict):
        raise BrokenVector(f"{where or 'the entry'}: an object is expected, not {_kind(entry)}")
    if name not in entry:
        raise BrokenVector(f"{place} is missing")
    value = entry[name]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise BrokenVector(f"{place}: {_kind(value)} where {_names(kind)} is expected")
    return value


def optional(entry: Json, name: str, kind: type | tuple[type, ...], default: Any, where: str = "") -> Any:
    """As `field`, with a default where it is missing or null."""
    return default if entry.get(name) is None else field(entry, name, kind, where)


def text(entry: object, name: str, where: str = "") -> str:
    """A string."""
    return str(field(entry, name, str, where))


def number(entry: object, name: str, where: str = "") -> int:
    """An integer."""
    return int(field(entry, name, int, where))


def octets(entry: object, name: str, where: str = "") -> bytes:
    """Bytes, written in hex."""
    value = text(entry, name, where)
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise BrokenVector(f"{where}.{name} is not hex" if where else f"{name} is not hex") from None


def objects(entry: object, name: str, where: str = "") -> list[Json]:
    """A list of objects."""
    items: list[Json] = field(entry, name, list, where)
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise BrokenVector(f"{name}[{i}]: an object is expected, not {_kind(item)}")
    return items


_JSON_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "a truth value",
    int: "a number",
    float: "a number",
    type(None): "null",
}


def _kind(value: object) -> str:
    return _JSON_NAMES.get(type(value), "something else")


def _names(kind: type | tuple[type, ...]) -> str:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(dict.fromkeys(_JSON_NAMES[k] for k in kinds))

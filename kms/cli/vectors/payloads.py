"""Payloads and Error messages: decoded to the same fields, encoded to the same bytes."""

from collections.abc import Iterator

from kms.cli.vectors import forms
from kms.cli.vectors.entries import BrokenVector, Json, field, number, octets, text
from kms.cli.vectors.report import Mismatch, Result, equal, equal_forms, judge
from kms.crypto.interface import Use
from kms.crypto.software import SoftwareKeys
from kms.mikey import error_message
from kms.mikey.errors import MikeyError
from kms.mikey.exchange import check_message
from kms.mikey.message import Message
from kms.mikey.payloads import Hdr, Sp, T, V, read_payload
from kms.mikey.registry import DataType, ErrorNo
from kms.mikey.ticket_data import TicketData, read_thdr
from kms.mikey.wire import Reader


def check_payloads(entries: list[Json]) -> Iterator[Result]:
    """`payloads`: one payload each, HDR and THDR among them."""
    for i, entry in enumerate(entries):
        name = f"payloads[{i}] {entry.get('payload')}"
        yield judge("payload", name, "codec", lambda e=entry: _payload(e))  # type: ignore[misc]


def check_errors(entries: list[Json]) -> Iterator[Result]:
    """`errors`: Error messages (5.4) about a message, with V or without."""
    for i, entry in enumerate(entries):
        signed = "with V" if entry.get("auth_key") else "without V"
        name = f"errors[{i}] {entry.get('error_nos')} {signed}"
        yield judge("error", name, "codec", lambda e=entry: _error(e))  # type: ignore[misc]


def _payload(entry: Json) -> None:
    kind, raw = text(entry, "payload"), octets(entry, "hex")
    if kind == "HDR":
        _hdr(entry, raw)
    elif kind == "THDR":
        _thdr(entry, raw)
    elif kind in forms.CLASSES:
        r = Reader(raw, "vector")
        following, payload = read_payload(r, number(entry, "type"))
        r.finish()
        equal_forms(kind, entry, forms.describe(payload))
        built = forms.build(entry)
        equal("encoded", raw, (bytes((following,)) if built.HAS_NEXT else b"") + built.body())
    else:
        raise BrokenVector(f"no payload is called {kind}")


def _hdr(entry: Json, raw: bytes) -> None:
    r = Reader(raw, "vector")
    following, hdr = Hdr.read(r)
    r.finish()
    equal("next_payload", number(entry, "next_payload"), following)
    equal_forms("HDR", entry, forms.describe_hdr(hdr))
    equal("encoded", raw, forms.build_hdr(entry).encode(following))


def _thdr(entry: Json, raw: bytes) -> None:
    r = Reader(raw, "vector")
    following, data = read_thdr(r)
    r.finish()
    equal("data", octets(entry, "data"), data)
    equal("encoded", raw, bytes((following,)) + TicketData(data, ()).encode()[1:])


def _error(entry: Json) -> None:
    raw = octets(entry, "hex")
    message = Message.decode(raw)
    check_message(message, DataType.ERROR)
    if "decoded" in entry:
        equal_forms("decoded", entry["decoded"], forms.describe_message(message))
    equal("error_nos", field(entry, "error_nos", list), list(message.error_numbers))
    signed = isinstance(message.payloads[-1], V)
    if signed != bool(entry.get("auth_key")):
        raise Mismatch("V must be there if and only if the vector gives an auth_key")
    try:
        failed = Message.decode(octets(entry, "failed_message")).hdr
    except MikeyError:
        failed = Hdr(DataType.REQUEST_INIT_PSK, message.hdr.csb_id, message.hdr.prf)
    numbers = [ErrorNo(n) for n in message.error_numbers]
    alg = message.v.auth_alg if signed else None
    built = error_message.build(failed, numbers, message.get(T), policies=message.find_all(Sp), auth_alg=alg)
    if alg is not None:
        ops = SoftwareKeys()
        key = ops.load(octets(entry, "auth_key"), Use.SIGN)
        built = built.with_mac(ops.mac(key, alg, built.coverage()))
    equal("encoded", raw, built.raw)

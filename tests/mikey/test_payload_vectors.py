"""Every payload and Error message of payloads.json: same fields, same bytes."""

import pytest

from kms.mikey import error_message
from kms.mikey.exchange import check_message
from kms.mikey.message import Message
from kms.mikey.payloads import Hdr, T, V, read_payload
from kms.mikey.registry import DataType, ErrorNo, MacAlg, PrfFunc
from kms.mikey.ticket_data import TicketData, read_thdr
from kms.mikey.wire import Reader
from tests.mikey import vectors
from tests.mikey.vectors import Json

VECTORS: list[Json] = vectors.load("payloads")["payloads"]
ERRORS: list[Json] = vectors.load("payloads")["errors"]


def ids(form: Json) -> str:
    return str(form["payload"])


def without(form: Json, *names: str) -> Json:
    return {k: v for k, v in form.items() if k not in names}


@pytest.mark.parametrize("form", [f for f in VECTORS if f["payload"] not in ("HDR", "THDR")], ids=ids)
def test_payload(form: Json) -> None:
    raw = bytes.fromhex(form["hex"])
    r = Reader(raw, "vector")
    following, payload = read_payload(r, form["type"])
    r.finish()
    assert following == 0
    assert vectors.describe(payload) == without(form, "type", "hex")
    built = vectors.build(form)
    assert built == payload
    assert (b"\0" if built.HAS_NEXT else b"") + built.body() == raw


@pytest.mark.parametrize(
    "form", [f for f in VECTORS if f["payload"] == "HDR"], ids=lambda f: str(f["map_type"])
)
def test_hdr(form: Json) -> None:
    r = Reader(bytes.fromhex(form["hex"]), "vector")
    following, hdr = Hdr.read(r)
    r.finish()
    assert following == form["next_payload"]
    assert vectors.describe_hdr(hdr) == without(form, "type", "hex", "next_payload")
    assert vectors.build_hdr(form) == hdr
    assert hdr.encode(following) == bytes.fromhex(form["hex"])


@pytest.mark.parametrize("form", [f for f in VECTORS if f["payload"] == "THDR"], ids=ids)
def test_thdr(form: Json) -> None:
    raw = bytes.fromhex(form["hex"])
    r = Reader(raw, "vector")
    assert read_thdr(r) == (0, bytes.fromhex(form["data"]))
    r.finish()
    assert TicketData(bytes.fromhex(form["data"]), ()).encode() == raw


def test_all_payload_classes_have_a_vector() -> None:
    assert {f["payload"] for f in VECTORS} == set(vectors.CLASSES) | {"HDR", "THDR"}


@pytest.mark.parametrize(
    "form", ERRORS, ids=lambda f: f"{f['error_nos']}-{'V' if f['auth_key'] else 'plain'}"
)
def test_error_message(form: Json) -> None:
    raw = bytes.fromhex(form["hex"])
    failed = Message.decode(bytes.fromhex(form["failed_message"]))
    decoded = Message.decode(raw)
    check_message(decoded, DataType.ERROR)
    assert vectors.describe_message(decoded) == form["decoded"]
    assert decoded.error_numbers == tuple(form["error_nos"])

    alg = {PrfFunc.MIKEY_1: MacAlg.HMAC_SHA_1_160, PrfFunc.PRF_HMAC_SHA_256: MacAlg.HMAC_SHA_256_256}
    built = error_message.build(
        failed.hdr,
        [ErrorNo(n) for n in form["error_nos"]],
        decoded.get(T),
        auth_alg=alg[PrfFunc(failed.hdr.prf)] if form["auth_key"] else None,
    )
    if form["auth_key"]:
        assert isinstance(built.payloads[-1], V)
        key = bytes.fromhex(form["auth_key"])
        built = built.with_mac(vectors.mac(built.v.auth_alg, key, built.coverage()))
    assert built.raw == raw

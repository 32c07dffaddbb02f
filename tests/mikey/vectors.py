"""The vectors of tests/vectors, the JSON form of their payloads, and the RFC's PRF by plain HMAC."""

import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from kms.mikey.message import Message
from kms.mikey.payloads import (
    Cert,
    Chash,
    Dh,
    Err,
    Flags,
    GeneralExtension,
    GenericIdSession,
    Hdr,
    Id,
    Idr,
    Kemac,
    KeyData,
    KeyValidity,
    Payload,
    Pke,
    Rand,
    Randr,
    Sign,
    Sp,
    SrtpIdSession,
    T,
    Ticket,
    TicketPolicy,
    Tp,
    Tr,
    V,
)
from kms.mikey.registry import DataType, KvType, MacAlg, MapType, PrfFunc

FOLDER = Path(__file__).parent.parent / "vectors"

Json = dict[str, Any]

_NAMES: dict[type[Payload], str] = {
    Kemac: "KEMAC",
    Pke: "PKE",
    Dh: "DH",
    Sign: "SIGN",
    T: "T",
    Tr: "TR",
    Id: "ID",
    Idr: "IDR",
    Cert: "CERT",
    Chash: "CHASH",
    V: "V",
    Sp: "SP",
    Rand: "RAND",
    Randr: "RANDR",
    Err: "ERR",
    Tp: "TP",
    Ticket: "TICKET",
    KeyData: "KeyData",
    GeneralExtension: "GenExt",
}
_CLASSES = {name: cls for cls, name in _NAMES.items()}


@cache
def load(name: str) -> Any:
    """The content of tests/vectors/NAME.json."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def exchanges() -> list[Json]:
    """The exchanges with pre-shared keys."""
    return [e for e in load("exchanges")["exchanges"] if e["name"].startswith("psk")]


def all_messages() -> list[bytes]:
    """Every good message of exchanges.json and payloads.json, each once."""
    found = [m["hex"] for e in load("exchanges")["exchanges"] for m in e["messages"]]
    found += [e["hex"] for e in load("payloads")["errors"]]
    return [bytes.fromhex(text) for text in dict.fromkeys(found)]


# -- JSON form ---------------------------------------------------------------------------------------------------------


def describe(payload: Payload) -> Json:
    """The JSON form of a decoded payload."""
    out: Json = {"payload": _NAMES[type(payload)]}
    for field in fields(payload):  # type: ignore[arg-type]
        out[field.name] = _plain(getattr(payload, field.name))
    if isinstance(payload, V):
        out["data"] = out.pop("mac")
    if isinstance(payload, Tp | Ticket):
        out |= out.pop("policy")
    return out


def build(form: Json) -> Payload:
    """The payload of a JSON form, whose other members are ignored."""
    cls = _CLASSES[form["payload"]]
    given = dict(form)
    if cls is V:
        given["mac"] = given["data"]
    if cls in (Tp, Ticket):
        given["policy"] = TicketPolicy(
            given["ticket_type"],
            given["subtype"],
            given["version"],
            given["prf"],
            _flags(given["flags"]),
            tuple(build(p) for p in given["tp_data"]),
            given["res"],
        )
    if "kv" in given:
        given["kv"] = _validity(*given["kv"])
    if "params" in given:
        given["params"] = tuple((number, bytes.fromhex(value)) for number, value in given["params"])
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    return cls(**{k: bytes.fromhex(v) if isinstance(v, str) else v for k, v in given.items() if k in known})


def describe_hdr(hdr: Hdr) -> Json:
    """The JSON form of HDR."""
    return {
        "payload": "HDR",
        "version": 1,
        "data_type": hdr.data_type,
        "csb_id": hdr.csb_id,
        "prf": hdr.prf,
        "v": int(hdr.v),
        "n_cs": hdr.cs_count,
        "map_type": hdr.map_type,
        "map_info": [_session(s) for s in hdr.sessions],
    }


def build_hdr(form: Json) -> Hdr:
    """The HDR of a JSON form."""
    sessions = [
        GenericIdSession(
            s["cs_id"],
            tuple(s["policies"]),
            bytes.fromhex(s["session_data"]),
            bytes.fromhex(s["spi"]),
            bool(s["s"]),
            s["prot_type"],
        )
        if isinstance(s, dict)
        else SrtpIdSession(*s)
        for s in form["map_info"]
    ]
    return Hdr(
        DataType(form["data_type"]),
        form["csb_id"],
        form["prf"],
        bool(form["v"]),
        MapType(form["map_type"]),
        tuple(sessions),  # type: ignore[arg-type]
    )


def describe_message(message: Message) -> Json:
    """The JSON form of a message."""
    payloads = [describe(p) for p in message.payloads]
    return {"payload": "Message", "hdr": describe_hdr(message.hdr), "payloads": payloads}


def build_message(form: Json) -> Message:
    """The message of a JSON form."""
    return Message.build(build_hdr(form["hdr"]), [build(p) for p in form["payloads"]])


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, KeyValidity):
        data = {
            KvType.NULL: (),
            KvType.SPI: (value.spi,),
            KvType.INTERVAL: (value.valid_from, value.valid_to),
        }
        return [value.kv_type, *(d.hex() for d in data[value.kv_type])]
    if isinstance(value, TicketPolicy):
        policy = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        return policy | {"flags": value.flags.letters}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return describe(value) if isinstance(value, Payload) else value


def _session(session: GenericIdSession | SrtpIdSession) -> Any:
    if isinstance(session, SrtpIdSession):
        return [session.policy_no, session.ssrc, session.roc]
    return {
        "payload": "GenericCS",
        "cs_id": session.cs_id,
        "prot_type": session.prot_type,
        "s": int(session.s),
        "policies": list(session.policies),
        "session_data": session.session_data.hex(),
        "spi": session.spi.hex(),
    }


def _flags(letters: str) -> Flags:
    flags = Flags(0)
    for letter in letters:
        flags |= Flags[letter]
    return flags


def _validity(number: int, *data: str) -> KeyValidity:
    values = [bytes.fromhex(d) for d in data]
    if number == KvType.SPI:
        return KeyValidity(KvType.SPI, spi=values[0])
    if number == KvType.INTERVAL:
        return KeyValidity(KvType.INTERVAL, valid_from=values[0], valid_to=values[1])
    return KeyValidity()


# -- key derivation and MACs, from the text of RFC 3830 4.1 and RFC 6043 6.1 -------------------------------------------

_HASHES: dict[int, Callable[..., Any]] = {
    PrfFunc.MIKEY_1: hashlib.sha1,
    PrfFunc.PRF_HMAC_SHA_256: hashlib.sha256,
}
_MACS: dict[int, Callable[..., Any]] = {
    MacAlg.HMAC_SHA_1_160: hashlib.sha1,
    MacAlg.HMAC_SHA_256_256: hashlib.sha256,
}


def prf(func: int, inkey: bytes, label: bytes, bits: int) -> bytes:
    """PRF(inkey, label) of `bits` bits (RFC 3830 4.1.2)."""
    size = _HASHES[func]().digest_size * 8
    m = -(-bits // size)
    out = bytes(m * size // 8)
    for i in range(0, len(inkey), 32):  # blocks of 256 bits
        block = _p(func, inkey[i : i + 32], label, m)
        out = bytes(x ^ y for x, y in zip(out, block, strict=True))
    return out[: bits // 8]


def _p(func: int, s: bytes, label: bytes, m: int) -> bytes:
    out, a = b"", label
    for _ in range(m):
        a = hmac.digest(s, a, _HASHES[func])
        out += hmac.digest(s, a + label, _HASHES[func])
    return out


def mac(alg: int, key: bytes, data: bytes) -> bytes:
    """The MAC of `data`."""
    return hmac.digest(key, data, _MACS[alg])

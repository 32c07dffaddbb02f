"""The JSON form of payloads and messages in vectors (docs/vectors.md): bytes are hex, flags are letters."""

from dataclasses import fields
from typing import Any

from kms.cli.vectors.entries import BrokenVector, Json
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
from kms.mikey.registry import DataType, HashFunc, KeyType, KvType, MacAlg, MapType, TsType

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
CLASSES = {name: cls for cls, name in _NAMES.items()}
"""Payload classes by the name that `payload` has in the JSON form."""

# Fields of enumerated types whose number decides how the payload is encoded.
_ENUMS = {
    "ts_type": TsType,
    "auth_alg": MacAlg,
    "mac_alg": MacAlg,
    "key_type": KeyType,
    "hash_func": HashFunc,
}


def describe(payload: Payload) -> Json:
    """The JSON form of a decoded payload."""
    out: Json = {"payload": _NAMES[type(payload)]}
    for item in fields(payload):  # type: ignore[arg-type]
        out[item.name] = _plain(getattr(payload, item.name))
    if isinstance(payload, V):
        out["data"] = out.pop("mac")
    if isinstance(payload, Tp | Ticket):
        out |= out.pop("policy")
    return out


def build(form: Json) -> Payload:
    """The payload of a JSON form; members that it does not know are ignored.

    Raises BrokenVector if the form lacks something or holds what no payload can.
    """
    try:
        return _build(form)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _broken(form, error) from None


def _build(form: Json) -> Payload:
    cls = CLASSES[form["payload"]]
    given = dict(form)
    if cls is V:
        given["mac"] = given["data"]
    if cls in (Tp, Ticket):
        given["policy"] = TicketPolicy(
            given["ticket_type"],
            given["subtype"],
            given["version"],
            given["prf"],
            read_flags(given["flags"]),
            tuple(build(p) for p in given["tp_data"]),
            given.get("res", 0),
        )
    if "kv" in given:
        given["kv"] = _validity(*given["kv"])
    if "params" in given:
        given["params"] = tuple((number, bytes.fromhex(value)) for number, value in given["params"])
    known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
    values: Json = {k: bytes.fromhex(v) if isinstance(v, str) else v for k, v in given.items() if k in known}
    return cls(**{k: _ENUMS[k](v) if k in _ENUMS else v for k, v in values.items()})


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
    """The HDR of a JSON form. Raises BrokenVector."""
    try:
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
        count = form.get("n_cs", len(sessions))
        return Hdr(
            DataType(form["data_type"]),
            form["csb_id"],
            form["prf"],
            bool(form["v"]),
            MapType(form["map_type"]),
            tuple(sessions),  # type: ignore[arg-type]
            None if count == len(sessions) else count,
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _broken(form, error) from None


def describe_message(message: Message) -> Json:
    """The JSON form of a message."""
    payloads = [describe(p) for p in message.payloads]
    return {"payload": "Message", "hdr": describe_hdr(message.hdr), "payloads": payloads}


def build_message(form: Json) -> Message:
    """The message of a JSON form. Raises BrokenVector, or EncodeError for what cannot be encoded."""
    try:
        hdr, payloads = form["hdr"], list(form["payloads"])
    except (KeyError, TypeError) as error:
        raise _broken(form, error) from None
    return Message.build(build_hdr(hdr), [build(p) for p in payloads])


def read_flags(letters: str) -> Flags:
    """Flags from their letters. Raises KeyError for a letter that is none."""
    flags = Flags(0)
    for letter in letters:
        flags |= Flags[letter]
    return flags


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


def _validity(number: int, *data: str) -> KeyValidity:
    values = [bytes.fromhex(d) for d in data]
    if number == KvType.SPI:
        return KeyValidity(KvType.SPI, spi=values[0])
    if number == KvType.INTERVAL:
        return KeyValidity(KvType.INTERVAL, valid_from=values[0], valid_to=values[1])
    return KeyValidity()


def _broken(form: object, error: Exception) -> BrokenVector:
    name = form.get("payload") if isinstance(form, dict) else None
    what = f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)
    return BrokenVector(
        f"the JSON form of {name if isinstance(name, str) else 'a payload'} is broken: {what}"
    )

"""The fields of decoded payloads as plain values, for people and programs.

Enumerations are "NAME (number)", times are UTC, identities are text where they are. Key bytes never appear.
"""

from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

from kms.mikey import timestamps
from kms.mikey.errors import DecodeError
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
    SrtpSessionData,
    T,
    Ticket,
    TicketPolicy,
    Tp,
    Tr,
    V,
)
from kms.mikey.registry import (
    CertType,
    DataType,
    EncrAlg,
    ErrorNo,
    HashFunc,
    IdRole,
    IdType,
    KeyType,
    KvType,
    MacAlg,
    MapType,
    PrfFunc,
    ProtType,
    RandRole,
    SignType,
    SrtpParam,
    TicketType,
    TsRole,
    TsType,
)

SECTIONS = {
    "HDR": "RFC 6043 6.1",
    "KEMAC": "RFC 6043 6.2",
    "Key Data": "RFC 6043 6.2.1",
    "PKE": "RFC 3830 6.3",
    "DH": "RFC 3830 6.4",
    "SIGN": "RFC 3830 6.5",
    "T": "RFC 6043 6.3",
    "TR": "RFC 6043 6.4",
    "ID": "RFC 6043 6.5",
    "IDR": "RFC 6043 6.6",
    "CERT": "RFC 3830 6.7",
    "CHASH": "RFC 6043 6.7",
    "V": "RFC 3830 6.9",
    "SP": "RFC 3830 6.10",
    "RAND": "RFC 3830 6.11",
    "RANDR": "RFC 6043 6.8",
    "ERR": "RFC 6043 6.9",
    "TP": "RFC 6043 6.10",
    "TICKET": "RFC 6043 6.10",
    "General Extension": "RFC 3830 6.15",
}
"""Where each payload is defined, by its name."""

_FLAGS = {
    Flags.D: "the KMS generated the ticket",
    Flags.E: "Ticket Resolve is mandatory",
    Flags.F: "TRANSFER_RESP is sent",
    Flags.G: "the Responder generates RANDRr",
    Flags.H: "RANDRi is used to derive keys from a TGK or GTGK",
    Flags.I: "key forking is used",
    Flags.J: "the ticket may be reused",
    Flags.K: "the KMS changed the desired policy or keys",
    Flags.L: "the Initiator may supply session keys",
    Flags.M: "the Responder may supply session keys",
    Flags.N: "the Initiator needs no additional processing",
    Flags.O: "the Responder needs no additional processing",
}


def payload_name(payload: Payload) -> str:
    """The payload's name with its role, such as IDRkms or TRe."""
    roles: dict[type[Payload], tuple[type[IntEnum], tuple[str, ...]]] = {
        Idr: (IdRole, ("i", "r", "kms", "psk", "app")),
        Randr: (RandRole, ("i", "r", "kms")),
        Tr: (TsRole, ("i", "s", "e", "r")),
    }
    if isinstance(payload, Idr | Randr | Tr) and 0 < payload.role <= len(roles[type(payload)][1]):
        return payload.NAME + roles[type(payload)][1][payload.role - 1]
    return payload.NAME


def payload_fields(payload: Payload) -> dict[str, Any]:
    """The fields of a payload, by the names of the RFCs; without the blocks in it."""
    match payload:
        case T():
            return _time(payload)
        case Tr():
            interval = payload.role == TsRole.REKEYING and payload.ts_type == TsType.NTP_UTC_32
            time = {"seconds": int.from_bytes(payload.value, "big")} if interval else _time(payload)
            return {"TS Role": named(TsRole, payload.role), **time}
        case Id():
            return {"ID Type": named(IdType, payload.id_type), "ID Data": _identity(payload.data)}
        case Idr():
            return {
                "ID Role": named(IdRole, payload.role),
                "ID Type": named(IdType, payload.id_type),
                "ID Data": _identity(payload.data),
            }
        case Rand():
            return {"RAND": payload.rand}
        case Randr():
            return {"RAND Role": named(RandRole, payload.role), "RAND": payload.rand}
        case V():
            return {"Auth alg": named(MacAlg, payload.auth_alg), "Ver data": payload.mac}
        case Err():
            return {"Error no": named(ErrorNo, payload.error_no)}
        case Sp():
            return {
                "Policy no": payload.policy_no,
                "Prot type": named(ProtType, payload.prot_type),
                "Policy param": _policy_params(payload),
            }
        case Tp() | Ticket():
            return _policy(payload.policy)
        case Kemac() | KeyData():
            return _keys(payload)
    return _public_key(payload)


def _keys(payload: Kemac | KeyData) -> dict[str, Any]:
    if isinstance(payload, KeyData):
        return {"key": key_summary(payload)}
    out = {"Encr alg": named(EncrAlg, payload.encr_alg), "Encr data": f"{len(payload.encr_data)} bytes"}
    out["MAC alg"] = named(MacAlg, payload.mac_alg)
    return out


def _public_key(payload: Payload) -> dict[str, Any]:
    match payload:
        case Pke():
            return {"C": payload.cache, "Data": f"{len(payload.data)} bytes"}
        case Sign():
            return {"S type": named(SignType, payload.s_type), "Signature": payload.signature}
        case Cert():
            return {"Cert Type": named(CertType, payload.cert_type), "Certificate": payload.data}
        case Chash():
            return {"Hash func": named(HashFunc, payload.hash_func), "Hash": payload.hash}
        case Dh():
            return {"DH-Group": payload.group, "DH-value": payload.value, "KV": _validity(payload.kv)}
        case GeneralExtension():
            return {"Type": payload.ext_type, "Data": payload.data}
    return {}


def hdr_fields(hdr: Hdr) -> dict[str, Any]:
    """The fields of HDR."""
    out: dict[str, Any] = {
        "Data Type": named(DataType, hdr.data_type),
        "V": f"{int(hdr.v)}: a response is {'' if hdr.v else 'not '}expected",
        "PRF func": named(PrfFunc, hdr.prf),
        "CSB ID": f"{hdr.csb_id:#010x}",
        "#CS": hdr.cs_count,
        "CS ID map type": named(MapType, hdr.map_type),
    }
    if hdr.sessions:
        out["CS ID map info"] = [_session(s) for s in hdr.sessions]
    return out


def _session(session: GenericIdSession | SrtpIdSession) -> dict[str, Any]:
    if isinstance(session, SrtpIdSession):
        return {"Policy_no": session.policy_no, "SSRC": f"{session.ssrc:#010x}", "ROC": session.roc}
    out: dict[str, Any] = {"CS ID": session.cs_id, "Prot type": named(ProtType, session.prot_type)}
    out["Ps"] = list(session.policies)
    out["Session Data"] = session.session_data
    if session.prot_type == ProtType.SRTP and session.session_data:
        try:
            data = SrtpSessionData.of(session)
        except DecodeError:
            pass  # shown as bytes: whether its length is right is for the parties of the call to judge
        else:
            parts = {"SSRC": f"{data.ssrc:#010x}", "ROC": data.roc, "SEQ": data.seq}
            out["Session Data"] = {name: value for name, value in parts.items() if value is not None}
    return out | {"SPI": session.spi}


def _policy(policy: TicketPolicy) -> dict[str, Any]:
    return {
        "Ticket Type": named(TicketType, policy.ticket_type),
        "Subtype": policy.subtype,
        "Version": policy.version,
        "PRF Func": named(PrfFunc, policy.prf),
        "flags": {flag.name: meaning for flag, meaning in _FLAGS.items() if flag in policy.flags},
    }


def _policy_params(sp: Sp) -> dict[str, Any]:
    srtp = sp.prot_type == ProtType.SRTP
    return {named(SrtpParam, n) if srtp else str(n): int.from_bytes(value, "big") for n, value in sp.params}


def key_summary(key: KeyData) -> dict[str, Any]:
    """A key without its bytes; only whether they are the zeros of a desired policy (RFC 6043 6.10)."""
    out = key_entry(key.key_type, len(key.key), len(key.salt), key.spi)
    out["bytes"] = "not shown" if any(key.key + key.salt) else "all zero"
    return out if key.kv.kv_type == KvType.SPI else out | {"KV": _validity(key.kv)}


def key_entry(key_type: KeyType, length: int, salt_length: int, spi: bytes) -> dict[str, Any]:
    """What a key is; lengths in bytes."""
    return {"Type": named(KeyType, key_type), "length": length, "salt length": salt_length, "SPI": spi}


def _validity(kv: KeyValidity) -> Any:
    kind = named(KvType, kv.kv_type)
    if kv.kv_type == KvType.INTERVAL:
        return {"type": kind, "Valid From": kv.valid_from, "Valid To": kv.valid_to}
    return {"type": kind, "SPI": kv.spi} if kv.kv_type == KvType.SPI else kind


def _time(stamp: T | Tr) -> dict[str, Any]:
    out: dict[str, Any] = {"TS Type": named(TsType, stamp.ts_type)}
    if stamp.ts_type == TsType.COUNTER:
        return out | {"TS Value": int.from_bytes(stamp.value, "big")}
    time = datetime.fromtimestamp(timestamps.unix_time(stamp), UTC)
    precision = "seconds" if stamp.ts_type == TsType.NTP_UTC_32 else "microseconds"
    return out | {"TS Value": time.replace(tzinfo=None).isoformat(" ", precision) + " UTC"}


def _identity(data: bytes) -> Any:
    """Text where it is printable UTF-8; control characters would reach the terminal."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    return text if text.isprintable() else data


def named(names: type[IntEnum], number: int) -> str:
    """A number with its name in the name space."""
    try:
        return f"{names(number).name} ({number})"
    except ValueError:
        return f"unknown ({number})"

"""Primitives: the PRF, every derivation with its label, encryption and MACs, and this project's own derivation."""

from collections.abc import Callable, Iterator

from kms.cli.vectors.entries import BrokenVector, Json, number, octets, optional, text
from kms.cli.vectors.report import Result, equal, judge
from kms.crypto.interface import KeyOperations, Use
from kms.crypto.prf import prf as compute_prf
from kms.crypto.software import SoftwareKeys
from kms.mikey import labels
from kms.mikey.labels import ForkedKey, MessageKey, ProtectionKey, SessionKey
from kms.mikey.registry import EncrAlg, MacAlg, PrfFunc, TsType

_MOST_OUT = 4096  # bytes of PRF output that are computed: a bound on what a file can ask for


def check_prf(entries: list[Json]) -> Iterator[Result]:
    """`prf`: inkey, label, outkey."""
    for i, entry in enumerate(entries):
        yield judge("prf", _name(entry, f"prf[{i}]"), "PRF", lambda e=entry: _prf(e))  # type: ignore[misc]


def check_derivations(entries: list[Json]) -> Iterator[Result]:
    """`derivations`: one label each of 5.1.1, 5.1.2, 5.1.3, 6.10, A.2.1 and A.2.2."""
    for i, entry in enumerate(entries):
        name = f"derivations[{i}] {entry.get('section')} {entry.get('name')}"
        yield judge("derivation", name, "PRF", lambda e=entry: _derivation(e))  # type: ignore[misc]


def check_algorithms(entries: list[Json]) -> Iterator[Result]:
    """`algorithms`: KEMAC encryption with its IV, or a MAC."""
    for i, entry in enumerate(entries):
        play = _encryption if "encr_alg" in entry else _mac
        yield judge("algorithm", _name(entry, f"algorithms[{i}]"), "algorithms", lambda e=entry, p=play: p(e))  # type: ignore[misc]


def check_own_derivations(entries: list[Json]) -> Iterator[Result]:
    """`own_derivations`: the derivation of derived tickets and PSKs (docs/ticket-type.md)."""
    for i, entry in enumerate(entries):
        name = f"own_derivations[{i}] {entry.get('name')}"
        yield judge("own derivation", name, "token operations", lambda e=entry: _own_derivation(e))  # type: ignore[misc]


def derive(inkey: bytes, func: int, label: bytes, length: int) -> bytes:
    """PRF(inkey, label): by the key operations where they take such a key and length, else by the PRF itself."""
    if length > _MOST_OUT:
        raise BrokenVector(f"an outkey of {length} bytes: at most {_MOST_OUT} are computed")
    prf = PrfFunc(func)
    if 16 <= len(inkey) <= 255 and 1 <= length <= 64 and label:
        ops = SoftwareKeys()
        return ops.prf_release(ops.load(inkey, Use.PRF), prf, label, length)
    return compute_prf(inkey, prf, label, length)


def _name(entry: Json, place: str) -> str:
    given = entry.get("name")
    return f"{place} {given}" if isinstance(given, str) else place


# -- PRF -----------------------------------------------------------------------------------------------------------


def _prf(entry: Json) -> None:
    inkey, outkey = octets(entry, "inkey"), octets(entry, "outkey")
    for name, value in (("inkey_len", inkey), ("outkey_len", outkey)):
        if number(entry, name) != 8 * len(value):
            raise BrokenVector(f"{name} is {entry[name]}, but the key has {8 * len(value)} bits")
    equal("outkey", outkey, derive(inkey, number(entry, "prf"), octets(entry, "label"), len(outkey)))


def _derivation(entry: Json) -> None:
    section, name = text(entry, "section"), text(entry, "name")
    make = _LABELS.get((section, name))
    if make is None:
        raise BrokenVector(f"no key of section {section} is called {name}")
    outkey = octets(entry, "outkey")
    if optional(entry, "bits", int, 8 * len(outkey)) != 8 * len(outkey):
        raise BrokenVector(f"bits is {entry['bits']}, but outkey has {8 * len(outkey)}")
    label = make(entry)
    equal("label", octets(entry, "label"), label)
    equal("outkey", outkey, derive(octets(entry, "inkey"), number(entry, "prf"), label, len(outkey)))


def _message_label(entry: Json, constant: MessageKey) -> bytes:
    csb_id, direction = number(entry, "csb_id"), number(entry, "direction")
    return labels.message_key(constant, csb_id, direction, octets(entry, "randr_i"), octets(entry, "randr_r"))


def _session_label(entry: Json, constant: SessionKey) -> bytes:
    return labels.session_key(
        constant, number(entry, "cs_id"), octets(entry, "randr_i"), octets(entry, "randr_r")
    )


def _forked_label(entry: Json, constant: ForkedKey) -> bytes:
    return labels.forked_key(constant, octets(entry, "id_data"), octets(entry, "randr_kms"))


_LABELS: dict[tuple[str, str], Callable[[Json], bytes]] = {
    ("5.1.1", "MPKr'"): lambda e: _forked_label(e, ForkedKey.MPKR),
    ("5.1.1", "TGK'"): lambda e: _forked_label(e, ForkedKey.TGK),
    ("5.1.2", "encr"): lambda e: _message_label(e, MessageKey.ENCR),
    ("5.1.2", "auth"): lambda e: _message_label(e, MessageKey.AUTH),
    ("5.1.2", "salt"): lambda e: _message_label(e, MessageKey.SALT),
    ("5.1.3", "tek"): lambda e: _session_label(e, SessionKey.TEK),
    ("5.1.3", "encr"): lambda e: _session_label(e, SessionKey.ENCR),
    ("5.1.3", "auth"): lambda e: _session_label(e, SessionKey.AUTH),
    ("5.1.3", "salt"): lambda e: _session_label(e, SessionKey.SALT),
    ("6.10", "Vr auth_key"): lambda _: labels.vr_key(),
    ("A.2.1", "encr"): lambda e: labels.tpk_key(MessageKey.ENCR, octets(e, "rand")),
    ("A.2.1", "auth"): lambda e: labels.tpk_key(MessageKey.AUTH, octets(e, "rand")),
    ("A.2.1", "salt"): lambda e: labels.tpk_key(MessageKey.SALT, octets(e, "rand")),
    ("A.2.2", "MPKi"): lambda e: labels.mpk_key(ProtectionKey.MPKI, octets(e, "rand")),
    ("A.2.2", "MPKr"): lambda e: labels.mpk_key(ProtectionKey.MPKR, octets(e, "rand")),
}
"""The label of each derivation of RFC 6043, by section and name."""


# -- encryption and MACs -------------------------------------------------------------------------------------------


def _encryption(entry: Json) -> None:
    ops, alg = SoftwareKeys(), EncrAlg(number(entry, "encr_alg"))
    ts_type, ts_value = TsType(number(entry, "ts_type")), octets(entry, "ts_value")
    iv = labels.kemac_iv(alg, octets(entry, "salt_key"), number(entry, "csb_id"), ts_type, ts_value)
    equal("iv", octets(entry, "iv"), iv)
    key, plain, encr_data = octets(entry, "encr_key"), octets(entry, "plain"), octets(entry, "encr_data")
    equal("encr_data", encr_data, ops.encrypt(ops.load(key, Use.ENCRYPT), alg, iv, plain))
    equal("plain", plain, ops.decrypt(ops.load(key, Use.DECRYPT), alg, iv, encr_data))


def _mac(entry: Json) -> None:
    ops, alg, key = SoftwareKeys(), MacAlg(number(entry, "mac_alg")), octets(entry, "auth_key")
    data, mac = octets(entry, "data"), octets(entry, "mac")
    equal("mac", mac, ops.mac(ops.load(key, Use.SIGN), alg, data))
    ops.verify(ops.load(key, Use.VERIFY), alg, data, mac)


# -- the own derivation --------------------------------------------------------------------------------------------


OWN_LABELS: dict[str, Callable[[Json], bytes]] = {
    "user branch": lambda e: labels.user_branch(
        octets(e, "identity"), number(e, "version"), PrfFunc(number(e, "prf"))
    ),
    "PSK": lambda _: labels.psk(),
    "ticket branch": lambda e: labels.ticket_branch(
        octets(e, "rand"), octets(e, "thdr_data"), octets(e, "ticket_body")
    ),
    "ticket MAC key": lambda _: labels.ticket_mac_key(),
    "MPKi": lambda _: labels.ticket_mpki(),
    "MPKr": lambda _: labels.ticket_mpkr(),
    "session key": lambda e: labels.ticket_session_key(number(e, "index")),
    "session salt": lambda e: labels.ticket_session_salt(number(e, "index")),
    "shared TPK": lambda e: labels.shared_tpk_branch(
        number(e, "mode"),
        octets(e, "owner"),
        number(e, "version"),
        octets(e, "peer"),
        number(e, "peer_version"),
        PrfFunc(number(e, "prf")),
    ),
    "TPK": lambda _: labels.shared_tpk(),
    "base ticket TPK": lambda _: labels.base_ticket_tpk(),
    "fingerprint": lambda _: labels.fingerprint(),
}
"""The label of each key of this project's own derivation, by the name that its first field has (or "user branch")."""


def _own_derivation(entry: Json) -> None:
    name = text(entry, "name")
    make = OWN_LABELS.get(name)
    if make is None:
        raise BrokenVector(f"no key of the own derivation is called {name}")
    label = make(entry)
    equal("label", octets(entry, "label"), label)
    equal(
        "outkey", octets(entry, "outkey"), own(octets(entry, "aes_key"), label, len(octets(entry, "outkey")))
    )


def own(aes_key: bytes, label: bytes, length: int) -> bytes:
    """D(aes_key, label, length) of docs/ticket-type.md, 1 to 32 bytes."""
    ops: KeyOperations = SoftwareKeys()
    return ops.release(ops.load(aes_key, Use.BRANCH), label, length)

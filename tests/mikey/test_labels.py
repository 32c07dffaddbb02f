"""Labels: the bytes of the vectors, and no two calls with the same label."""

import inspect
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from kms.mikey import labels
from kms.mikey.errors import EncodeError
from kms.mikey.labels import ForkedKey, MessageKey, ProtectionKey, SessionKey
from kms.mikey.registry import EncrAlg, PrfFunc, TsType
from tests.mikey import vectors
from tests.mikey.vectors import Json

Label = Callable[..., bytes]
DERIVATIONS: list[Json] = vectors.load("primitives")["derivations"]
ALGORITHMS: list[Json] = vectors.load("primitives")["algorithms"]

# -- vectors -----------------------------------------------------------------------------------------------------------


def label_of(d: Json) -> bytes:
    def raw(name: str) -> bytes:
        return bytes.fromhex(d[name])

    match d["section"], d["name"]:
        case "5.1.1", name:
            constant = {"MPKr'": ForkedKey.MPKR, "TGK'": ForkedKey.TGK}[name]
            return labels.forked_key(constant, raw("id_data"), raw("randr_kms"))
        case "5.1.2", name:
            keys = MessageKey[name.upper()], d["csb_id"], d["direction"]
            return labels.message_key(*keys, raw("randr_i"), raw("randr_r"))
        case "5.1.3", name:
            return labels.session_key(SessionKey[name.upper()], d["cs_id"], raw("randr_i"), raw("randr_r"))
        case "6.10", "Vr auth_key":
            return labels.vr_key()
        case "A.2.1", name:
            return labels.tpk_key(MessageKey[name.upper()], raw("rand"))
        case "A.2.2", name:
            return labels.mpk_key(ProtectionKey[name.upper()], raw("rand"))
    raise AssertionError(f"no label for {d['section']} {d['name']}")


@pytest.mark.parametrize("d", DERIVATIONS, ids=lambda d: f"{d['section']}-{d['name']}")
def test_label_vector(d: Json) -> None:
    label = label_of(d)
    assert label.hex() == d["label"]
    bits = d.get("bits", 8 * len(bytes.fromhex(d["outkey"])))
    assert vectors.prf(d["prf"], bytes.fromhex(d["inkey"]), label, bits).hex() == d["outkey"]


@pytest.mark.parametrize("vector", vectors.load("primitives")["prf"])
def test_prf_of_these_tests(vector: Json) -> None:
    inkey, label = bytes.fromhex(vector["inkey"]), bytes.fromhex(vector["label"])
    assert vectors.prf(vector["prf"], inkey, label, vector["outkey_len"]).hex() == vector["outkey"]


@pytest.mark.parametrize("a", [a for a in ALGORITHMS if "iv" in a])
def test_iv_vector(a: Json) -> None:
    alg, salt = EncrAlg(a["encr_alg"]), bytes.fromhex(a["salt_key"])
    assert len(salt) == labels.SALT_KEY_LENGTHS[alg]
    assert len(bytes.fromhex(a["encr_key"])) == labels.ENCR_KEY_LENGTHS[alg]
    iv = labels.kemac_iv(alg, salt, a["csb_id"], TsType(a["ts_type"]), bytes.fromhex(a["ts_value"]))
    assert iv.hex() == a["iv"]


@pytest.mark.parametrize("a", [a for a in ALGORITHMS if "mac" in a])
def test_mac_vector(a: Json) -> None:
    key = bytes.fromhex(a["auth_key"])
    assert len(key) == labels.AUTH_KEY_LENGTHS[a["mac_alg"]]
    assert vectors.mac(a["mac_alg"], key, bytes.fromhex(a["data"])).hex() == a["mac"]


# -- no two alike ------------------------------------------------------------------------------------------------------

RANDS = [b"", b"\0", b"\1", b"\0\0", b"\0\1", b"\1\0", b"\2\0\0", b"\4", b"\5", b"\6\0", b"\xff" * 5]
NUMBERS = [0, 1, 2, 0xFFFF]
RFC_DOMAINS: dict[Label, list[list[Any]]] = {
    labels.message_key: [list(MessageKey), [0, 1, 0xFFFFFFFF, 0x2D22AC75], [1, 2], RANDS, RANDS],
    labels.session_key: [list(SessionKey), [0, 1, 0xFF], RANDS, RANDS],
    labels.forked_key: [list(ForkedKey), RANDS, RANDS],
    labels.vr_key: [],
    labels.tpk_key: [list(MessageKey), RANDS],
    labels.mpk_key: [list(ProtectionKey), RANDS],
}
TEXTS = [*RANDS, b"user", b"PSK", b"\0\0\0\3PSK", b"ticket", b"\0\0\0\0"]
OWN_DOMAINS: dict[Label, list[list[Any]]] = {
    labels.user_branch: [TEXTS, [0, 1, 0xFFFFFFFF], list(PrfFunc)],
    labels.psk: [],
    labels.ticket_branch: [TEXTS, TEXTS, TEXTS],
    labels.ticket_mac_key: [],
    labels.ticket_mpki: [],
    labels.ticket_mpkr: [],
    labels.ticket_session_key: [NUMBERS],
    labels.ticket_session_salt: [NUMBERS],
    labels.base_ticket_tpk: [],
    labels.shared_tpk_branch: [[2, 3, 4], RANDS, [0, 1], RANDS, [0, 1], list(PrfFunc)],
    labels.shared_tpk: [],
    labels.fingerprint: [],
}


def test_these_are_all_labels() -> None:
    """A new label must be added here."""
    public = {f for n, f in inspect.getmembers(labels, inspect.isfunction) if not n.startswith("_")}
    public = {f for f in public if f.__module__ == labels.__name__} - {labels.kemac_iv}
    assert public == set(RFC_DOMAINS) | set(OWN_DOMAINS)
    for function, domain in (RFC_DOMAINS | OWN_DOMAINS).items():
        assert len(inspect.signature(function).parameters) == len(domain)


@pytest.mark.parametrize("domains", [RFC_DOMAINS, OWN_DOMAINS], ids=["RFC", "own"])
def test_all_labels_of_a_small_domain_differ(domains: dict[Label, list[list[Any]]]) -> None:
    seen: dict[bytes, tuple[str, tuple[Any, ...]]] = {}
    for function, domain in domains.items():
        for arguments in product(*domain):
            label = function(*arguments)
            assert label not in seen, f"{function.__name__}{arguments} and {seen[label]}"
            seen[label] = (function.__name__, arguments)
    assert len(seen) > 2000


def calls(functions: dict[Label, list[SearchStrategy[Any]]]) -> SearchStrategy[tuple[Label, tuple[Any, ...]]]:
    return st.one_of([st.tuples(st.just(f), st.tuples(*domain)) for f, domain in functions.items()])


# few different octets, all of which are lengths or purposes in some label: the likeliest to be confused
rands = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 0xFF]), max_size=6).map(bytes)
u32 = st.sampled_from([0, 1, 0xFFFFFFFF]) | st.integers(0, 0xFFFFFFFF)
RFC_CALLS = calls(
    {
        labels.message_key: [st.sampled_from(MessageKey), u32, st.sampled_from([1, 2]), rands, rands],
        labels.session_key: [st.sampled_from(SessionKey), st.integers(0, 255), rands, rands],
        labels.forked_key: [st.sampled_from(ForkedKey), rands, rands],
        labels.vr_key: [],
        labels.tpk_key: [st.sampled_from(MessageKey), rands],
        labels.mpk_key: [st.sampled_from(ProtectionKey), rands],
    }
)
texts = rands | st.binary(max_size=40)
OWN_CALLS = calls(
    {f: [] for f, domain in OWN_DOMAINS.items() if not domain}
    | {
        labels.user_branch: [texts, u32, st.sampled_from(PrfFunc)],
        labels.ticket_branch: [texts, texts, texts],
        labels.shared_tpk_branch: [
            st.sampled_from([2, 3, 4]),
            texts,
            u32,
            texts,
            u32,
            st.sampled_from(PrfFunc),
        ],
        labels.ticket_session_key: [st.integers(0, 0xFFFF)],
        labels.ticket_session_salt: [st.integers(0, 0xFFFF)],
    }
)
Call = tuple[Label, tuple[Any, ...]]


@given(st.one_of(st.tuples(RFC_CALLS, RFC_CALLS), st.tuples(OWN_CALLS, OWN_CALLS)))
def test_different_calls_have_different_labels(pair: tuple[Call, Call]) -> None:
    (f, f_arguments), (g, g_arguments) = pair
    assert (f(*f_arguments) == g(*g_arguments)) == (pair[0] == pair[1])


@given(RFC_CALLS, OWN_CALLS)
def test_the_two_kinds_differ(rfc: Call, own: Call) -> None:
    """Own labels start with a length below 2**16, those of the RFC with a constant above it."""
    assert rfc[0](*rfc[1])[:2] != own[0](*own[1])[:2] == b"\0\0"


@given(OWN_CALLS)
def test_own_labels_can_be_read_back(call: Call) -> None:
    """Fields behind their lengths: what is in one field never runs into the next."""
    label, fields = call[0](*call[1]), []
    while label:
        length = int.from_bytes(label[:4], "big")
        fields.append(label[4 : 4 + length])
        assert len(fields[-1]) == length
        label = label[4 + length :]
    assert len(fields) == 1 + len(call[1])
    assert [f for f, argument in zip(fields[1:], call[1], strict=True) if isinstance(argument, bytes)] == [
        a for a in call[1] if isinstance(a, bytes)
    ]


def test_constants_differ() -> None:
    """MessageKey is used by 5.1.2, 6.10 and A.2.1, which differ in the octet behind it."""
    constants = [*MessageKey, *SessionKey, *ForkedKey, *ProtectionKey]
    assert len({int(c) for c in constants}) == len(constants)


@pytest.mark.parametrize(
    "call",
    [
        lambda: labels.message_key(MessageKey.AUTH, 1, 3, b"", b""),
        lambda: labels.message_key(MessageKey.AUTH, 1 << 32, 1, b"", b""),
        lambda: labels.message_key(MessageKey.AUTH, 1, 1, bytes(256), b""),
        lambda: labels.message_key(MessageKey.AUTH, 1, 1, b"", bytes(256)),
        lambda: labels.session_key(SessionKey.TEK, 256, b"", b""),
        lambda: labels.session_key(SessionKey.TEK, 1, bytes(256), b""),
        lambda: labels.forked_key(ForkedKey.MPKR, bytes(65536), b""),
        lambda: labels.forked_key(ForkedKey.MPKR, b"", bytes(256)),
        lambda: labels.tpk_key(MessageKey.AUTH, bytes(256)),
        lambda: labels.mpk_key(ProtectionKey.MPKI, bytes(256)),
        lambda: labels.user_branch(b"", 1 << 32, PrfFunc.MIKEY_1),
        lambda: labels.ticket_session_key(65536),
        lambda: labels.ticket_session_salt(65536),
    ],
)
def test_what_no_label_can_hold(call: Callable[[], bytes]) -> None:
    with pytest.raises(EncodeError, match=r"does not fit|neither 1 nor 2"):
        call()

"""Hypothesis strategies: everything that kms.mikey can encode."""

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from kms.mikey.message import Message
from kms.mikey.payloads import (
    MAC_LENGTHS,
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
    InitiatorData,
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
from kms.mikey.registry import DataType, HashFunc, KeyType, KvType, MacAlg, MapType, TsType
from kms.mikey.ticket_data import KeyEntry, TicketData

u4 = st.integers(0, 15)
u8 = st.integers(0, 255)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
blob = st.binary(max_size=24)
blob8 = st.binary(max_size=24) | st.binary(min_size=255, max_size=255)


def exactly(size: int) -> SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


# -- payloads ----------------------------------------------------------------------------------------------------------

_ts_lengths = {TsType.NTP_UTC: 8, TsType.NTP: 8, TsType.COUNTER: 4, TsType.NTP_UTC_32: 4}
_hash_lengths = {HashFunc.SHA_1: 20, HashFunc.MD5: 16, HashFunc.SHA_256: 32}
_groups = {0: 192, 1: 96, 2: 128}
_salted = (KeyType.TGK_SALT, KeyType.TEK_SALT, KeyType.GTGK_SALT)

ts_types = st.sampled_from(TsType)
timestamp_payloads = ts_types.flatmap(lambda t: st.builds(T, st.just(t), exactly(_ts_lengths[t])))
tr_payloads = ts_types.flatmap(lambda t: st.builds(Tr, u8, st.just(t), exactly(_ts_lengths[t])))
v_payloads = st.sampled_from(MacAlg).flatmap(lambda a: st.builds(V, st.just(a), exactly(MAC_LENGTHS[a])))
idr_payloads = st.builds(Idr, u8, u8, blob)
randr_payloads = st.builds(Randr, u8, blob8)
rand_payloads = st.builds(Rand, blob8)
sp_payloads = st.builds(Sp, u8, u8, st.lists(st.tuples(u8, blob8), max_size=4).map(tuple))

validities = st.one_of(
    st.just(KeyValidity()),
    st.builds(KeyValidity, st.just(KvType.SPI), spi=blob8),
    st.builds(KeyValidity, st.just(KvType.INTERVAL), valid_from=blob8, valid_to=blob8),
)
keys = st.sampled_from(KeyType).flatmap(
    lambda t: st.builds(KeyData, st.just(t), blob, blob if t in _salted else st.just(b""), validities)
)
key_lists = st.lists(keys, max_size=4).map(tuple)
kemac_payloads = st.sampled_from(MacAlg).flatmap(
    lambda a: st.builds(
        Kemac, u8, blob | key_lists.map(KeyData.write_all), st.just(a), exactly(MAC_LENGTHS[a])
    )
)
dh_payloads = st.sampled_from(sorted(_groups)).flatmap(
    lambda g: st.builds(Dh, st.just(g), exactly(_groups[g]), validities, u4)
)
chash_payloads = st.sampled_from(HashFunc).flatmap(
    lambda h: st.builds(Chash, st.just(h), exactly(_hash_lengths[h]))
)
sign_payloads = st.builds(Sign, u4, blob)

simple_payloads: SearchStrategy[Payload] = st.one_of(
    timestamp_payloads,
    tr_payloads,
    v_payloads,
    idr_payloads,
    randr_payloads,
    rand_payloads,
    sp_payloads,
    keys,
    kemac_payloads,
    dh_payloads,
    chash_payloads,
    st.builds(Id, u8, blob),
    st.builds(Pke, blob, st.integers(0, 3)),
    st.builds(Cert, u8, blob),
    st.builds(Err, u8, u16),
    st.builds(GeneralExtension, u8, blob),
)
"""Every payload without a block of payloads in it, but SIGN, which must come last."""

flags = st.integers(0, 0xFFF).map(Flags)


def policies(inner: SearchStrategy[Payload] = simple_payloads) -> SearchStrategy[TicketPolicy]:
    prf = st.integers(0, 127)
    tp_data = st.lists(inner, max_size=5).map(tuple)
    return st.builds(TicketPolicy, u16, u8, u8, prf, flags, tp_data, st.integers(0, 31))


def with_policy(inner: SearchStrategy[Payload]) -> SearchStrategy[Payload]:
    return st.one_of(st.builds(Tp, policies(inner)), st.builds(Ticket, policies(inner), blob, blob))


payloads: SearchStrategy[Payload] = st.one_of(
    simple_payloads, simple_payloads, with_policy(simple_payloads | with_policy(simple_payloads))
)
"""Every payload but SIGN; TP and TICKET nested up to two deep."""

chains: SearchStrategy[tuple[Payload, ...]] = st.builds(
    lambda items, last: (*items, *last),
    st.lists(payloads, max_size=6),
    st.lists(sign_payloads, max_size=1),
)
"""Payloads that may follow one another."""

# -- blocks and messages -----------------------------------------------------------------------------------------------

generic_sessions = st.builds(
    GenericIdSession, u8, st.lists(u8, max_size=5).map(tuple), blob, blob8, st.booleans(), u8
)
srtp_sessions = st.builds(SrtpIdSession, u8, u32, u32)
session_data = st.one_of(st.builds(SrtpSessionData, u32), st.builds(SrtpSessionData, u32, u32, u16))

_maps = st.one_of(
    st.tuples(st.just(MapType.GENERIC_ID), st.lists(generic_sessions, max_size=4).map(tuple), st.none()),
    st.tuples(st.just(MapType.SRTP_ID), st.lists(srtp_sessions, max_size=4).map(tuple), st.none()),
    st.tuples(st.just(MapType.EMPTY), st.just(()), st.none() | st.integers(1, 255)),
)
headers = st.builds(
    lambda kind, csb_id, prf, v, cs_map: Hdr(kind, csb_id, prf, v, *cs_map),
    st.sampled_from(DataType),
    u32,
    st.integers(0, 127),
    st.booleans(),
    _maps,
)


def messages() -> SearchStrategy[Message]:
    return st.builds(Message.build, headers, chains.filter(bool))


_strong = st.sampled_from([MacAlg.HMAC_SHA_1_160, MacAlg.HMAC_SHA_256_256])
initiator_data = _strong.flatmap(
    lambda a: st.builds(
        InitiatorData,
        st.builds(V, st.just(a), exactly(MAC_LENGTHS[a])),
        st.builds(V, st.just(a), exactly(MAC_LENGTHS[a])),
        st.lists(simple_payloads, max_size=2).map(tuple),
    )
)

ticket_data = st.builds(
    lambda thdr, t, rand, rest, v: TicketData(thdr, (t, rand, *rest, v)),
    blob,
    timestamp_payloads,
    rand_payloads,
    st.lists(sp_payloads | randr_payloads | tr_payloads, max_size=2),
    v_payloads,
)

key_entries = st.builds(
    lambda first, rest: (first, *rest),
    st.builds(KeyEntry, st.just(KeyType.MPK), u8, u8, blob8),
    st.lists(
        st.builds(KeyEntry, st.sampled_from([k for k in KeyType if k != KeyType.MPK]), u8, u8, blob8),
        max_size=5,
    ),
)
"""THDR Data of a derived ticket."""

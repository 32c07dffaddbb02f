"""What is encoded decodes to the same, what decodes encodes to the same bytes, and nothing but MikeyError is raised."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kms.mikey import policy
from kms.mikey.errors import DecodeError, EncodeError, MikeyError
from kms.mikey.exchange import check_message
from kms.mikey.message import MAX_MESSAGE_LENGTH, Message, unsigned_v
from kms.mikey.payloads import (
    Chash,
    Dh,
    Err,
    Flags,
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
    payload_class,
    read_chain,
    write_chain,
)
from kms.mikey.registry import DataType, HashFunc, KeyType, KvType, MacAlg, MapType, PayloadType, TsType
from kms.mikey.srtp import SrtpPolicy
from kms.mikey.ticket_data import KeyEntry, TicketData, mac_coverage, read_key_list, write_key_list
from kms.mikey.wire import MAX_DEPTH, Reader
from tests.mikey import strategies, vectors

HDR = Hdr(DataType.TRANSFER_INIT, 1, 0)
MESSAGES = vectors.all_messages()

few = settings(max_examples=50)  # large examples; the mutations below are many


# -- round trips -------------------------------------------------------------------------------------------------------


@few
@given(strategies.messages())
def test_message(message: Message) -> None:
    decoded = Message.decode(message.raw)
    assert decoded == message
    assert Message.build(decoded.hdr, decoded.payloads).raw == message.raw


def test_every_payload_class_has_a_strategy() -> None:
    made = {T, Tr, V, Id, Idr, Sp, Rand, KeyData, Kemac, Dh, Chash, Pke, Err, Sign, Tp, Ticket}
    names = {cls.__name__ for cls in made} | {"Randr", "Cert", "GeneralExtension"}
    registered = {payload_class(n) for n in range(256)} - {None}
    assert {cls.__name__ for cls in registered if cls} == names
    assert {cls.TYPE for cls in registered if cls} == set(PayloadType) - {PayloadType.LAST}


@few
@given(strategies.chains)
def test_chain(chain: tuple[Payload, ...]) -> None:
    raw = write_chain(chain)
    assert read_chain(Reader(raw, "chain"), chain[0].TYPE if chain else 0) == chain


@few
@given(strategies.key_lists)
def test_key_data(keys: tuple[KeyData, ...]) -> None:
    assert KeyData.read_all(KeyData.write_all(keys)) == keys


@few
@given(strategies.initiator_data)
def test_initiator_data(data: InitiatorData) -> None:
    assert InitiatorData.decode(data.encode()) == data
    assert data.vr_coverage() + data.vr.mac == data.encode()


@few
@given(strategies.ticket_data, strategies.policies(), st.binary(max_size=20))
def test_ticket_data(data: TicketData, ticket_policy: TicketPolicy, initiator_data: bytes) -> None:
    assert TicketData.decode(data.encode()) == data
    ticket = Ticket(ticket_policy, data.encode(), initiator_data)
    length = len(initiator_data).to_bytes(2, "big")
    assert mac_coverage(ticket, data) + data.v.mac + length + initiator_data == ticket.body()


@given(strategies.key_entries)
def test_key_list(entries: tuple[KeyEntry, ...]) -> None:
    assert read_key_list(write_key_list(entries)) == entries


@given(strategies.session_data)
def test_srtp_session_data(data: SrtpSessionData) -> None:
    session = GenericIdSession(1, session_data=data.body(), s=data.roc is not None)
    assert SrtpSessionData.of(session) == data


_u16 = st.integers(0, 0xFFFF)


@given(
    st.builds(
        SrtpPolicy,
        encr_alg=_u16,
        encr_key_len=_u16,
        auth_tag_len=_u16,
        key_derivation_rate=st.integers(0, 2**64 - 1),
        srtp_encryption=st.booleans(),
        prefix_len=_u16,
    ),
    st.integers(0, 255),
)
def test_srtp_policy(srtp: SrtpPolicy, number: int) -> None:
    assert SrtpPolicy.of(srtp.sp(number)) == srtp


# -- bytes from anywhere -----------------------------------------------------------------------------------------------


def exercise(raw: bytes) -> bool:
    """Decode everything in `raw` as a receiver would; whether it is well-formed. Only MikeyError may be raised."""
    try:
        message = Message.decode(raw)
    except DecodeError as error:
        refusal = error
    else:
        assert Message.build(message.hdr, message.payloads).raw == raw
        for update in (False, True):
            _ignoring(partial(check_message, update=update), message, message.hdr.data_type)
        _ignoring(message.coverage)
        _check_nested(message)
        return True
    assert 0 <= refusal.offset <= len(raw)
    assert str(refusal) == f"{refusal.where}: {refusal.reason} (offset {refusal.offset})"
    return False


def _check_nested(message: Message) -> None:
    for session in message.hdr.sessions:
        if isinstance(session, GenericIdSession):
            _ignoring(SrtpSessionData.of, session)
    for payload in message.payloads:
        if isinstance(payload, Tp | Ticket):
            _ignoring(policy.check_granted, payload.policy)
            _ignoring(policy.requested_keys, payload.policy)
        if isinstance(payload, Ticket):
            data = _ignoring(TicketData.decode, payload.ticket_data)
            if data is not None:
                assert data.encode() == payload.ticket_data
                mac_coverage(payload, data)
                _ignoring(read_key_list, data.thdr_data)
            initiator_data = _ignoring(InitiatorData.decode, payload.initiator_data)
            if initiator_data is not None:
                assert initiator_data.encode() == payload.initiator_data
        if isinstance(payload, Kemac):
            _ignoring(KeyData.read_all, payload.encr_data)
        if isinstance(payload, Sp):
            _ignoring(SrtpPolicy.of, payload)


def _ignoring(call: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except MikeyError:
        return None


@given(st.binary(max_size=200))
@example(b"")
def test_any_bytes(raw: bytes) -> None:
    exercise(raw)


@given(st.sampled_from(MESSAGES), st.data())
def test_several_mutations(raw: bytes, data: st.DataObject) -> None:
    mutated = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        new = data.draw(st.binary(max_size=3))
        mutated[at : at + data.draw(st.integers(0, 3))] = new or b"\0"
    exercise(bytes(mutated))


@pytest.mark.parametrize("part", range(8))
def test_every_truncation(part: int) -> None:
    for raw in MESSAGES[part::8]:
        for length in range(len(raw)):
            assert not exercise(raw[:length])


@pytest.mark.parametrize("part", range(8))
def test_every_single_byte_mutation(part: int) -> None:
    for i, raw in enumerate(MESSAGES[part::8]):
        for at in range(len(raw)):
            change = (0x01, 0x80, 0xFF)[(i + at) % 3]
            exercise(raw[:at] + bytes((raw[at] ^ change,)) + raw[at + 1 :])


@pytest.mark.parametrize("raw", MESSAGES[:12])
def test_trailing_bytes(raw: bytes) -> None:
    with pytest.raises(DecodeError, match="1 bytes left over") as caught:
        Message.decode(raw + b"\0")
    assert caught.value.offset == len(raw)


@given(st.binary(max_size=80))
def test_any_bytes_in_blocks(raw: bytes) -> None:
    for decode in (TicketData.decode, InitiatorData.decode, KeyData.read_all, read_key_list):
        block: Any = _ignoring(decode, raw)
        if isinstance(block, TicketData | InitiatorData):
            assert block.encode() == raw
        elif decode == KeyData.read_all and block is not None:
            assert KeyData.write_all(block) == raw
        elif block is not None:
            assert write_key_list(block) == raw


# -- limits ------------------------------------------------------------------------------------------------------------


def nested(depth: int) -> Tp:
    tp = Tp(TicketPolicy(1, 1, 1, 0, Flags(0), ()))
    for _ in range(depth - 1):
        tp = Tp(TicketPolicy(1, 1, 1, 0, Flags(0), (tp,)))
    return tp


def test_blocks_nested_without_end() -> None:
    """TP Data may hold a TP, whose TP Data may hold a TP, ...: that must not exhaust the stack."""
    message = Message.build(HDR, [nested(MAX_DEPTH)])
    assert Message.decode(message.raw) == message
    with pytest.raises(DecodeError, match="nested more than") as caught:
        Message.decode(Message.build(HDR, [nested(MAX_DEPTH + 1)]).raw)
    assert caught.value.where.count("TP Data") == MAX_DEPTH
    assert exercise(Message.build(HDR, [nested(150)]).raw) is False


def test_longest_message() -> None:
    fill = MAX_MESSAGE_LENGTH - len(Message.build(HDR, [Id(0, b""), Id(0, b"")]).raw)
    longest = Message.build(HDR, [Id(0, bytes(fill // 2)), Id(0, bytes(fill - fill // 2))])
    assert Message.decode(longest.raw) == longest
    with pytest.raises(EncodeError, match="limit of 65536"):
        Message.build(HDR, [Id(0, bytes(fill)), Id(0, b"\0")])
    with pytest.raises(DecodeError, match="limit of 65536"):
        Message.decode(longest.raw + b"\0")


def test_message_without_payload() -> None:
    with pytest.raises(EncodeError, match="a payload must follow HDR"):
        Message.build(HDR, [])
    with pytest.raises(DecodeError, match="HDR: Next Payload is 0") as caught:
        Message.decode(HDR.encode(0))
    assert caught.value.offset == 2


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (T(TsType.NTP_UTC, bytes(4)), "TS Value: 4 bytes where 8 are needed"),
        (Tr(2, TsType.NTP_UTC_32, bytes(8)), "TS Value: 8 bytes where 4"),
        (Tr(256, TsType.NTP_UTC_32, bytes(4)), "TS Role: 256 does not fit"),
        (Id(0, bytes(65536)), "ID Data length: 65536 does not fit"),
        (Idr(-1, 0, b""), "ID Role: -1 does not fit"),
        (V(MacAlg.HMAC_SHA_1_160, bytes(32)), "Ver data: 32 bytes where 20"),
        (Rand(bytes(256)), "RAND length: 256 does not fit"),
        (Sp(0, 0, ((256, b""),)), "type: 256 does not fit"),
        (Kemac(0, b"", MacAlg.HMAC_SHA_256_256, b""), "MAC: 0 bytes where 32"),
        (KeyData(KeyType.TGK, b"k", b"salt"), "Salt: a TGK has none"),
        (KeyData(KeyType.TGK, b"k", kv=KeyValidity(spi=b"1")), "KV NULL with the data of another type"),
        (
            KeyData(KeyType.TGK, b"k", kv=KeyValidity(KvType.SPI, valid_to=b"1")),
            "KV SPI with the data of another",
        ),
        (KeyData(KeyType.TGK, b"k", kv=KeyValidity(KvType.INTERVAL, spi=b"1")), "KV INTERVAL with the data"),
        (Pke(bytes(1 << 14)), "Data length: 16384 does not fit in 14 bits"),
        (Pke(b"", 4), "C: 4 does not fit in 2 bits"),
        (Sign(16, b""), "S type: 16 does not fit in 4 bits"),
        (Sign(0, bytes(4096)), "Signature len: 4096 does not fit in 12 bits"),
        (Dh(3, b""), "DH-Group: 3 is unknown"),
        (Dh(2, b""), "DH-value: 0 bytes where 128"),
        (Dh(2, bytes(128), reserved=16), "Reserv: 16 does not fit in 4 bits"),
        (Chash(HashFunc.MD5, bytes(20)), "Hash: 20 bytes where 16"),
        (Err(0, 65536), "Reserved: 65536 does not fit"),
        (Tp(TicketPolicy(1, 1, 1, 128, Flags(0), ())), "PRF Func: 128 does not fit in 7 bits"),
        (Tp(TicketPolicy(1, 1, 1, 0, Flags(1 << 12), ())), "flags: 4096 does not fit in 12 bits"),
        (Tp(TicketPolicy(1, 1, 1, 0, Flags(0), (), 32)), "Res: 32 does not fit in 5 bits"),
        (Tp(TicketPolicy(1, 1, 1, 0, Flags(0), (Sign(0, b""), Err(0)))), "SIGN has no Next Payload"),
    ],
)
def test_what_cannot_be_encoded(broken: Payload, text: str) -> None:
    with pytest.raises(EncodeError, match=text):
        broken.body()


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (Hdr(DataType.ERROR, 1 << 32, 0), "CSB ID: 4294967296 does not fit"),
        (Hdr(DataType.ERROR, 0, 128), "PRF func: 128 does not fit in 7 bits"),
        (Hdr(DataType.ERROR, 0, 0, sessions=(SrtpIdSession(0, 0, 0),)), "not of the map type EMPTY"),
        (
            Hdr(DataType.ERROR, 0, 0, map_type=MapType.GENERIC_ID, sessions=(SrtpIdSession(0, 0, 0),)),
            "GENERIC_ID",
        ),
        (Hdr(DataType.ERROR, 0, 0, map_type=MapType.GENERIC_ID, n_cs=1), "#CS: 1 with 0 sessions"),
        (
            Hdr(
                DataType.ERROR, 0, 0, map_type=MapType.GENERIC_ID, sessions=(GenericIdSession(0, (0,) * 128),)
            ),
            "#P: 128 does not fit in 7 bits",
        ),
        (
            Hdr(DataType.ERROR, 0, 0, map_type=MapType.GENERIC_ID, sessions=(GenericIdSession(0, (256,)),)),
            "Policy_no: 256 does not fit",
        ),
    ],
)
def test_what_hdr_cannot_encode(broken: Hdr, text: str) -> None:
    with pytest.raises(EncodeError, match=text):
        broken.encode(0)


def test_roc_and_seq_go_together() -> None:
    with pytest.raises(EncodeError, match="ROC and SEQ go together"):
        SrtpSessionData(1, roc=1).body()
    with pytest.raises(EncodeError, match="SEQ: 65536"):
        SrtpSessionData(1, 1, 65536).body()


# -- MACs --------------------------------------------------------------------------------------------------------------


def test_initiator_data_is_outside_of_the_mac_of_a_transfer_init_only() -> None:
    ticket = Ticket(TicketPolicy(1, 1, 1, 0, Flags(0), (Id(0, b"x"),)), b"ticket", b"initiator")
    for kind in (DataType.TRANSFER_INIT, DataType.RESOLVE_INIT_PSK):
        message = Message.build(
            Hdr(kind, 1, 0), [Id(1, b"a"), ticket, Id(2, b"b"), unsigned_v(MacAlg.HMAC_SHA_1_160)]
        )
        whole = message.raw[:-20]
        covered = whole.replace(b"\0\x09initiator", b"") if kind == DataType.TRANSFER_INIT else whole
        assert message.coverage(b"i", b"r") == covered + b"ir"


def test_with_mac() -> None:
    message = Message.build(HDR, [unsigned_v(MacAlg.HMAC_SHA_1_160)])
    signed = message.with_mac(b"m" * 20)
    assert Message.decode(signed.raw) == signed
    assert signed.coverage() == message.coverage()
    with pytest.raises(EncodeError, match="Ver data: 32 bytes where 20"):
        message.with_mac(bytes(32))
    with pytest.raises(MikeyError, match="V payload must come last"):
        Message.build(HDR, [Id(0, b"")]).with_mac(bytes(20))


def test_repr_hides_keys() -> None:
    key = KeyData(KeyType.TGK_SALT, b"secret key", b"secret salt")
    plain = Kemac(0, KeyData.write_all([key]))
    assert "secret" not in repr((key, plain, Message.build(HDR, [plain, key])))

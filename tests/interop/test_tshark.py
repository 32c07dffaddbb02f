"""tshark finds nothing malformed in our messages, and its dissectors agree with kms.mikey on every field."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kms.client import Stream
from kms.client.participant import CALL_FLAGS
from kms.engine.v1.link_pb2 import CalledService, Operation
from kms.mikey.errors import MikeyError
from kms.mikey.message import Message
from kms.mikey.payloads import (
    Flags,
    Hdr,
    InitiatorData,
    Ticket,
    TicketPolicy,
    Tp,
    with_spi,
)
from kms.mikey.registry import (
    DataType,
    ErrorNo,
    KeyType,
    TicketType,
)
from kms.mikey.ticket_data import TicketData, write_key_list
from kms.sdk.errors import KmsError
from tests.interop.expected import lines_of, shown
from tests.interop.tshark import SIP_PORT, capture, dissect, invite
from tests.kms.callers import ALICE, BOBBY, participant
from tests.kms.local_kms import LocalKms
from tests.mikey import strategies, vectors

TICKET_TYPES = [d for d in DataType if d >= DataType.ERROR]


def agree(raws: Sequence[bytes], folder: Path) -> None:
    """Dissect all messages in one run of tshark and compare each."""
    frames = dissect(capture(raws), folder)
    assert len(frames) == len(raws)
    for raw, frame in zip(raws, frames, strict=True):
        message = Message.decode(raw)
        try:
            expected = lines_of(message)
        except MikeyError:
            assert frame.marks, f"a malformed block went unnoticed: {message}"
            continue
        assert frame.marks == (), message
        assert shown(frame.fields, expected) == expected


# -- MIKEY-TICKET messages, by our dissector ---------------------------------------------------------------------------


def test_messages_of_the_vectors(tmp_path: Path) -> None:
    raws = vectors.all_messages()
    assert {Message.decode(raw).hdr.data_type for raw in raws} >= set(TICKET_TYPES)
    agree(raws, tmp_path)


class RecordingKms(LocalKms):
    """Keeps every message that goes in or out."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[bytes] = []

    def answer(
        self,
        identity: str,
        service: CalledService.ValueType,
        operation: Operation.ValueType,
        messages: Sequence[bytes],
    ) -> list[bytes | KmsError]:
        """See LocalKms."""
        results = super().answer(identity, service, operation, messages)
        self.seen += [*messages, *(r for r in results if isinstance(r, bytes))]
        return results


def messages_of_calls(folder: Path) -> list[bytes]:
    """Every message of calls with derived tickets: forked, in both suites, with keys from both sides, and refused."""
    kms = RecordingKms(folder)
    alice, bobby = participant(kms, ALICE), participant(kms, BOBBY)
    for flags, suite in ((CALL_FLAGS | Flags.L, 256), (CALL_FLAGS | Flags.L | Flags.J, 128)):
        ticket = alice.request_ticket([BOBBY], flags=flags, suite=suite)
        key = with_spi(KeyType.TEK_SALT, b"k" * 16, b"s" * 14, b"\0\1\2\3")
        offer = alice.offer(ticket, BOBBY, [Stream(1), Stream(2)], keys=[key])
        answer = bobby.answer(offer.message)
        assert answer.message is not None
        session = offer.complete(answer.message)
        update = session.start_update(keys=[with_spi(KeyType.TGK, b"t" * 16, b"", b"new")])
        updated = answer.session.answer_update(update.raw)
        assert updated is not None
        again = alice.offer(alice.request_ticket([BOBBY]), BOBBY).message
        refused = bobby.receive(again).refuse(ErrorNo.INVALID_SPPAR)
        kms.seen += [offer.message, answer.message, update.raw, updated.raw, again, refused]
    return kms.seen


def test_messages_of_calls_with_derived_tickets(tmp_path: Path) -> None:
    raws = messages_of_calls(tmp_path)
    tickets = [t for raw in raws for t in Message.decode(raw).find_all(Ticket)]
    assert {t.policy.ticket_type for t in tickets} == {TicketType.DERIVED}
    agree(raws, tmp_path)


derived = strategies.key_entries.map(write_key_list)
contents = st.builds(replace, strategies.ticket_data, thdr_data=derived | strategies.blob)
tickets = st.builds(
    Ticket,
    st.builds(
        replace,
        strategies.policies(),
        ticket_type=st.sampled_from([TicketType.MIKEY_BASE, TicketType.DERIVED]),
    ),
    contents.map(TicketData.encode) | strategies.blob,
    st.just(b"") | strategies.initiator_data.map(InitiatorData.encode) | strategies.blob,
)
"""Ticket Data of both types, with Initiator Data."""


def with_type(message: Message, data_type: DataType) -> bytes:
    """A message of ours, whatever is in it."""
    return message.raw[:1] + bytes((data_type,)) + message.raw[2:]


any_message = st.builds(with_type, strategies.messages(), st.sampled_from(TICKET_TYPES)) | tickets.map(
    lambda t: Message.build(Hdr(DataType.TRANSFER_INIT, 1, 1), [t]).raw
)


def test_any_message(tmp_path: Path) -> None:
    """Drawn first, then dissected in one run of tshark, which is slow to start: a failure is not shrunk."""
    raws: list[bytes] = []

    @settings(max_examples=400, phases=[Phase.generate], database=None)
    @given(any_message)
    def draw(raw: bytes) -> None:
        raws.append(raw)

    draw()
    agree(raws, tmp_path)


def longest(raws: Sequence[bytes]) -> bytes:
    """The longest TRANSFER_INIT."""
    return max((r for r in raws if r[1] == DataType.TRANSFER_INIT), key=len)


def test_malformed_messages_are_marked_and_crash_nothing(tmp_path: Path) -> None:
    """Every third truncation, and a change at every second byte, of two long messages."""
    for name, raw in {
        "base": longest(vectors.all_messages()),
        "derived": longest(messages_of_calls(tmp_path)),
    }.items():
        folder = tmp_path / name
        folder.mkdir()
        cut = [raw[:length] for length in range(10, len(raw), 3)]
        frames = dissect(capture(cut), folder)
        assert len(frames) == len(cut)
        assert all(f.marks and "mikey_ticket" in f.protocols for f in frames)
        changed = [
            raw[:i] + bytes((raw[i] ^ (1, 0x80, 0xFF)[i % 3],)) + raw[i + 1 :] for i in range(0, len(raw), 2)
        ]
        for message, frame in zip(changed, dissect(capture(changed), folder), strict=True):
            assert not any("Lua" in mark for mark in frame.marks)
            if message[0] == 1 and DataType.ERROR <= message[1] <= DataType.RESOLVE_RESP:
                assert "mikey_ticket" in frame.protocols


def test_a_message_nested_without_end_is_cut_off(tmp_path: Path) -> None:
    tp = Tp(TicketPolicy(1, 1, 1, 0, Flags(0), ()))
    for _ in range(60):
        tp = Tp(TicketPolicy(1, 1, 1, 0, Flags(0), (tp,)))
    raw = Message.build(Hdr(DataType.REQUEST_INIT_PSK, 1, 0), [tp]).raw
    (frame,) = dissect(capture([raw]), tmp_path)
    assert any("nested too deep" in mark for mark in frame.marks)


def test_other_ports_by_decode_as(tmp_path: Path) -> None:
    raw = longest(vectors.all_messages())
    options = ("-d", "udp.port==5555,mikey_ticket")
    (frame,) = dissect(capture([raw], 5555), tmp_path, options=options)
    expected = lines_of(Message.decode(raw))
    assert shown(frame.fields, expected) == expected


def test_sdp_in_sip(tmp_path: Path) -> None:
    """An INVITE that carries a TRANSFER_INIT in a=key-mgmt (RFC 4567)."""
    raw = longest(vectors.all_messages())
    (frame,) = dissect(capture([invite(raw)], SIP_PORT), tmp_path)
    assert {"sip", "sdp"} <= set(frame.protocols)
    assert frame.marks == ()
    expected = lines_of(Message.decode(raw))
    assert shown(frame.fields, expected) == expected

"""The KMSs of an exchange: the vector's KMS, and KMS R, which forwards tickets to it (RFC 6043 10)."""

from pathlib import Path
from tempfile import TemporaryDirectory

from kms.cli.vectors.entries import BrokenVector
from kms.cli.vectors.kms_role import REQUESTS, RESOLVES, KmsRefused, VectorKms
from kms.cli.vectors.report import Mismatch, equal_messages
from kms.cli.vectors.setting import Setting
from kms.cli.vectors.steps import Step
from kms.engine.v1.link_pb2 import PeerAnswer, Refusal
from kms.mikey import policy as rules
from kms.mikey.payloads import T, Ticket
from kms.mikey.registry import DataType, RandRole

_TO_KMS = (*REQUESTS, *RESOLVES)
_FROM_KMS = (DataType.REQUEST_RESP, DataType.RESOLVE_RESP, DataType.ERROR)


def forwarded(setting: Setting, steps: list[Step]) -> set[int]:
    """The CSB IDs of the Ticket Resolve exchanges between KMS R and the KMS of the ticket."""
    return {s.csb_id for s in steps if s.kind in RESOLVES and setting.is_forwarded(s.message)}


def play_kms(setting: Setting, steps: list[Step]) -> None:
    """Play the KMS: every answer is byte-equal. A message without an answer in the vector must be answered at all."""
    with TemporaryDirectory() as folder:
        kms = VectorKms(setting, Path(folder), groups=groups_of(setting, steps))
        try:
            for step in steps:
                if to_kms(setting, step):
                    _answer(kms, step, _answer_to(step, steps))
        finally:
            kms.close()


def play_kms_r(setting: Setting, steps: list[Step]) -> None:
    """Play KMS R: what it asks of the KMS and what it answers are byte-equal."""
    assert setting.kms_r is not None
    with TemporaryDirectory() as folder:
        kms_r = VectorKms(setting.kms_r, Path(folder))
        try:
            for step in steps:
                if to_kms_r(setting, step):
                    peer_answer = _forward(kms_r, setting, step, steps)
                    _answer(kms_r, step, _answer_to(step, steps), peer_answer)
        finally:
            kms_r.close()


def to_kms(setting: Setting, step: Step) -> bool:
    """Whether this was sent to the vector's KMS, by a subscriber or by KMS R."""
    return step.kind in _TO_KMS and not to_kms_r(setting, step)


def to_kms_r(setting: Setting, step: Step) -> bool:
    """Whether a subscriber of KMS R sent this to it."""
    if setting.kms_r is None or step.kind not in _TO_KMS or setting.is_forwarded(step.message):
        return False
    return setting.sender(step.message) in setting.kms_r.psks


def _forward(kms_r: VectorKms, setting: Setting, step: Step, steps: list[Step]) -> PeerAnswer | None:
    """Compare what KMS R asks about the ticket of `step`; the vector's answer to it. None if it asks nothing."""
    later = (
        s for s in steps if s.index > step.index and s.kind in RESOLVES and setting.is_forwarded(s.message)
    )
    asked = next((s for s in later if s.message.find(Ticket) == step.message.find(Ticket)), None)
    if asked is None:
        return None
    kms_r.sources.clear()
    kms_r.sources.put("CSB ID", asked.csb_id.to_bytes(4, "big"))
    kms_r.sources.put("RANDRr", asked.message.rand(RandRole.RESPONDER) or b"")
    kms_r.sources.put_timestamp(asked.message.get(T))
    equal_messages(asked.where, asked.message.raw, kms_r.forward(step.message.raw, asked.time))
    answer = _answer_to(asked, steps)
    if answer is None:
        raise BrokenVector(f"{asked.where} has no answer in the vector")
    if answer.kind == DataType.ERROR:
        return PeerAnswer(asked=asked.message.raw, refusal=Refusal(mikey_error_message=answer.message.raw))
    return PeerAnswer(asked=asked.message.raw, mikey_message=answer.message.raw)


def _answer_to(step: Step, steps: list[Step]) -> Step | None:
    later = (s for s in steps if s.index > step.index and s.csb_id == step.csb_id and s.kind in _FROM_KMS)
    return next(later, None)


def _answer(kms: VectorKms, step: Step, answer: Step | None, peer_answer: PeerAnswer | None = None) -> None:
    kms.sources.clock = step.time
    if answer is None:
        kms.sources.clear()
        kms.answer(step.message.raw, step.time, peer_answer)
    elif answer.kind == DataType.ERROR:
        kms.sources.clear()
        kms.sources.put_timestamp(answer.message.get(T))
        try:
            kms.answer(step.message.raw, step.time, peer_answer)
        except KmsRefused as refused:
            equal_messages(answer.where, answer.message.raw, refused.answer)
            return
        raise Mismatch(f"{step.where} was answered, but the vector has an Error message")
    else:
        kms.expect(step.message, answer.message)
        made = kms.answer(step.message.raw, step.time, peer_answer)
        equal_messages(answer.where, answer.message.raw, made)


def groups_of(setting: Setting, steps: list[Step]) -> dict[bytes, frozenset[bytes]]:
    """The groups that a vector's KMS must have had: who was answered, is in the group that the ticket is for (A-34)."""
    found: dict[bytes, frozenset[bytes]] = {}
    for step in steps:
        answer = _answer_to(step, steps) if step.kind in RESOLVES else None
        ticket, resolver = step.message.find(Ticket), setting.sender(step.message)
        if answer is None or answer.kind != DataType.RESOLVE_RESP or ticket is None or resolver is None:
            continue
        named = rules.responders(ticket.policy)
        group = next((n for n in named if n not in setting.subscribers), None)
        if resolver not in named and group is not None:
            found[group] = found.get(group, frozenset()) | {resolver}
    return found

"""Negatives: one bad message each, which its receiver must refuse after the messages before it were accepted."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from kms.cli.vectors.entries import BrokenVector, Json, octets, optional, text
from kms.cli.vectors.initiator_role import InitiatorRole
from kms.cli.vectors.kms_playing import groups_of
from kms.cli.vectors.kms_role import REQUESTS, RESOLVES, VectorKms
from kms.cli.vectors.party_role import PartyRole, acceptance_of
from kms.cli.vectors.report import Mismatch, Result, Verdict, judge
from kms.cli.vectors.responder_role import ResponderRole
from kms.cli.vectors.setting import Setting, read_setting
from kms.cli.vectors.steps import Step, read_steps
from kms.mikey import policy as rules
from kms.mikey.errors import MikeyError, ReceivedError
from kms.mikey.exchange import check_message
from kms.mikey.message import Message
from kms.mikey.payloads import InitiatorData, Ticket, Tp
from kms.mikey.ticket_data import BASE_TICKET, DERIVED_TICKET, TicketData

_KIND = "negative"


def check_negatives(entries: list[Json]) -> Iterator[Result]:
    """`negatives`: refused as expected, or fail."""
    for i, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry.get("name"), str) else f"negatives[{i}]"
        yield _check(str(name), entry)


def _check(name: str, entry: Json) -> Result:
    target = entry.get("target") if isinstance(entry.get("target"), str) else "?"
    refusals: list[MikeyError] = []
    result = judge(_KIND, name, str(target), lambda: _play(entry, refusals.append))
    if not refusals or result.verdict is Verdict.FAIL:
        return result
    refused, expected = refusals[0], optional(entry, "expected", dict, {}).get("error_no")
    detail = f"Error no {int(refused.error_no)}: {refused}"
    if isinstance(expected, int) and expected != refused.error_no:
        detail += f" (the vector says {expected}; which number is not normative, A-20)"
    return Result(_KIND, name, str(target), Verdict.REFUSED, detail)


def _play(entry: Json, refused: Callable[[MikeyError], None]) -> None:
    """Deliver `bad`; the refusal goes to `refused`. Raises Mismatch if it is accepted, BrokenVector for the rest."""
    bad, target = octets(entry, "bad"), text(entry, "target")
    config = optional(entry, "config", dict, None)
    clock = optional(entry, "clock_unix", (int, float), None)
    if target == "any" or config is None:
        deliver: Callable[[], None] = lambda: _read(bad)  # noqa: E731 - one of several ways to deliver it
        _attempt(entry, deliver, refused)
        return
    setting = read_setting(config if clock is None else {**config, "clock_unix": clock})
    if setting.kms_r is not None:
        raise BrokenVector("config.kms_r: only exchanges are played with two KMSs")
    steps = read_steps(optional(entry, "context", list, []), setting.clock)
    with TemporaryDirectory() as folder:
        kms = VectorKms(setting, Path(folder), groups=groups_of(setting, steps))
        try:
            _attempt(entry, _delivery(target, bad, setting, steps, kms), refused)
        finally:
            kms.close()


def _attempt(entry: Json, deliver: Callable[[], None], refused: Callable[[MikeyError], None]) -> None:
    try:
        deliver()
    except MikeyError as error:
        refused(error)
        if _wanted(entry) == "accept":
            raise Mismatch(f"refused, but the vector says it must be accepted: {error}") from None
        return
    if _wanted(entry) != "accept":
        certain = (
            "every correct receiver refuses it"
            if optional(entry, "expected", dict, {}).get("certain")
            else ""
        )
        rule = entry.get("rule") if isinstance(entry.get("rule"), str) else "no rule given"
        raise Mismatch(f"accepted; it breaks: {rule}{f' ({certain})' if certain else ''}")


def _wanted(entry: Json) -> str:
    return str(optional(entry, "expected", dict, {}).get("outcome", "reject"))


def _delivery(
    target: str, bad: bytes, setting: Setting, steps: list[Step], kms: VectorKms
) -> Callable[[], None]:
    """Play the context; how the target then gets `bad`. Raises BrokenVector for a context that does not go through."""
    if target.startswith("KMS"):
        _play_context(lambda: _to_kms(kms, steps))
        return lambda: _give(kms.answer(bad, setting.clock))
    acceptance = acceptance_of(step.message for step in steps)
    if target.startswith("Initiator"):
        initiator = InitiatorRole(setting, acceptance)
        _play_context(lambda: _to_party(initiator, steps))
        return lambda: initiator.receive(bad, setting.clock)
    if target.startswith("Responder"):
        responder = ResponderRole(setting, acceptance)
        _play_context(lambda: _to_party(responder, steps))
        return lambda: responder.receive(bad, setting.clock, lambda raw: kms.answer(raw, setting.clock))
    raise BrokenVector(f"the target {target} is none of KMS, Initiator, Responder and any")


def _give(_answer: bytes) -> None:
    """The KMS answered."""


def _play_context(play: Callable[[], None]) -> None:
    try:
        play()
    except (ReceivedError, MikeyError, Mismatch) as error:
        raise BrokenVector(f"its context does not go through: {error}") from None


def _to_kms(kms: VectorKms, steps: list[Step]) -> None:
    """Messages to the KMS, as they come before: a replay is one because the first copy was answered."""
    for step in steps:
        if step.kind in REQUESTS or step.kind in RESOLVES:
            kms.answer(step.message.raw, step.time)


def _to_party(player: PartyRole, steps: list[Step]) -> None:
    for step in steps:
        player.on(step)


def _read(bad: bytes) -> None:
    """What anybody can refuse without a key: the form of the message and of what is inside it."""
    message = Message.decode(bad)
    check_message(message, message.hdr.data_type)
    for payload in message.payloads:
        if isinstance(payload, Tp):
            rules.check(payload.policy)
            rules.requested_keys(payload.policy)
        elif isinstance(payload, Ticket):
            rules.check_granted(payload.policy)
            kind = (payload.policy.ticket_type, payload.policy.subtype, payload.policy.version)
            if kind in (BASE_TICKET, DERIVED_TICKET):
                TicketData.decode(payload.ticket_data)
            if payload.initiator_data:
                InitiatorData.decode(payload.initiator_data)

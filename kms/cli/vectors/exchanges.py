"""Whole exchanges: every message by the codec, every derivation, and every role played by the real code."""

from collections.abc import Iterator
from typing import Any

from kms.cli.vectors import forms
from kms.cli.vectors.entries import BrokenVector, Json, number, objects, octets, optional, text
from kms.cli.vectors.initiator_role import InitiatorRole
from kms.cli.vectors.kms_playing import forwarded, play_kms, play_kms_r, to_kms, to_kms_r
from kms.cli.vectors.kms_role import REQUESTS, RESOLVES
from kms.cli.vectors.party_role import PartyRole, acceptance_of
from kms.cli.vectors.primitives import derive, own
from kms.cli.vectors.report import Mismatch, Result, Verdict, equal, equal_forms, equal_messages, judge
from kms.cli.vectors.responder_role import ResponderRole
from kms.cli.vectors.setting import Setting, read_setting
from kms.cli.vectors.steps import Step, read_steps
from kms.mikey.exchange import Role
from kms.mikey.registry import DataType
from kms.party.session import Session

_INITIATORS = (*REQUESTS, DataType.REQUEST_RESP, DataType.TRANSFER_INIT, DataType.TRANSFER_RESP)
_RESPONDERS = (*RESOLVES, DataType.RESOLVE_RESP, DataType.TRANSFER_INIT, DataType.TRANSFER_RESP)


def check_exchanges(entries: list[Json]) -> Iterator[Result]:
    """`exchanges`: one result for the codec, the derivations and each role that has a message."""
    for i, entry in enumerate(entries):
        name = entry.get("name") if isinstance(entry.get("name"), str) else f"exchanges[{i}]"
        yield from _check(str(name), entry)


def _check(name: str, entry: Json) -> Iterator[Result]:
    yield judge("exchange", name, "codec", lambda: _codec(entry))
    if "prf_calls" in entry or "own_calls" in entry:
        yield judge("exchange", name, "derivations", lambda: _calls(entry))
    found: list[tuple[Setting, list[Step]]] = []

    def read() -> None:
        setting = read_setting(optional(entry, "config", dict, {}))
        found.append((setting, read_steps(objects(entry, "messages"), setting.clock)))

    result = judge("exchange", name, "all roles", read)
    if result.verdict is Verdict.FAIL:
        yield result
        return
    setting, steps = found[0]
    between = forwarded(setting, steps)
    of_parties = [step for step in steps if step.csb_id not in between]
    kinds = {step.kind for step in of_parties}
    if kinds.intersection(_INITIATORS):
        yield judge(
            "exchange", name, "Initiator", lambda: play_party(InitiatorRole, setting, of_parties, entry)
        )
    if kinds.intersection(_RESPONDERS):
        yield judge(
            "exchange", name, "Responder", lambda: play_party(ResponderRole, setting, of_parties, entry)
        )
    if any(to_kms(setting, step) for step in steps):
        yield judge("exchange", name, "KMS", lambda: play_kms(setting, steps))
    if any(to_kms_r(setting, step) for step in steps):
        yield judge("exchange", name, "KMS R", lambda: play_kms_r(setting, steps))


# -- messages and derivations ------------------------------------------------------------------------------------------


def _codec(entry: Json) -> None:
    """Every message decodes to the fields that the vector gives, if it does, and these encode to its bytes."""
    for step, form in zip(read_steps(objects(entry, "messages"), 0), objects(entry, "messages"), strict=True):
        decoded = forms.describe_message(step.message)
        if "decoded" in form:
            equal_forms(step.where, form["decoded"], decoded)
            decoded = form["decoded"]
        equal_messages(f"{step.where}, encoded", step.message.raw, forms.build_message(decoded).raw)


def _calls(entry: Json) -> None:
    """`prf_calls` and `own_calls`: every derivation on the way."""
    for i, call in enumerate(optional(entry, "prf_calls", list, [])):
        outkey = octets(call, "outkey")
        bits = 8 * len(outkey)
        if optional(call, "outkey_bits", int, bits) != bits:
            raise BrokenVector(f"prf_calls[{i}]: outkey_bits is {call['outkey_bits']}, but outkey has {bits}")
        inkey, label = octets(call, "inkey"), octets(call, "label")
        equal(f"prf_calls[{i}].outkey", outkey, derive(inkey, number(call, "prf"), label, len(outkey)))
    for i, call in enumerate(optional(entry, "own_calls", list, [])):
        outkey = octets(call, "outkey")
        equal(
            f"own_calls[{i}].outkey", outkey, own(octets(call, "aes_key"), octets(call, "label"), len(outkey))
        )


# -- the parties -------------------------------------------------------------------------------------------------------


def play_party(kind: type[PartyRole], setting: Setting, steps: list[Step], entry: Json) -> None:
    """Play one role: what it sends is byte-equal, what it receives is accepted, and its sessions are the vector's."""
    player = kind(setting, acceptance_of(step.message for step in steps))
    player.play(steps)
    letter = "I" if player.role is Role.INITIATOR else "R"
    left = list(player.established)
    for i, expected in enumerate(objects(entry, "sessions") if "sessions" in entry else []):
        if text(expected, "role", f"sessions[{i}]")[:1].upper() == letter:
            left.remove(_same_session(f"sessions[{i}]", expected, left))
    if left and "sessions" in entry:
        raise Mismatch(
            f"a session of the bundle {left[0].static.csb_id:#x} was established, which the vector lacks"
        )


def _same_session(where: str, expected: Json, established: list[Session]) -> Session:
    csb_id = number(expected, "csb_id", where)
    candidates = [s for s in established if s.static.csb_id == csb_id]
    if not candidates:
        raise Mismatch(f"{where}: no session of the bundle {csb_id:#x} was established")
    session = candidates[0]
    got = describe_session(session)
    for name in expected:
        if name == "flags":
            equal(f"{where}.flags", "".join(sorted(text(expected, name))), "".join(sorted(got[name])))
        elif name in got:
            equal_forms(f"{where}.{name}", expected[name], got[name])
    return session


def describe_session(session: Session) -> Json:
    """A session in the form of `sessions`."""
    static = session.static
    srtp: dict[str, Any] = {
        str(k.cs_id): {"tek": k.master_key.hex(), "salt": k.master_salt.hex()} for k in session.srtp
    }
    return {
        "role": "I" if static.role is Role.INITIATOR else "R",
        "csb_id": static.csb_id,
        "flags": static.flags.letters,
        "randi": static.randr_i.hex(),
        "randr": static.randr_r.hex(),
        "identity_i": static.identity_i.hex(),
        "identity_r": static.identity_r.hex(),
        "keys": [forms.describe(key) for key in session.keys],
        "srtp": srtp,
    }

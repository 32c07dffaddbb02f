"""The protocol as a model: no claim falls with the defaults, and each rule that is switched off lets its attack in."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache

import pytest

from tests.model import scenarios
from tests.model.claims import Claim
from tests.model.protocol import Protections
from tests.model.search import Result, Scenario, search
from tests.model.terms import Knowledge, enc, fresh, mac, make, name, prf

Make = Callable[[Protections], Scenario]

CLAIMED = {c for c in Claim if c is not Claim.ALL_SECRET}

NOT_IN_RFC_6043 = (
    "reuse_by_sole_recipient_only",
    "same_initiator",
    "responder_is_addressee",
    "initiator_made_names_tpk_owner",
    "initiator_tpk_for_d0_only",
    "responder_tpk_for_its_owner_only",
    "responder_tpk_without_forking",
)


def off(*switches: str) -> Protections:
    """The defaults without some rules."""
    return Protections(**dict.fromkeys(switches, False))


# -- the defaults ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extent:
    """What a search covers (docs/model.md), so that finding nothing means something.

    `refused` counts attempts of the attacker at the KMS. `corrupt_recipient`: an honest party's ticket names C.
    """

    scenario: Make
    states: int
    refused: int
    corrupt_recipient: bool


EXTENTS = [
    Extent(scenarios.several_recipients, 5049, 61, corrupt_recipient=True),
    Extent(scenarios.sole_recipient, 996, 35, corrupt_recipient=False),
    Extent(scenarios.group, 1368, 67, corrupt_recipient=True),
    Extent(scenarios.group_outsider, 1346, 68, corrupt_recipient=False),
    Extent(scenarios.conference, 243, 58, corrupt_recipient=False),
    Extent(scenarios.mode_3, 2016, 267, corrupt_recipient=True),
    Extent(scenarios.mode_2, 884, 140, corrupt_recipient=False),
]


@cache
def with_defaults(scenario: Make) -> Result:
    """The whole search of a scenario with every rule on."""
    return search(scenario(Protections()))


@pytest.mark.parametrize("extent", EXTENTS, ids=lambda e: e.scenario.__name__)
def test_no_claim_falls_with_the_defaults(extent: Extent) -> None:
    """And what RFC 6043 12.2 leaves readable by all recipients is read, wherever one of them is corrupt."""
    result = with_defaults(extent.scenario)
    assert set(result.attacks) == ({Claim.ALL_SECRET} if extent.corrupt_recipient else set())
    assert (result.states, len(result.refused)) == (extent.states, extent.refused)


@pytest.mark.parametrize("extent", EXTENTS, ids=lambda e: e.scenario.__name__)
def test_honest_parties_get_through(extent: Extent) -> None:
    """Every call can be completed, but those that the KMS has to refuse: no claim holds because nothing happens."""
    scenario = extent.scenario(Protections())
    sessions = {f"{plan.me}, call {n + 1}" for n, plan in enumerate(scenario.plans) if plan.tpk != "TPK(C)"}
    assert sessions <= with_defaults(extent.scenario).completed


def test_a_sole_recipient_needs_no_forking() -> None:
    """RFC 6043 12.2 is about several recipients: without any other, nothing falls."""
    for scenario in (scenarios.sole_recipient, scenarios.group_outsider, scenarios.conference):
        assert not search(scenario(off("key_forking"))).attacks


def test_a_search_takes_the_same_course_each_time() -> None:
    rules = off("kms_checks_initiator_data")
    first, second = (search(scenarios.mode_3(rules), Claim.SENDER) for _ in range(2))
    assert (first.states, first.attacks) == (second.states, second.attacks)


# -- the attacks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """A claim that falls without some rules, and the essential steps of how, in their order."""

    without: tuple[str, ...]
    claim: Claim
    scenario: Make
    steps: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'+'.join(self.without)}-{self.claim.name}-{self.scenario.__name__}"


FORGED = "attacker -> B: TRANSFER_INIT IDRi=A IDRr=B RAND(attacker)"
ACCEPTED = "B accepts, sends TRANSFER_RESP"
C_RESOLVES = "C -> KMS: RESOLVE_INIT IDRr=C TICKET[IDRi=A"

ATTACKS = [
    # Without key forking every recipient has all keys: it poses as the Initiator, poses as the Responder, listens.
    Attack(
        ("key_forking",),
        Claim.SENDER,
        scenarios.several_recipients,
        (C_RESOLVES, f"{FORGED} TICKET[IDRi=A", ACCEPTED),
    ),
    Attack(
        ("key_forking",),
        Claim.RECEIVER,
        scenarios.several_recipients,
        (C_RESOLVES, "A sends TRANSFER_INIT", "attacker -> A: TRANSFER_RESP IDRr=B RAND(attacker)"),
    ),
    Attack(
        ("key_forking",),
        Claim.FORKED_SECRET,
        scenarios.group,
        (C_RESOLVES, "A -> B: TRANSFER_INIT", ACCEPTED),
    ),
    Attack(
        ("key_forking",),
        Claim.AGREEMENT,
        scenarios.several_recipients,
        (C_RESOLVES, "attacker -> A: TRANSFER_RESP IDRr=B RAND(attacker)", "A -> B: TRANSFER_INIT", ACCEPTED),
    ),
    # Initiator Data: Vr, and that Vi binds it to this TRANSFER_INIT.
    Attack(
        ("kms_checks_initiator_data",),
        Claim.SENDER,
        scenarios.several_recipients,
        (C_RESOLVES, f"{FORGED} TICKET[IDRi=A IDRr=B,C,D DEIJ] Vr=garbage", ACCEPTED),
    ),
    Attack(
        ("kms_checks_initiator_data",),
        Claim.SENDER,
        scenarios.mode_3,
        (
            "C -> KMS: RESOLVE_INIT IDRr=C TICKET[IDRi=F",
            "attacker -> B: TRANSFER_INIT IDRi=F IDRr=B",
            ACCEPTED,
        ),
    ),
    Attack(
        ("responder_compares_vi",),
        Claim.SENDER,
        scenarios.several_recipients,
        ("A sends TRANSFER_INIT", f"{FORGED} TICKET[IDRi=A IDRr=B,C,D DEIJ] Vr=genuine", ACCEPTED),
    ),
    # Cached reuse: nobody verifies Vr. A group is several recipients, even if it is the only name in the ticket.
    Attack(
        ("reuse_by_sole_recipient_only",),
        Claim.SENDER,
        scenarios.several_recipients,
        (
            "A -> B: TRANSFER_INIT",
            ACCEPTED,
            f"{FORGED} TICKET[IDRi=A IDRr=B,C,D",
            "B accepts without the KMS",
        ),
    ),
    Attack(
        ("reuse_by_sole_recipient_only",),
        Claim.SENDER,
        scenarios.group,
        (
            C_RESOLVES,
            ACCEPTED,
            "attacker -> B: TRANSFER_INIT IDRi=A IDRr=G RAND(attacker)",
            "B accepts without the KMS",
        ),
    ),
    # Names in TRANSFER_INIT.
    Attack(
        ("same_initiator",),
        Claim.SENDER,
        scenarios.sole_recipient,
        ("granted TICKET[IDRi=C IDRr=B DEIJ]", f"{FORGED} TICKET[IDRi=C IDRr=B DEIJ] Vr=genuine", ACCEPTED),
    ),
    Attack(
        ("responder_is_addressee",),
        Claim.SENDER,
        scenarios.several_recipients,
        ("A -> D: TRANSFER_INIT IDRi=A IDRr=B", "D accepts, sends TRANSFER_RESP IDRr=D"),
    ),
    Attack(
        ("transfer_replay_cache",),
        Claim.FRESH,
        scenarios.sole_recipient,
        ("B: TRANSFER_INIT", ACCEPTED, "B: TRANSFER_INIT", "B accepts without the KMS"),
    ),
    Attack(
        ("transfer_replay_cache",),
        Claim.AGREEMENT,
        scenarios.sole_recipient,
        (
            "A -> B: TRANSFER_INIT",
            "RANDRr(B, answer 1)",
            "A -> B: TRANSFER_INIT",
            "B accepts without the KMS",
        ),
    ),
    # Identities at the KMS.
    Attack(
        ("kms_authenticates_idri",),
        Claim.SENDER,
        scenarios.sole_recipient,
        (
            "C -> KMS: REQUEST_INIT; granted TICKET[IDRi=A IDRr=B",
            f"{FORGED} TICKET[IDRi=A IDRr=B DEIJ]",
            ACCEPTED,
        ),
    ),
    Attack(
        ("kms_authenticates_idrr",),
        Claim.RECEIVER,
        scenarios.conference,
        ("C -> KMS: RESOLVE_INIT IDRr=F TICKET[IDRi=A IDRr=F", "attacker -> A: TRANSFER_RESP IDRr=F"),
    ),
    Attack(
        ("kms_authenticates_idrr",),
        Claim.NOT_NAMED,
        scenarios.group_outsider,
        ("C -> KMS: RESOLVE_INIT IDRr=B TICKET[IDRi=A IDRr=G",),
    ),
    Attack(("ticket_names_responder",), Claim.NOT_NAMED, scenarios.group_outsider, (f"{C_RESOLVES} IDRr=G",)),
    Attack(
        ("ticket_names_responder",),
        Claim.RECEIVER,
        scenarios.conference,
        (f"{C_RESOLVES} IDRr=F", "attacker -> A: TRANSFER_RESP IDRr=C"),
    ),
    # TPKs shared with an Initiator (mode 3): its owner may make tickets in its own name only, and none "by the KMS".
    Attack(
        ("initiator_made_names_tpk_owner",),
        Claim.SENDER,
        scenarios.mode_3,
        (
            "C makes TICKET[IDRi=A IDRr=B EIJ under TPK(C)]",
            f"{FORGED} TICKET[IDRi=A IDRr=B EIJ under TPK(C)]",
            ACCEPTED,
        ),
    ),
    Attack(
        ("initiator_tpk_for_d0_only",),
        Claim.SENDER,
        scenarios.mode_3,
        (
            "C makes TICKET[IDRi=A IDRr=B DEIJ under TPK(C)]",
            f"{FORGED} TICKET[IDRi=A IDRr=B DEIJ under TPK(C)]",
        ),
    ),
    # TPKs shared with a Responder (mode 2): its owner can make tickets too, and knows MPKr and TGK of all under it.
    Attack(
        ("responder_tpk_for_its_owner_only",),
        Claim.SENDER,
        scenarios.mode_2,
        (
            "C makes TICKET[IDRi=A IDRr=B DEIJ under TPK(C)]",
            f"{FORGED} TICKET[IDRi=A IDRr=B DEIJ under TPK(C)]",
        ),
    ),
    Attack(
        ("responder_tpk_without_forking",),
        Claim.RECEIVER,
        scenarios.mode_2,
        ("A sends TRANSFER_INIT IDRi=A IDRr=B", "attacker -> A: TRANSFER_RESP IDRr=B RAND(attacker)"),
    ),
    Attack(
        ("responder_tpk_without_forking", "responder_tpk_for_its_owner_only"),
        Claim.FORKED_SECRET,
        scenarios.mode_2,
        ("A -> B: TRANSFER_INIT IDRi=A IDRr=B", "under TPK(C)", ACCEPTED),
    ),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_the_attack_is_found_without_the_rule(attack: Attack) -> None:
    trace = search(attack.scenario(off(*attack.without)), attack.claim).attacks[attack.claim]
    text = "\n".join(trace)
    print(text)
    at = 0
    for step in attack.steps:
        assert step in text[at:], f"no {step!r} at its place in\n{text}"
        at = text.index(step, at) + len(step)


def test_every_rule_has_an_attack() -> None:
    alone = {attack.without[0] for attack in ATTACKS if len(attack.without) == 1}
    assert alone == {f.name for f in fields(Protections)}


@pytest.mark.parametrize(
    ("scenario", "open_claims"),
    [
        (scenarios.several_recipients, {Claim.SENDER}),
        (scenarios.mode_3, {Claim.SENDER}),
        (scenarios.mode_2, {Claim.SENDER, Claim.RECEIVER}),
    ],
    ids=lambda p: getattr(p, "__name__", ""),
)
def test_what_rfc_6043_leaves_open(scenario: Make, open_claims: set[Claim]) -> None:
    """With key forking and every check that the RFC asks for, but none of the rules that it lacks."""
    for claim in open_claims:
        assert claim in search(scenario(off(*NOT_IN_RFC_6043)), claim).attacks


# -- the algebra -------------------------------------------------------------------------------------------------------


def test_what_the_attacker_can_derive() -> None:
    key, other, secret = (fresh(k, "test") for k in ("key", "other", "secret"))
    kemac = enc(prf(key, "encr_key"), secret)
    saw = Knowledge().learn([make("RESOLVE_RESP", kemac, name("B"), other, mac(key, secret))])
    assert saw.derives(other)
    assert saw.derives(kemac)
    assert not any(map(saw.derives, (secret, key, prf(key, "encr_key"), mac(key, other))))
    assert saw.learn([prf(key, "encr_key")]).derives(secret)
    assert not saw.learn([prf(key, "encr_key")]).derives(key)
    assert saw.learn([key]).derives(mac(prf(key, name("label")), secret, other))

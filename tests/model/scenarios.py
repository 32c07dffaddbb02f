"""The scenarios that are searched. A, B and D are honest subscribers, F is an honest conference focus; C is corrupt."""

from tests.model.parties import Plan
from tests.model.protocol import Protections, Tpk, World, policy
from tests.model.search import Scenario


def _flags(rules: Protections) -> str:
    return "DEIJ" if rules.key_forking else "DEJ"


def several_recipients(rules: Protections) -> Scenario:
    """A's ticket names B, C and D. A calls B twice with it; the network decides who gets the calls."""
    world = World(("A", "B", "D"), ("C",), protections=rules)
    wanted = policy(_flags(rules), "A", "B", "C", "D")
    return Scenario(world, (Plan("A", "B", wanted), Plan("A", "B", wanted, reuse_of=0)), ("B", "B", "D"))


def sole_recipient(rules: Protections) -> Scenario:
    """A calls B twice with a ticket for B alone, B calls A; C is a subscriber whom no ticket names."""
    world = World(("A", "B"), ("C",), protections=rules)
    wanted = policy(_flags(rules), "A", "B")
    back = Plan("B", "A", policy(_flags(rules), "B", "A"))
    return Scenario(
        world, (Plan("A", "B", wanted), Plan("A", "B", wanted, reuse_of=0), back), ("B", "B", "A")
    )


def group(rules: Protections) -> Scenario:
    """A calls the group G of B, C and D."""
    world = World(("A", "B", "D"), ("C",), {"G": ("B", "C", "D")}, protections=rules)
    return Scenario(world, (Plan("A", "G", policy(_flags(rules), "A", "G")),), ("B", "B", "D"))


def group_outsider(rules: Protections) -> Scenario:
    """A calls the group G of B and D, which C is not in."""
    world = World(("A", "B", "D"), ("C",), {"G": ("B", "D")}, protections=rules)
    wanted = policy(_flags(rules), "A", "G")
    return Scenario(world, (Plan("A", "G", wanted), Plan("A", "G", wanted, reuse_of=0)), ("B", "B", "D"))


def conference(rules: Protections) -> Scenario:
    """A and B call the focus F, each with a ticket of its own, and so may C. F answers with keys in its KEMAC."""
    world = World(("A", "B", "F"), ("C",), protections=rules)
    plans = tuple(Plan(i, "F", policy(_flags(rules), i, "F")) for i in ("A", "B"))
    return Scenario(world, plans, ("F", "F", "F"))


def mode_3(rules: Protections) -> Scenario:
    """F makes tickets itself, with a TPK that it shares with the KMS, and calls B with one for B and C. So can C."""
    tpks = {"TPK(F)": Tpk("F", "initiator"), "TPK(C)": Tpk("C", "initiator")}
    world = World(("A", "B", "F"), ("C",), tpks=tpks, protections=rules)
    made = policy(_flags(rules).replace("D", ""), "F", "B", "C")
    calls = Plan("F", "B", made, "TPK(F)"), Plan("A", "B", policy(_flags(rules), "A", "B"))
    return Scenario(world, calls, ("B", "B"))


def mode_2(rules: Protections) -> Scenario:
    """B and C each share a TPK with the KMS. A calls B with a ticket that B opens alone (E = I = 0), and asks for one
    for B and C under C's TPK, with the flags that a KMS must refuse there."""
    tpks = {"TPK(B)": Tpk("B", "responder"), "TPK(C)": Tpk("C", "responder")}
    world = World(("A", "B"), ("C",), tpks=tpks, protections=rules)
    alone = policy("DJ", "A", "B")
    both = policy("DEIJ", "A", "B", "C")
    calls = Plan("A", "B", alone, "TPK(B)"), Plan("A", "B", alone, "TPK(B)", reuse_of=0)
    return Scenario(world, (*calls, Plan("A", "B", both, "TPK(C)")), ("B", "B"))


ALL = (several_recipients, sole_recipient, group, group_outsider, conference, mode_3, mode_2)

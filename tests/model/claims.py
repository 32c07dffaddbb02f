"""What every reachable state must keep: what the 3GPP contribution and RFC 6043 claim of MIKEY-TICKET."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from tests.model.parties import Initiator, Responder
from tests.model.protocol import KMS_TPK, World, psk, supplied_key, tpk
from tests.model.terms import NONE, Knowledge, Term, name


class Claim(Enum):
    """A and B are any honest parties, each in any of its sessions. Corrupt parties share all they know."""

    SENDER = "if B accepts a TRANSFER_INIT as from A, A requested its ticket and sent this TRANSFER_INIT to B"
    RECEIVER = "if A accepts a TRANSFER_RESP as from B, the ticket names B, and B resolved it and sent this"
    FORKED_SECRET = "MPKr', the TEK from TGK' and the key in B's KEMAC are known to A and B only"
    AGREEMENT = "if A and B have finished the same Ticket Transfer, they hold the same keys"
    NOT_NAMED = (
        "only A and parties that A's ticket names know its keys; nobody knows long-term keys of others"
    )
    FRESH = "B accepts no TRANSFER_INIT twice"
    ALL_SECRET = "MPKi, TEK, GTGK and the key in A's KEMAC are known to A and B only (12.2: they are not)"


class State(NamedTuple):
    """The sessions of all honest parties."""

    initiators: tuple[Initiator, ...]
    responders: tuple[Responder, ...]

    def sent(self) -> tuple[Term, ...]:
        """All messages that honest parties have sent."""
        messages = [m for i in self.initiators for m in (i.request, i.init)]
        messages += [m for r in self.responders for m in (r.request, r.resp)]
        return tuple(m for m in messages if m is not NONE)

    def completed(self) -> Iterator[tuple[Initiator, Responder]]:
        """The pairs that have finished the same Ticket Transfer with each other."""
        for i in self.initiators:
            for r in self.responders:
                if (
                    i.session
                    and r.session
                    and i.init["v"] is r.init["v"]
                    and (i.session.peer, r.session.peer) == (r.me, i.me)
                ):
                    yield i, r


def refuted(world: World, state: State, knowledge: Knowledge) -> Iterator[Claim]:
    """The claims that a state refutes."""
    for r in state.responders:
        if r.session and world.is_honest(r.session.peer):
            if not _sent(world, state, r):
                yield Claim.SENDER
            elif any(map(knowledge.derives, r.session.secrets)):
                yield Claim.FORKED_SECRET
    for i in state.initiators:
        if i.session and not _answered(world, state, i):
            yield Claim.RECEIVER
    for i, r in state.completed():
        assert i.session is not None
        assert r.session is not None
        assert i.keys is not None
        if i.session.secrets != r.session.secrets:
            yield Claim.AGREEMENT
        if any(map(knowledge.derives, (i.keys.mpki, i.keys.gtgk, i.keys.tek, supplied_key(i.keys, i.init)))):
            yield Claim.ALL_SECRET
    if any(map(knowledge.derives, _not_for_the_corrupt(world, state))):
        yield Claim.NOT_NAMED
    accepted = [(r.me, r.init["v"]) for r in state.responders if r.session]
    if len(set(accepted)) < len(accepted):
        yield Claim.FRESH


def _sent(world: World, state: State, r: Responder) -> bool:
    """Whether the party that a Responder takes for the sender sent this TRANSFER_INIT, and sent it to him."""
    assert r.session
    sent = any(
        i.me is r.session.peer and i.init is not NONE and i.init["v"] is r.init["v"] for i in state.initiators
    )
    return sent and r.init["id_r"] in world.names_of(r.me)


def _answered(world: World, state: State, i: Initiator) -> bool:
    """Whether the party that an Initiator takes for the answerer may resolve the ticket and, if honest, answered so."""
    assert i.session
    peer = i.session.peer
    if not world.is_honest(peer):
        return world.names(i.init["ticket"], peer)
    return any(r.me is peer and r.resp is i.resp for r in state.responders)


def _not_for_the_corrupt(world: World, state: State) -> Iterator[Term]:
    """Keys that no corrupt party may have, whatever it did."""
    yield from (psk(name(h)) for h in world.honest)
    yield tpk(KMS_TPK)
    yield from (tpk(name(t)) for t, shared in world.tpks.items() if shared.owner in world.honest)
    for i in state.initiators:
        if i.keys and not any(world.names(i.init["ticket"], name(c)) for c in world.corrupt):
            yield from (k for k in i.keys if k is not NONE)

"""Breadth-first search over all orders of honest parties' steps, for states that refute a claim.

A state is the state of each honest session; what the attacker knows follows from the messages that they have sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.model.attacker import Network, describe
from tests.model.claims import Claim, State, refuted
from tests.model.parties import Initiator, Plan, Responder
from tests.model.protocol import World
from tests.model.terms import NONE, Term, name


@dataclass(frozen=True)
class Scenario:
    """Who is there and what honest parties do. `answering` has one entry for each TRANSFER_INIT that may be taken."""

    world: World
    plans: tuple[Plan, ...]
    answering: tuple[str, ...]


@dataclass
class Result:
    """What a search found: for each refuted claim the shortest message sequence."""

    states: int = 0
    completed: set[str] = field(default_factory=set)
    """Sessions of honest parties that finish with each other in some state."""
    refused: set[Term] = field(default_factory=set)
    """What the KMS refused: attempts of the attacker."""
    attacks: dict[Claim, list[str]] = field(default_factory=dict)


def search(scenario: Scenario, until: Claim | None = None) -> Result:
    """Visit every reachable state. With `until`, stop when that claim is refuted."""
    searcher = _Search(scenario)
    result, start = Result(), searcher.start()
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        result.states += 1
        before = came_from[state]
        network = searcher.network(state, searcher.network(before[0]) if before else None)
        result.refused |= network.refused
        result.completed |= {session.label for pair in state.completed() for session in pair}
        for claim in refuted(scenario.world, state, network.knowledge):
            if claim not in result.attacks:
                result.attacks[claim] = searcher.trace(state, came_from)
        if until in result.attacks:
            break
        for step, line in searcher.steps(state, network):
            if step not in came_from:
                came_from[step] = state, line
                queue.append(step)
    return result


class _Search:
    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._world = scenario.world
        self._networks: dict[frozenset[Term], Network] = {}
        self._inits: dict[tuple[Network, Term], list[Term]] = {}

    def start(self) -> State:
        initiators = (Initiator(p, f"{p.me}, call {n + 1}") for n, p in enumerate(self._scenario.plans))
        responders = (
            Responder(name(r), f"{r}, answer {n + 1}") for n, r in enumerate(self._scenario.answering)
        )
        return State(tuple(initiators), tuple(responders))

    def network(self, state: State, before: Network | None = None) -> Network:
        """What the attacker has in this state. `before` is that of an earlier state."""
        sent = state.sent()
        found = self._networks.get(frozenset(sent))
        if found is None:
            found = self._networks[frozenset(sent)] = Network(self._world, sent, before)
        return found

    # -- steps ---------------------------------------------------------------------------------------------------------

    def steps(self, state: State, network: Network) -> Iterator[tuple[State, str]]:
        """Each step that an honest party can take next, with a line for the trace."""
        for n, old in enumerate(state.initiators):
            for new, line in self._initiator_steps(state, old, network):
                changed = (*state.initiators[:n], new, *state.initiators[n + 1 :])
                yield state._replace(initiators=changed), line
        for n, taken in enumerate(state.responders):
            for answer, line in self._responder_steps(state, n, taken, network):
                yield (
                    state._replace(responders=(*state.responders[:n], answer, *state.responders[n + 1 :])),
                    line,
                )

    def _initiator_steps(
        self, state: State, old: Initiator, network: Network
    ) -> Iterator[tuple[Initiator, str]]:
        if old.session:
            return
        if old.init is not NONE:
            for resp in network.transfer_resps(old):
                done = old.complete(resp)
                if done:
                    genuine = any(r.resp is resp for r in state.responders)
                    yield done, f"{resp['id_r'] if genuine else 'attacker'} -> {old.me}: {describe(resp)}"
        elif old.request is not NONE:
            for resp in network.seen("REQUEST_RESP"):
                granted = old.granted(resp)
                if granted:
                    yield granted, f"KMS -> {old.me}: REQUEST_RESP; {_sends(granted)}"
        elif old.plan.reuse_of >= 0:
            first = state.initiators[old.plan.reuse_of]
            if first.keys:
                again = old.transfer(first.init["ticket"], first.keys)
                yield again, _sends(again)
        else:
            new = old.start(self._world)
            yield new, _sends(new) if new.init is not NONE else f"{new.me} -> KMS: {describe(new.request)}"

    def _responder_steps(
        self, state: State, n: int, old: Responder, network: Network
    ) -> Iterator[tuple[Responder, str]]:
        if old.session:
            return
        if old.init is not NONE:
            for resp in network.seen("RESOLVE_RESP"):
                done = old.resolved(resp)
                if done:
                    yield (
                        done,
                        f"KMS -> {old.me}: RESOLVE_RESP; {old.me} accepts, sends {describe(done.resp)}",
                    )
            return
        earlier = tuple(r for r in state.responders[:n] if r.me is old.me)
        if any(r.init is NONE for r in earlier):
            return  # sessions of one party are taken in order: which of them it is makes no difference
        for init in self._transfer_inits(old.me, network):
            new = old.receive(self._world, init, earlier)
            if new:
                sender = next((i.me for i in state.initiators if i.init is init), "attacker")
                then = "accepts without the KMS" if new.session else "-> KMS: RESOLVE_INIT"
                yield new, f"{sender} -> {old.me}: {describe(init)}; {old.me} {then}"

    def _transfer_inits(self, me: Term, network: Network) -> list[Term]:
        if (network, me) not in self._inits:
            self._inits[network, me] = list(network.transfer_inits(me))
        return self._inits[network, me]

    def trace(self, state: State, came_from: dict[State, tuple[State, str] | None]) -> list[str]:
        """How a state is reached: the honest steps, and what corrupt parties did before with the tickets in them."""
        steps: list[tuple[State, str]] = []
        at: State = state
        while (before := came_from[at]) is not None:
            steps.append(before)
            at = before[0]
        tickets = {r.init["ticket"] for r in state.responders if r.init is not NONE}
        tickets |= {i.init["ticket"] for i in state.initiators if i.init is not NONE}
        lines: list[str] = []
        for where, line in [*reversed(steps), (state, "")]:
            deeds = [
                d for d, ticket in self.network(where).deeds.items() if ticket in tickets and d not in lines
            ]
            lines += [*deeds, line]
        return [line for line in lines if line]


def _sends(session: Initiator) -> str:
    return f"{session.me} sends {describe(session.init)}"

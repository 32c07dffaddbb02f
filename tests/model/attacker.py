"""What the attacker can do: he is the network, and he owns the corrupt subscribers.

The KMS keeps no state and the attacker forgets nothing. So an answer of the KMS can only help him, and no order of
requests matters: whatever the KMS would answer is asked at once, and the answers are part of what he knows. Only the
steps of honest parties are left to be ordered (search.py).

The attacker sends messages of the protocol's shapes that the receiver's own checks could let pass: their fields come
from small domains, and their MACs are the right ones, if he can derive those (a wrong MAC changes nothing).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import product

from tests.model import protocol
from tests.model.parties import Initiator
from tests.model.protocol import KMS_TPK, World, has
from tests.model.terms import NONE, Knowledge, Term, make, name

OWN_RAND = name("RAND(attacker)")
OWN_KEY = name("key of the attacker")
GARBAGE = name("garbage")


class Network:
    """All that the attacker knows and can get when the honest parties have sent `sent`."""

    def __init__(self, world: World, sent: Iterable[Term], start: Network | None = None) -> None:
        self.world = world
        self.knowledge: Knowledge = start.knowledge if start else _corrupt_keys(world)
        self.deeds: dict[str, Term] = dict(start.deeds) if start else {}
        """What corrupt parties did: a line for the trace, and the ticket that it is about."""
        self.refused: set[Term] = set(start.refused) if start else set()
        """Requests that the KMS refused."""
        self._tried: set[tuple[Term, ...]] = set(start._tried) if start else set()
        if start is None:
            self._request_tickets()
            self._make_tickets()
        self.knowledge = self.knowledge.learn(sent)
        self._ask_kms()

    def seen(self, op: str) -> list[Term]:
        """Messages and payloads of one type that the attacker has."""
        return self._by_type.get(op, [])

    @cached_property
    def _by_type(self) -> dict[str, list[Term]]:
        found: dict[str, list[Term]] = {}
        for term in self.knowledge.parts:
            if term.op in protocol.MESSAGES:
                found.setdefault(term.op, []).append(term)
        return found

    # -- what corrupt subscribers do with the KMS ---------------------------------------------------------------------

    def _request_tickets(self) -> None:
        """Ask for tickets for everybody and every group, in one's own name and in everybody else's, of every kind."""
        kinds = [("KMS", flags) for flags in ("DEIJ", "DEJ")]
        shared = [n for n, t in self.world.tpks.items() if t.role == "responder"]
        kinds += product(shared, ("DEIJ", "DJ"))
        for c, i, r, (tpk, flags) in product(self.world.corrupt, self._everybody(), self._callees(), kinds):
            wanted = protocol.policy(flags, i, r)
            request = protocol.request_init(name(c), OWN_RAND, wanted, name(tpk))
            resp = protocol.kms_request(self.world, request)
            self._tried.add((request,))
            if resp is None:
                self.refused.add(request)
                continue
            ticket = resp["ticket"]
            self._do(f"{c} -> KMS: REQUEST_INIT; granted {describe(ticket)}", ticket, [request, resp])

    def _make_tickets(self) -> None:
        """Make tickets under the TPKs of corrupt parties, in anybody's name, with and without D."""
        for tpk, shared in self.world.tpks.items():
            if shared.owner not in self.world.corrupt:
                continue
            for flags, i, r in product(("EIJ", "DEIJ", "EJ", "DEJ"), self._everybody(), self._callees()):
                wanted = protocol.policy(flags, i, r)
                ticket, _ = protocol.base_ticket(wanted, name(tpk), OWN_RAND, OWN_KEY, (OWN_KEY,) * 3)
                self._do(f"{shared.owner} makes {describe(ticket)}", ticket, [ticket])

    def _everybody(self) -> tuple[str, ...]:
        return self.world.honest + self.world.corrupt

    def _callees(self) -> tuple[str, ...]:
        return self.world.honest + tuple(self.world.groups)

    def _ask_kms(self) -> None:
        """Have the KMS answer every request there is, resolve every ticket as each corrupt party, until nothing new."""
        before = None
        while before is not self.knowledge:
            before = self.knowledge
            self.__dict__.pop("_by_type", None)
            for op, kms in (("REQUEST_INIT", protocol.kms_request), ("RESOLVE_INIT", protocol.kms_resolve)):
                for request in self.seen(op):
                    if (request,) not in self._tried:
                        self._tried.add((request,))
                        self._answer(request, kms(self.world, request))
            for ticket, c, claimed in product(self.seen("TICKET"), self.world.corrupt, self._everybody()):
                self._resolve(ticket, name(c), name(claimed))
        self.__dict__.pop("_by_type", None)

    def _answer(self, request: Term, resp: Term | None) -> None:
        if resp is None:
            self.refused.add(request)
        else:
            self.knowledge = self.knowledge.learn([resp])

    def _resolve(self, ticket: Term, c: Term, claimed: Term) -> None:
        for initiator_data in self._initiator_data(ticket, GARBAGE):
            attempt = (ticket, c, claimed, *initiator_data)
            if attempt in self._tried:
                continue
            self._tried.add(attempt)
            request = protocol.resolve_init(c, claimed, OWN_RAND, ticket, *initiator_data)
            resp = protocol.kms_resolve(self.world, request)
            if resp is None:
                self.refused.add(request)
            else:
                line = f"{c} -> KMS: RESOLVE_INIT IDRr={claimed} {describe(ticket)}; resolved"
                self._do(line, ticket, [request, resp])

    def _do(self, line: str, ticket: Term, result: list[Term]) -> None:
        self.deeds[line] = ticket
        self.knowledge = self.knowledge.learn(result)

    # -- what he sends to honest parties -------------------------------------------------------------------------------

    def transfer_inits(self, me: Term) -> Iterator[Term]:
        """TRANSFER_INITs for an honest Responder: all that were seen, and those made with a known MPKi."""
        yield from self.seen("TRANSFER_INIT")
        identities = [name(i) for i in self._everybody()]
        for ticket in self.seen("TICKET"):
            keys = protocol.open_ticket(ticket)
            if keys is None or not self.knowledge.derives(keys.mpki):
                continue
            called = [n for n in ticket["policy"]["responders"].terms if n in self.world.names_of(me)]
            rands = [OWN_RAND, *(t["rand_i"] for t in self.seen("TRANSFER_INIT") if t["ticket"] is ticket)]
            for id_i, id_r, rand_i in product(identities, called, rands):
                v = protocol.v_of_transfer_init(keys.mpki, id_i, id_r, rand_i, ticket, NONE)
                for vi, vr in self._initiator_data(ticket, v):
                    yield make("TRANSFER_INIT", id_i, id_r, rand_i, ticket, NONE, v, vi, vr)

    def _initiator_data(self, ticket: Term, v: Term) -> list[tuple[Term, Term]]:
        """Initiator Data for a ticket: with a right Vr if he can make one, else with a wrong one, and what was seen."""
        if not has(ticket, "I"):
            return [(NONE, NONE)]
        keys = protocol.open_ticket(ticket)
        right = protocol.vr(keys.mpkr, v) if keys else GARBAGE
        made = (v, right if self.knowledge.derives(right) else GARBAGE)
        return [made, *((t["vi"], t["vr"]) for t in self.seen("TRANSFER_INIT") if t["ticket"] is ticket)]

    def transfer_resps(self, session: Initiator) -> Iterator[Term]:
        """TRANSFER_RESPs for an honest Initiator: all that were seen, and those made with a known MPKr' (or MPKi)."""
        yield from self.seen("TRANSFER_RESP")
        init, forking = session.init, has(session.init["ticket"], "I")
        seen = [m["rand_kms"] for m in self.seen("RESOLVE_RESP")]
        rands_kms = dict.fromkeys([OWN_RAND, *seen]) if forking else [NONE]
        identities = sorted(map(name, self._everybody()), key=lambda i: i is not init["id_r"])
        for id_r, rand_kms in product(identities, rands_kms):
            keys = session.response_keys(id_r, rand_kms)
            mpk = keys.mpkr if forking else keys.mpki
            if self.knowledge.derives(mpk):
                yield protocol.transfer_resp(keys, init, id_r, OWN_RAND, rand_kms, OWN_KEY)


def _corrupt_keys(world: World) -> Knowledge:
    tpks = [protocol.tpk(name(n)) for n, shared in world.tpks.items() if shared.owner in world.corrupt]
    return Knowledge().learn([*(protocol.psk(name(c)) for c in world.corrupt), *tpks])


def describe(term: Term) -> str:
    """A message or ticket, short enough for a trace."""
    if term.op == "TICKET":
        granted = term["policy"]
        names = ",".join(map(str, granted["responders"].terms))
        protected = "" if term["tpk"] is KMS_TPK else f" under {term['tpk']}"
        return f"TICKET[IDRi={granted['id_i']} IDRr={names} {granted['flags']}{protected}]"
    if term.op == "REQUEST_INIT":
        return f"REQUEST_INIT IDRi={term['id_i']} TP[IDRr={','.join(map(str, term['policy']['responders'].terms))}]"
    if term.op == "TRANSFER_INIT":
        vr = "" if term["vr"] is NONE else " Vr=garbage" if term["vr"] is GARBAGE else " Vr=genuine"
        return f"TRANSFER_INIT IDRi={term['id_i']} IDRr={term['id_r']} {term['rand_i']} {describe(term['ticket'])}{vr}"
    if term.op == "TRANSFER_RESP":
        return f"TRANSFER_RESP IDRr={term['id_r']} {term['rand_r']}"
    return term.op

"""The honest Initiator and the honest Responder: what they hold, which messages they take, what they send then."""

from __future__ import annotations

from typing import NamedTuple

from tests.model.protocol import (
    Keys,
    Tpk,
    World,
    base_ticket,
    has,
    open_ticket,
    protection,
    psk,
    request_init,
    resolve_init,
    transfer_init,
    transfer_resp,
    v_of_transfer_init,
    v_of_transfer_resp,
)
from tests.model.terms import NONE, Term, fresh, mac, make, name, opened, prf


class Session(NamedTuple):
    """What a finished Ticket Transfer leaves with a party: secrets that it believes to share with `peer` alone."""

    peer: Term
    mpk: Term
    """What protects TRANSFER_RESP and CSB updates: MPKr', without key forking MPKi."""
    tek: Term
    """The TEK from TGK', without key forking from TGK, and both RANDs (5.1.3)."""
    supplied: Term
    """The session key that the Responder sent in its KEMAC."""

    @property
    def secrets(self) -> tuple[Term, Term, Term]:
        return self.mpk, self.tek, self.supplied


class Plan(NamedTuple):
    """What an honest Initiator wants to do. `reuse_of` is an earlier plan whose ticket it uses again."""

    me: str
    callee: str
    wanted: Term
    tpk: str = "KMS"
    reuse_of: int = -1


class Initiator(NamedTuple):
    """One Ticket Transfer of an honest Initiator, from the Ticket Request on."""

    plan: Plan
    label: str
    request: Term = NONE
    keys: Keys | None = None
    init: Term = NONE
    resp: Term = NONE
    session: Session | None = None

    @property
    def me(self) -> Term:
        return name(self.plan.me)

    def start(self, world: World) -> Initiator:
        """Send REQUEST_INIT, or make a ticket with an own TPK and send TRANSFER_INIT (mode 3)."""
        if world.tpks.get(self.plan.tpk) == Tpk(self.plan.me, "initiator"):
            session = tuple(fresh(k, self.label) for k in ("TGK", "GTGK", "TEK"))
            rand, mpk = fresh("RAND", self.label), fresh("MPK", self.label)
            return self.transfer(*base_ticket(self.plan.wanted, name(self.plan.tpk), rand, mpk, session))
        rand_i = fresh("RANDRi", self.label, "request")
        return self._replace(request=request_init(self.me, rand_i, self.plan.wanted, name(self.plan.tpk)))

    def granted(self, resp: Term) -> Initiator | None:
        """Take REQUEST_RESP, refuse a changed policy, send TRANSFER_INIT."""
        auth_key, encr_key = protection(psk(self.me), "resp", self.request["rand_i"])
        ticket, kemac = resp["ticket"], resp["kemac"]
        if resp["v"] is not mac(auth_key, name("REQUEST_RESP"), ticket, kemac, self.request):
            return None
        if ticket["policy"] is not self.plan.wanted:
            return None
        return self.transfer(ticket, Keys(*opened(kemac, encr_key)))

    def transfer(self, ticket: Term, keys: Keys) -> Initiator:
        """Send TRANSFER_INIT with a ticket that this party has, from now or before (5.3)."""
        rand_i, supplied = fresh("RANDRi", self.label), fresh("Initiator's TEK", self.label)
        init = transfer_init(keys, self.me, name(self.plan.callee), rand_i, ticket, supplied)
        return self._replace(keys=keys, init=init)

    def response_keys(self, id_r: Term, rand_kms: Term) -> Keys:
        """The keys of the Responder that this modifier is of."""
        assert self.keys is not None
        return self.keys.forked(id_r, rand_kms) if has(self.init["ticket"], "I") else self.keys

    def complete(self, resp: Term) -> Initiator | None:
        """Take TRANSFER_RESP."""
        id_r, rand_r, rand_kms, kemac, v = resp.terms
        keys = self.response_keys(id_r, rand_kms)
        mpk = keys.mpkr if has(self.init["ticket"], "I") else keys.mpki
        if v is not v_of_transfer_resp(mpk, self.init, id_r, rand_r, rand_kms, kemac):
            return None
        return self._replace(resp=resp, session=_session(id_r, keys, self.init, resp))


class Responder(NamedTuple):
    """One Ticket Transfer of an honest Responder."""

    me: Term
    label: str
    init: Term = NONE
    request: Term = NONE
    keys: Keys | None = None
    modifier: tuple[Term, Term] = (NONE, NONE)
    resp: Term = NONE
    session: Session | None = None

    def receive(self, world: World, init: Term, earlier: tuple[Responder, ...]) -> Responder | None:
        """Take TRANSFER_INIT: reject early (4.2.2.2), open its ticket if that needs no KMS, else send RESOLVE_INIT.

        `earlier` are the sessions that this party had before: its replay cache and its cached resolutions.
        """
        rules, ticket = world.protections, init["ticket"]
        own_tpk = world.tpks.get(str(ticket["tpk"])) == Tpk(str(self.me), "responder")
        if not self._acceptable(world, init, own_tpk):
            return None
        if rules.transfer_replay_cache and any(e.init["v"] is init["v"] for e in earlier):
            return None
        if own_tpk and not has(ticket, "E"):
            keys = open_ticket(ticket)
            return None if keys is None else self._answer(init, keys, (self.me, NONE))
        sole = ticket["policy"]["responders"] is make("list", self.me)
        if has(ticket, "J") and (sole or not rules.reuse_by_sole_recipient_only):
            for e in earlier:
                if e.session and e.keys and e.init["ticket"] is ticket:
                    return self._answer(init, e.keys, e.modifier)
        request = resolve_init(
            self.me, self.me, fresh("RANDRr", self.label, "resolve"), ticket, init["vi"], init["vr"]
        )
        return self._replace(init=init, request=request)

    def _acceptable(self, world: World, init: Term, own_tpk: bool) -> bool:
        rules, ticket = world.protections, init["ticket"]
        if not world.names(ticket, self.me):
            return False
        if rules.key_forking and not own_tpk and not (has(ticket, "I") and has(ticket, "E")):
            return False
        if rules.same_initiator and init["id_i"] is not ticket["policy"]["id_i"]:
            return False
        if rules.responder_is_addressee and init["id_r"] not in world.names_of(self.me):
            return False
        return not (rules.responder_compares_vi and has(ticket, "I") and init["vi"] is not init["v"])

    def resolved(self, resp: Term) -> Responder | None:
        """Take RESOLVE_RESP, verify TRANSFER_INIT, send TRANSFER_RESP."""
        auth_key, encr_key = protection(psk(self.me), "resp", self.request["rand_r"])
        kemac, id_r, rand_kms, v = resp.terms
        if v is not mac(auth_key, name("RESOLVE_RESP"), kemac, id_r, rand_kms, self.request):
            return None
        modifier = (self.me if id_r is NONE else id_r, rand_kms)
        return self._answer(self.init, Keys(*opened(kemac, encr_key)), modifier)

    def _answer(self, init: Term, keys: Keys, modifier: tuple[Term, Term]) -> Responder | None:
        """Verify TRANSFER_INIT with MPKi and send TRANSFER_RESP."""
        if init["v"] is not v_of_transfer_init(keys.mpki, *init.terms[:5]):
            return None
        id_r, rand_kms = modifier
        rand_r, supplied = fresh("RANDRr", self.label), fresh("Responder's TEK", self.label)
        resp = transfer_resp(keys, init, id_r, rand_r, rand_kms, supplied)
        session = _session(init["id_i"], keys, init, resp)
        return self._replace(init=init, keys=keys, modifier=modifier, resp=resp, session=session)


def _session(peer: Term, keys: Keys, init: Term, resp: Term) -> Session:
    mpk = keys.mpkr if has(init["ticket"], "I") else keys.mpki
    rands = init["rand_i"], resp["rand_r"]
    supplied = opened(resp["kemac"], prf(mpk, "encr_key", "resp", *rands))
    return Session(peer, mpk, prf(keys.tgk, "TEK", *rands), supplied[0] if supplied else NONE)

"""The messages of MIKEY-TICKET's three exchanges (RFC 6043 4.2), tickets, and the KMS; parties.py has the other roles.

A function that refuses a message gives None. `Protections` are the rules that can be switched off one by one; where a
switch is the difference between this project and the bare RFC, its comment says so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from tests.model.terms import FIELDS, NONE, Term, enc, fresh, mac, make, name, opened, prf


@dataclass(frozen=True)
class Protections:
    """The rules under test, all on by default, as this project has them (docs/model.md)."""

    key_forking: bool = True
    """Initiators ask for the I flag, Responders refuse tickets without it (optional in RFC 6043)."""
    kms_checks_initiator_data: bool = True
    """The KMS verifies Vr with MPKr before it resolves a ticket (4.2.3.4, 6.10)."""
    responder_compares_vi: bool = True
    """The Responder compares Vi with V of TRANSFER_INIT (4.2.3.6)."""
    reuse_by_sole_recipient_only: bool = True
    """A cached resolution is used only if the ticket names this Responder alone (not in RFC 6043; A-40)."""
    same_initiator: bool = True
    """IDRi of TRANSFER_INIT must be IDRi of the Ticket Policy (not in RFC 6043; A-35)."""
    responder_is_addressee: bool = True
    """IDRr of TRANSFER_INIT must name the Responder or a group that it is in (RFC 6043 lets it be left out)."""
    transfer_replay_cache: bool = True
    """The Responder refuses a TRANSFER_INIT that it has accepted before (12.4)."""
    kms_authenticates_idri: bool = True
    """IDRi of a granted ticket is the identity whose PSK verified REQUEST_INIT (4.2.1)."""
    kms_authenticates_idrr: bool = True
    """IDRr of RESOLVE_INIT is the identity whose PSK verified it; keys are forked by it (4.2.3, 5.1.1)."""
    ticket_names_responder: bool = True
    """The KMS resolves a ticket for an identity that it names, directly or by a group (4.2.3.4, 12.5)."""
    initiator_made_names_tpk_owner: bool = True
    """A ticket with D = 0 must name the owner of its TPK as IDRi (not in RFC 6043)."""
    initiator_tpk_for_d0_only: bool = True
    """A TPK shared with an Initiator protects tickets with D = 0 only (not in RFC 6043)."""
    responder_tpk_for_its_owner_only: bool = True
    """A ticket under a TPK shared with a Responder is resolved for that Responder only (not in RFC 6043)."""
    responder_tpk_without_forking: bool = True
    """The KMS grants no ticket with I or E under a TPK shared with a Responder (not in RFC 6043)."""


@dataclass(frozen=True)
class Tpk:
    """A Ticket Protection Key that the KMS shares with `owner`, who is an "initiator" (mode 3) or a "responder" (2)."""

    owner: str
    role: str


@dataclass(frozen=True)
class World:
    """Who there is. Every identity is a subscriber with a PSK; the attacker has those of the corrupt ones."""

    honest: tuple[str, ...]
    corrupt: tuple[str, ...] = ()
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tpks: dict[str, Tpk] = field(default_factory=dict)
    protections: Protections = field(default_factory=Protections)

    def names_of(self, identity: Term) -> frozenset[Term]:
        """The identity and the groups that it is in."""
        groups = (g for g, members in self.groups.items() if str(identity) in members)
        return frozenset({identity, *map(name, groups)})

    def is_honest(self, identity: Term) -> bool:
        return str(identity) in self.honest

    def names(self, ticket: Term, identity: Term) -> bool:
        """Whether the ticket names the identity, directly or by a group."""
        return not self.names_of(identity).isdisjoint(ticket["policy"]["responders"].terms)


def policy(flags: str, id_i: str, *responders: str) -> Term:
    """A Ticket Policy. Flags are any of D, E, I and J; F, G, H, N and O are always set."""
    return make("POLICY", name(flags), name(id_i), make("list", *map(name, responders)))


def has(ticket: Term, flag: str) -> bool:
    """Whether a flag of the ticket's policy is set."""
    return flag in str(ticket["policy"]["flags"])


def psk(identity: Term) -> Term:
    return fresh("PSK", identity)


def tpk(tpk_name: Term) -> Term:
    return fresh("TPK", tpk_name)


MESSAGES = frozenset(FIELDS)


# -- tickets -----------------------------------------------------------------------------------------------------------

KMS_TPK = name("KMS")
"""The TPK that only the KMS has. Tickets under it are derived tickets (docs/ticket-type.md), others base tickets."""


class Keys(NamedTuple):
    """What a ticket encodes. A party that was not given MPKr has MPKr' in its place, and TGK' in that of TGK."""

    mpki: Term
    mpkr: Term
    tgk: Term
    gtgk: Term
    tek: Term

    def forked(self, id_r: Term, rand_kms: Term) -> Keys:
        """The keys of one Responder (5.1.1): MPKr and TGK are forked, the others are not."""
        return self._replace(
            mpkr=prf(self.mpkr, "MPKr'", id_r, rand_kms), tgk=prf(self.tgk, "TGK'", id_r, rand_kms)
        )


def derived_ticket(granted: Term, rand: Term) -> tuple[Term, Keys]:
    branch = prf(tpk(KMS_TPK), "ticket branch", rand, granted)
    keys = Keys(*(prf(branch, k) for k in ("MPKi", "MPKr", "TGK", "GTGK", "TEK")))
    v = mac(prf(branch, "ticket MAC key"), KMS_TPK, rand, NONE, granted)
    return make("TICKET", granted, KMS_TPK, rand, NONE, v), keys


def base_ticket(
    granted: Term, tpk_name: Term, rand: Term, mpk: Term, session: tuple[Term, ...]
) -> tuple[Term, Keys]:
    """A MIKEY base ticket (appendix A): by the KMS, or by the Initiator that shares the TPK (mode 3)."""
    key = tpk(tpk_name)
    kemac = enc(prf(key, "encr_key", rand), mpk, *session)
    v = mac(prf(key, "auth_key", rand), granted, tpk_name, rand, kemac)
    keys = Keys(prf(mpk, "MPKi", rand), prf(mpk, "MPKr", rand), *session)
    return make("TICKET", granted, tpk_name, rand, kemac, v), keys


@cache
def open_ticket(ticket: Term) -> Keys | None:
    """Verify and open a ticket with its TPK. Only the KMS, or one who holds the TPK, may call this."""
    granted, tpk_name, rand = ticket["policy"], ticket["tpk"], ticket["rand"]
    if tpk_name is KMS_TPK:
        same, keys = derived_ticket(granted, rand)
    else:
        inside = opened(ticket["kemac"], prf(tpk(tpk_name), "encr_key", rand))
        if len(inside) != 4:
            return None
        same, keys = base_ticket(granted, tpk_name, rand, inside[0], inside[1:])
    return keys if same is ticket else None


# -- the KMS -----------------------------------------------------------------------------------------------------------


def protection(key: Term, direction: str, rand: Term) -> tuple[Term, Term]:
    """auth_key and encr_key of a message to ("init") or from ("resp") the KMS."""
    return prf(key, "auth_key", direction, rand), prf(key, "encr_key", direction, rand)


def request_init(id_i: Term, rand_i: Term, wanted: Term, tpk_name: Term) -> Term:
    auth_key, _ = protection(psk(id_i), "init", rand_i)
    covered = (name("REQUEST_INIT"), id_i, rand_i, wanted, tpk_name)
    return make("REQUEST_INIT", id_i, rand_i, wanted, tpk_name, mac(auth_key, *covered))


def kms_request(world: World, request: Term) -> Term | None:
    """REQUEST_RESP to a REQUEST_INIT, which asks for a ticket under the KMS's own TPK or a Responder's."""
    rules, id_i, wanted = world.protections, request["id_i"], request["policy"]
    if request is not request_init(id_i, request["rand_i"], wanted, request["tpk"]):
        return None
    flags = str(wanted["flags"])
    if "D" not in flags or ("I" in flags and "E" not in flags):
        return None
    if rules.kms_authenticates_idri and wanted["id_i"] is not id_i:
        return None
    rand = fresh("RAND", request)
    if request["tpk"] is KMS_TPK:
        ticket, keys = derived_ticket(wanted, rand)
    else:
        if world.tpks[str(request["tpk"])].role != "responder":
            return None
        if rules.responder_tpk_without_forking and ("I" in flags or "E" in flags):
            return None
        session = tuple(fresh(k, request) for k in ("TGK", "GTGK", "TEK"))
        ticket, keys = base_ticket(wanted, request["tpk"], rand, fresh("MPK", request), session)
    auth_key, encr_key = protection(psk(id_i), "resp", request["rand_i"])
    kemac = enc(encr_key, *(keys if has(ticket, "I") else keys._replace(mpkr=NONE)))
    return make("REQUEST_RESP", ticket, kemac, mac(auth_key, name("REQUEST_RESP"), ticket, kemac, request))


def resolve_init(subscriber: Term, id_r: Term, rand_r: Term, ticket: Term, vi: Term, vr: Term) -> Term:
    """RESOLVE_INIT_PSK under the PSK of `subscriber` (IDRpsk), for the Responder identity `id_r`."""
    auth_key, _ = protection(psk(subscriber), "init", rand_r)
    covered = (name("RESOLVE_INIT"), subscriber, id_r, rand_r, ticket, vi, vr)
    return make("RESOLVE_INIT", *covered[1:], mac(auth_key, *covered))


def kms_resolve(world: World, request: Term) -> Term | None:
    """RESOLVE_RESP to a RESOLVE_INIT."""
    rules, id_r, ticket = world.protections, request["id_r"], request["ticket"]
    if request is not resolve_init(*request.terms[:6]):
        return None
    if rules.kms_authenticates_idrr and id_r is not request["psk"]:
        return None
    keys = open_ticket(ticket)
    if keys is None or not _may_use_tpk(world, ticket, id_r):
        return None
    if rules.ticket_names_responder and not world.names(ticket, id_r):
        return None
    rand_kms = NONE
    if has(ticket, "I"):
        if rules.kms_checks_initiator_data and request["vr"] is not vr(keys.mpkr, request["vi"]):
            return None
        rand_kms = fresh("RANDRkms", request)
        keys = keys.forked(id_r, rand_kms)
    else:
        keys, id_r = keys._replace(mpkr=NONE), NONE
    auth_key, encr_key = protection(psk(request["psk"]), "resp", request["rand_r"])
    kemac = enc(encr_key, *keys)
    v = mac(auth_key, name("RESOLVE_RESP"), kemac, id_r, rand_kms, request)
    return make("RESOLVE_RESP", kemac, id_r, rand_kms, v)


def _may_use_tpk(world: World, ticket: Term, id_r: Term) -> bool:
    """The rules for TPKs that the KMS shares with somebody, who could make or alter tickets under them."""
    rules = world.protections
    if ticket["tpk"] is KMS_TPK:
        return has(ticket, "D")
    shared, made_by_initiator = world.tpks[str(ticket["tpk"])], not has(ticket, "D")
    if (
        made_by_initiator
        and rules.initiator_made_names_tpk_owner
        and str(ticket["policy"]["id_i"]) != shared.owner
    ):
        return False
    if shared.role == "responder":
        return not rules.responder_tpk_for_its_owner_only or str(id_r) == shared.owner
    return made_by_initiator or not rules.initiator_tpk_for_d0_only


# -- Ticket Transfer ---------------------------------------------------------------------------------------------------


def vr(mpkr: Term, vi: Term) -> Term:
    """Vr of Initiator Data (6.10)."""
    return mac(prf(mpkr, "Vr auth_key"), vi)


def v_of_transfer_init(mpki: Term, id_i: Term, id_r: Term, rand_i: Term, ticket: Term, kemac: Term) -> Term:
    """V of TRANSFER_INIT: it does not cover Initiator Data (5.5)."""
    covered = (id_i, id_r, rand_i, ticket, kemac)
    return mac(prf(mpki, "auth_key", "init", rand_i), name("TRANSFER_INIT"), *covered)


def transfer_init(keys: Keys, id_i: Term, id_r: Term, rand_i: Term, ticket: Term, supplied: Term) -> Term:
    """TRANSFER_INIT with a session key of the Initiator, which MPKi protects (4.2.2.1)."""
    kemac = enc(prf(keys.mpki, "encr_key", "init", rand_i), supplied)
    v = v_of_transfer_init(keys.mpki, id_i, id_r, rand_i, ticket, kemac)
    initiator_data = (v, vr(keys.mpkr, v)) if has(ticket, "I") else (NONE, NONE)
    return make("TRANSFER_INIT", id_i, id_r, rand_i, ticket, kemac, v, *initiator_data)


def transfer_resp(keys: Keys, init: Term, id_r: Term, rand_r: Term, rand_kms: Term, supplied: Term) -> Term:
    """TRANSFER_RESP with a session key of the Responder. `keys` are the Responder's: MPKr' with key forking."""
    mpk = keys.mpkr if has(init["ticket"], "I") else keys.mpki
    kemac = enc(prf(mpk, "encr_key", "resp", init["rand_i"], rand_r), supplied)
    v = v_of_transfer_resp(mpk, init, id_r, rand_r, rand_kms, kemac)
    return make("TRANSFER_RESP", id_r, rand_r, rand_kms, kemac, v)


def supplied_key(keys: Keys, init: Term) -> Term:
    """The session key that an Initiator sent in TRANSFER_INIT."""
    return opened(init["kemac"], prf(keys.mpki, "encr_key", "init", init["rand_i"]))[0]


def v_of_transfer_resp(mpk: Term, init: Term, id_r: Term, rand_r: Term, rand_kms: Term, kemac: Term) -> Term:
    """V of TRANSFER_RESP: it covers TRANSFER_INIT too (5.5)."""
    auth_key = prf(mpk, "auth_key", "resp", init["rand_i"], rand_r)
    return mac(auth_key, name("TRANSFER_RESP"), id_r, rand_r, rand_kms, kemac, init)

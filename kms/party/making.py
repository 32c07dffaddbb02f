"""Tickets that the Initiator makes itself, with a TPK that it shares (RFC 6043 4.1.1, modes 3 and 4; appendix A)."""

from collections.abc import Sequence

from kms.crypto import base_ticket
from kms.crypto.interface import Use
from kms.crypto.suite import suite_of
from kms.mikey import policy as rules
from kms.mikey.errors import ProtocolError
from kms.mikey.labels import ProtectionKey
from kms.mikey.payloads import Flags, KeyData, TicketPolicy
from kms.mikey.registry import ErrorNo, IdRole
from kms.mikey.ticket_data import BASE_TICKET, KeyEntry
from kms.party.party import Party
from kms.party.receiving import load_prf_key
from kms.party.requesting import GrantedTicket

MPK_LENGTH = 32
"""Bytes of MPKs, in both suites."""
MODE_3_FLAGS = (rules.FORKED_MODE_1 & ~Flags.D) | Flags.L | Flags.M
"""Flags of a ticket that the KMS opens: key forking, no reuse, both parties may supply keys."""
MODE_4_FLAGS = MODE_3_FLAGS & ~(Flags.E | Flags.I)
"""Flags of a ticket that the peer opens: nobody could fork its keys."""


def make_ticket(party: Party, policy: TicketPolicy, keys: Sequence[KeyData]) -> GrantedTicket:
    """A MIKEY base ticket with this policy. `keys` are the session keys to encode: their bytes are made anew.

    With E = 1 the TPK is the one shared with the KMS (mode 3), with E = 0 the one shared with the only responder
    (mode 4). Raises ProtocolError if there is no such TPK, or for a policy that such a ticket cannot have.
    """
    suite = suite_of(policy.prf)
    rules.check_granted(policy)
    rules.check_session_keys(policy, keys)
    if (policy.ticket_type, policy.subtype, policy.version) != BASE_TICKET or policy.flags & Flags.D:
        raise ProtocolError("the Initiator makes base tickets with D = 0", ErrorNo.INVALID_TPPAR)
    if rules.identity(policy, IdRole.INITIATOR) != party.identity:
        raise ProtocolError("IDRi of a ticket is who makes it", ErrorNo.INVALID_TPPAR)
    peer = None if policy.flags & Flags.E else _only_responder(policy)
    tpk = party.tpk_for_making(suite.bits, peer)
    wanted = [KeyEntry(k.key_type, len(k.key), len(k.salt), k.spi or party.new_spi()) for k in keys]
    ops, sources = party.ops, party.sources
    key = ops.load(tpk.tpk, Use.PRF)
    ticket, made = base_ticket.make(ops, sources, tpk.tpk_id, key, policy, wanted, MPK_LENGTH)
    mpk = load_prf_key(ops, made.mpk)
    mpki, mpkr = (
        ops.load(base_ticket.protection_key(ops, mpk, suite.prf, c, made.rand, MPK_LENGTH), Use.PRF)
        for c in (ProtectionKey.MPKI, ProtectionKey.MPKR)
    )
    return GrantedTicket(ticket, mpki, mpkr if policy.flags & Flags.I else None, made.session_keys)


def _only_responder(policy: TicketPolicy) -> str:
    names = rules.responders(policy)
    if len(names) != 1:
        raise ProtocolError(
            "a ticket with E = 0 is for one responder, which has its TPK", ErrorNo.INVALID_TPPAR
        )
    return names[0].decode(errors="replace")

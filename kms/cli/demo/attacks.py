"""What must fail. Mallory is an enrolled subscriber whose software keeps no rule, and who reads every INVITE.

She cannot be stopped at her own side, so her messages are made below the SDK, from kms.party's parts.
"""

import os
from dataclasses import replace

from kms.cli.demo.play import ALICE, BOB, FOCUS, MALLORY, Cast, Conference, short
from kms.cli.demo.show import Show, Unexpected
from kms.client import (
    Acceptance,
    AuthenticationError,
    ClientEndpoint,
    Credential,
    Offer,
    ProtocolError,
    Refused,
    Stream,
)
from kms.crypto.interface import Key, Use
from kms.mikey.message import Message
from kms.mikey.payloads import Ticket
from kms.party.initiator import OutgoingTransfer
from kms.party.party import Party
from kms.party.requesting import GrantedTicket
from kms.party.responder import IncomingTransfer, Resolution
from kms.sdk.streams import encode

_KEY_LENGTH = 32


class Mallory:
    """The attacker."""

    def __init__(self, credential: Credential) -> None:
        self._party = Party.of(credential)
        self._endpoint = ClientEndpoint(credential)
        # She takes calls to the focus for calls to herself.
        self._acceptance = Acceptance(groups=frozenset({FOCUS.encode()}))

    def close(self) -> None:
        """Close her connection to the KMS."""
        self._endpoint.close()

    def resolve(self, transfer_init: bytes) -> Resolution:
        """Have the KMS open the ticket in a TRANSFER_INIT that was not for her. Raises Refused."""
        incoming = IncomingTransfer(self._party, transfer_init, self._acceptance)
        return incoming.resolved(self._endpoint.resolve_ticket(incoming.resolve_init().raw))

    def pose_as_initiator(self, victim: str, transfer_init: bytes, mpki: Key | None = None) -> bytes:
        """A TRANSFER_INIT of her own with the victim's ticket. MPKr, and without `mpki` MPKi too, she must make up."""
        ticket = replace(Message.decode(transfer_init).get(Ticket), initiator_data=b"")
        granted = GrantedTicket(ticket, mpki or self._made_up_key(), self._made_up_key(), ())
        sessions, policies = encode([Stream()])
        pretender = replace(self._party, identity=victim.encode())
        return OutgoingTransfer(pretender, granted, FOCUS.encode(), sessions, policies).message.raw

    def pose_as_focus(self, transfer_init: bytes, resolution: Resolution) -> bytes:
        """A TRANSFER_RESP in the focus's name, with the MPKr' that the KMS forked for her."""
        incoming = IncomingTransfer(self._party, transfer_init, self._acceptance)
        incoming.reuse(replace(resolution, identity_r=FOCUS.encode()))
        return incoming.answer().raw

    def _made_up_key(self) -> Key:
        return self._party.ops.load(os.urandom(_KEY_LENGTH), Use.PRF)


def attack(cast: Cast, conference: Conference, show: Show) -> None:
    """Try everything. Raises Unexpected if anything succeeds."""
    mallory = Mallory(Credential.load(cast.files[MALLORY]))
    try:
        _with_bobs_ticket(mallory, cast, conference, show)
        _with_a_ticket_that_she_may_open(mallory, cast, conference, show)
    finally:
        mallory.close()


def _with_bobs_ticket(mallory: Mallory, cast: Cast, conference: Conference, show: Show) -> None:
    show.act("Attacks: mallory has read bob's INVITE")
    who, bob, focus = short(MALLORY), cast.members[BOB], short(FOCUS)
    captured = conference.offers[BOB].message
    with show.refused(who, "sends bob's TRANSFER_INIT once more", focus, ProtocolError):
        cast.focus.receive(captured)
    with show.refused(who, "puts bob's used ticket into a TRANSFER_INIT of her own", focus, ProtocolError):
        cast.focus.receive(mallory.pose_as_initiator(BOB, captured))
    with show.step(short(BOB), "calls the focus with a new ticket; mallory holds his INVITE back"):
        offer = bob.offer(bob.request_ticket([FOCUS]), FOCUS, [Stream()])
    what = "replays bob's ticket as her own, in a TRANSFER_INIT that she made (Vr)"
    with show.refused(who, what, "the KMS", Refused) as refusal:
        cast.focus.receive(mallory.pose_as_initiator(BOB, offer.message))
    refusal.must_be("INITIATOR_NOT_AUTHENTIC")
    with show.refused(who, "has bob's ticket resolved, uninvited", "the KMS", Refused) as refusal:
        mallory.resolve(offer.message)
    refusal.must_be("NOT_AUTHORIZED")
    with show.step(focus, "takes bob's own INVITE, which comes late: her attempts have changed nothing"):
        _establish(cast, conference, offer, BOB)


def _with_a_ticket_that_she_may_open(
    mallory: Mallory, cast: Cast, conference: Conference, show: Show
) -> None:
    """The harder case: she is one of two responders named in the ticket, so the KMS gives her MPKi and its keys."""
    show.act("Attacks from inside: alice's next ticket may be opened by the focus or by mallory")
    who, alice, focus = short(MALLORY), cast.members[ALICE], short(FOCUS)
    with show.step(short(ALICE), "asks for a ticket for both, and calls the focus with it"):
        ticket = alice.request_ticket([FOCUS, MALLORY])
        offer = alice.offer(ticket, FOCUS, [Stream()])
    with show.step(who, "has the KMS open it: she has MPKi now, and an MPKr' of her own"):
        resolution = mallory.resolve(offer.message)
    what = "is a false focus: answers alice in its name (MPKr')"
    with show.refused(who, what, short(ALICE), AuthenticationError):
        offer.complete(mallory.pose_as_focus(offer.message, resolution))
    with show.refused(
        who, "poses as alice to the focus, with the true MPKi (Vr)", "the KMS", Refused
    ) as refusal:
        cast.focus.receive(mallory.pose_as_initiator(ALICE, offer.message, resolution.mpki))
    refusal.must_be("INITIATOR_NOT_AUTHENTIC")
    with show.step(focus, "answers alice's call itself"):
        _establish(cast, conference, offer, ALICE)


def _establish(cast: Cast, conference: Conference, offer: Offer, caller: str) -> None:
    call = cast.focus.receive(offer.message)
    session = offer.complete(call.answer(conference.group).message or b"")
    if (call.caller, session.peer) != (caller, FOCUS):
        raise Unexpected(f"{call.caller} and {session.peer} are authenticated, not {caller} and {FOCUS}")

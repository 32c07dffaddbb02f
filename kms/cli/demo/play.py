"""The conference: alice creates it at the factory URI, bob and carol join it, all hear each other."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kms.cli.demo import media
from kms.cli.demo.show import Show, Unexpected
from kms.client import Offer, Participant, SrtpKeys, Stream
from kms.focus import Focus, GroupKeys

KMS = "sip:kms@example.com"
ALICE, BOB, CAROL, MALLORY = (f"sip:{name}@example.com" for name in ("alice", "bob", "carol", "mallory"))
FACTORY, FOCUS = "sip:conf-factory@example.com", "sip:conf-focus@example.com"
IDENTITIES = {
    ALICE: "client",
    BOB: "client",
    CAROL: "client",
    MALLORY: "client",
    FACTORY: "focus",
    FOCUS: "focus",
}
"""Who is enrolled, with which role."""

_SSRCS = {ALICE: 0xA11CE, BOB: 0xB0B, CAROL: 0xCA401}


class Cast:
    """The players, each with its own SDK and its own connection to the KMS."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self.files = files
        self._stack = ExitStack()
        self.members = {
            identity: self._stack.enter_context(Participant.load(files[identity]))
            for identity in (ALICE, BOB, CAROL)
        }
        self.factory = self._stack.enter_context(Focus.load(files[FACTORY]))
        self.focus = self._stack.enter_context(Focus.load(files[FOCUS]))

    def __enter__(self) -> "Cast":
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


@dataclass
class Conference:
    """What is known of the conference afterwards: what went over the wire, and the keys each derived for itself."""

    group: GroupKeys
    offers: dict[str, Offer]
    keys: dict[str, SrtpKeys]
    focus_keys: SrtpKeys


def hold_conference(cast: Cast, show: Show) -> Conference:
    """Create, join, talk. Raises Unexpected, KmsError or MikeyError."""
    show.act("A conference: every message over gRPC and TLS to the KMS, or in SDP between the parties")
    with show.step(short(FOCUS), "has the KMS make a group key (TEK with salt) for audio"):
        group = cast.focus.group_keys(["audio"])
    offers: dict[str, Offer] = {}
    keys: dict[str, SrtpKeys] = {}
    for identity, focus in ((ALICE, cast.factory), (BOB, cast.focus), (CAROL, cast.focus)):
        offers[identity], keys[identity], focus_keys = join(cast.members[identity], focus, group, show)
    conference = Conference(group, offers, keys, focus_keys)

    show.act("Media: SRTP from every member through the focus to every other")
    names = " and ".join([", ".join(map(short, list(keys)[:-1])), short(list(keys)[-1])])
    with show.step(names, f"send {media.PACKETS} SRTP packets each; the focus and the others decrypt them"):
        heard = media.play({short(identity): key for identity, key in keys.items()}, focus_keys)
    expected = media.PACKETS * len(keys) * (len(keys) - 1)
    if heard != expected:
        raise Unexpected(f"{heard} packets were heard, not {expected}")
    show.note(f"{heard} packets came out as they went in ({keys[ALICE].profile})")
    return conference


def join(member: Participant, focus: Focus, group: GroupKeys, show: Show) -> tuple[Offer, SrtpKeys, SrtpKeys]:
    """One call to the focus: ticket, TRANSFER_INIT, resolve, TRANSFER_RESP. Raises Unexpected if a name is wrong."""
    caller, called = short(member.identity), short(focus.identity)
    verb = "create a conference at" if focus.identity == FACTORY else "join"
    with show.step(caller, f"REQUEST: asks the KMS for a ticket, to {verb} {focus.identity}"):
        ticket = member.request_ticket([focus.identity])
    with show.step(caller, "INVITE: TRANSFER_INIT with the ticket, Vi and Vr, as a=key-mgmt:mikey"):
        offer = member.offer(ticket, focus.identity, [Stream(ssrc=_SSRCS[member.identity])])
    with show.step(called, "RESOLVE: has the KMS open the ticket and check Vr, then checks V and Vi = V"):
        call = focus.receive(offer.sdp)
    with show.step(called, f"200 OK to {call.caller}: TRANSFER_RESP with the group key"):
        answer = call.answer(group)
    with show.step(caller, "forks MPKr' and verifies TRANSFER_RESP with it"):
        session = offer.complete(answer.sdp or b"")
    if call.caller != member.identity or session.peer != focus.identity:
        raise Unexpected(f"{call.caller} and {session.peer} are authenticated, not those who spoke")
    if not session.peer_authenticated or not answer.session.peer_authenticated:
        raise Unexpected(f"{caller} and {called} are not authenticated to each other")
    show.authenticated += [
        (
            caller,
            called,
            "Vr, made with MPKr: checked by the KMS in the token; V, made with MPKi: checked by the focus",
        ),
        (
            called,
            caller,
            "V of TRANSFER_RESP, made with MPKr', which the KMS forked from MPKr for this focus alone",
        ),
    ]
    return offer, session.srtp[0], answer.session.srtp[0]


def short(identity: str) -> str:
    """The user part of a SIP URI."""
    return identity.removeprefix("sip:").partition("@")[0]

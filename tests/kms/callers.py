"""Subscribers of a LocalKms, and what several tests do with them."""

from collections.abc import Callable, Sequence

from kms.client import Acceptance, Credential, Participant
from kms.crypto.sources import Sources
from kms.engine.directory import Role
from kms.focus import Focus, ReplayCache
from kms.mikey.message import Message
from kms.mikey.payloads import Payload
from tests.kms.local_kms import LocalEndpoint, LocalKms

ALICE, BOBBY, CAROL = "sip:alice@example.com", "sip:bobby@example.com", "sip:carol@example.com"
FOCUS = "sip:focus@example.com"


def participant(
    kms: LocalKms, who: str | Credential, acceptance: Acceptance | None = None, *, aliases: Sequence[str] = ()
) -> Participant:
    """A participant, enrolled now unless a credential is given."""
    credential = kms.enrol(who, aliases=aliases) if isinstance(who, str) else who
    endpoint, sources = LocalEndpoint(kms, credential), Sources(clock=kms.clock)
    return Participant(credential, endpoint=endpoint, sources=sources, acceptance=acceptance)


def focus(
    kms: LocalKms,
    who: str | Credential = FOCUS,
    acceptance: Acceptance | None = None,
    *,
    aliases: Sequence[str] = (),
    replay: ReplayCache | None = None,
) -> Focus:
    """A focus, enrolled now unless a credential is given."""
    credential = kms.enrol(who, Role.FOCUS, aliases) if isinstance(who, str) else who
    endpoint, sources = LocalEndpoint(kms, credential), Sources(clock=kms.clock)
    return Focus(credential, endpoint=endpoint, sources=sources, acceptance=acceptance, replay=replay)


def rebuilt(raw: bytes, change: Callable[[Payload], Payload]) -> bytes:
    """A message with each payload replaced by change(payload): well-formed, with the old MAC."""
    message = Message.decode(raw)
    return Message.build(message.hdr, [change(p) for p in message.payloads]).raw

"""Subscribers of a LocalKms, and what several tests do with them."""

from collections.abc import Sequence
from typing import Any

from kms.client import Acceptance, Credential, Participant
from kms.crypto.sources import Sources
from kms.engine.directory import Role
from kms.focus import Focus
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


def focus(kms: LocalKms, identity: str = FOCUS, acceptance: Acceptance | None = None, **more: Any) -> Focus:
    """A focus, enrolled now."""
    credential = kms.enrol(identity, Role.FOCUS)
    endpoint, sources = LocalEndpoint(kms, credential), Sources(clock=kms.clock)
    return Focus(credential, endpoint=endpoint, sources=sources, acceptance=acceptance, **more)


def rebuilt(raw: bytes, change: "Any") -> bytes:
    """A message with each payload replaced by change(payload): well-formed, with the old MAC."""
    message = Message.decode(raw)
    payloads: list[Payload] = [change(p) for p in message.payloads]
    return Message.build(message.hdr, [p for p in payloads if p is not None]).raw

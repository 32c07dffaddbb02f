"""Focus SDK: has tickets resolved, verifies callers, hands out group keys; holds the focus's keys.

with Focus.load("focus.json") as focus:
    group = focus.group_keys(["audio", "video"])
    call = focus.receive(sdp_of_the_invite)
    if may_join(call.caller):
        answer = call.answer(group)  # answer.sdp into the 200 OK, answer.session.srtp into the media
"""

from kms.focus.endpoint import FocusEndpoint
from kms.focus.focus import Focus, IncomingCall
from kms.focus.group_keys import GROUP_KEY_FLAGS, GroupKeys
from kms.mikey.errors import AuthenticationError, DecodeError, MikeyError, ProtocolError, ReceivedError
from kms.party.acceptance import Acceptance
from kms.party.credential import Credential, CredentialError
from kms.party.media import SrtpKeys
from kms.party.memory import InMemoryReplayCache, ReplayCache
from kms.party.session import Session
from kms.sdk.calls import Answer
from kms.sdk.endpoint import BatchEndpoint
from kms.sdk.errors import KmsError, KmsFault, Refused, TimedOut, Unavailable

__all__ = [
    "GROUP_KEY_FLAGS",
    "Acceptance",
    "Answer",
    "AuthenticationError",
    "BatchEndpoint",
    "Credential",
    "CredentialError",
    "DecodeError",
    "Focus",
    "FocusEndpoint",
    "GroupKeys",
    "InMemoryReplayCache",
    "IncomingCall",
    "KmsError",
    "KmsFault",
    "MikeyError",
    "ProtocolError",
    "ReceivedError",
    "Refused",
    "ReplayCache",
    "Session",
    "SrtpKeys",
    "TimedOut",
    "Unavailable",
]

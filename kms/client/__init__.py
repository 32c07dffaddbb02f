"""Participant SDK: requests tickets, offers and answers calls; holds the participant's keys.

with Participant.load("alice.json") as alice:
    ticket = alice.request_ticket(["sip:conference@example.com"])
    offer = alice.offer(ticket, "sip:conference@example.com", [Stream(ssrc=0x1234)])
    ...  # offer.sdp into the INVITE; the 200 OK brings the answer
    session = offer.complete(answer)
    session.peer, session.srtp
"""

from kms.client.endpoint import ClientEndpoint
from kms.client.participant import CALL_FLAGS, IncomingCall, Offer, Participant
from kms.mikey.errors import AuthenticationError, DecodeError, MikeyError, ProtocolError, ReceivedError
from kms.party.acceptance import Acceptance
from kms.party.credential import Credential, CredentialError
from kms.party.media import SrtpKeys
from kms.party.requesting import GrantedTicket
from kms.party.session import Session
from kms.sdk.calls import Answer
from kms.sdk.endpoint import Endpoint
from kms.sdk.errors import KmsError, KmsFault, Refused, TimedOut, Unavailable
from kms.sdk.streams import Stream

__all__ = [
    "CALL_FLAGS",
    "Acceptance",
    "Answer",
    "AuthenticationError",
    "ClientEndpoint",
    "Credential",
    "CredentialError",
    "DecodeError",
    "Endpoint",
    "GrantedTicket",
    "IncomingCall",
    "KmsError",
    "KmsFault",
    "MikeyError",
    "Offer",
    "Participant",
    "ProtocolError",
    "ReceivedError",
    "Refused",
    "Session",
    "SrtpKeys",
    "Stream",
    "TimedOut",
    "Unavailable",
]

"""What a party accepts from others: local policy, checked before the KMS is asked (RFC 6043 4.2.2.2)."""

from dataclasses import dataclass

from kms.mikey import policy as rules
from kms.mikey import timestamps
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Flags, T, TicketPolicy
from kms.mikey.registry import ErrorNo, TsType
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80, AES_CM_256_HMAC_SHA1_80, SrtpPolicy


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Local policy. The defaults are the secure ones; every field may be loosened knowingly.

    `required_flags` must be set in a received ticket. Without I anybody who may resolve the ticket can pose as the
    Initiator or the Responder; without E a Responder may have opened it without the KMS.
    `aliases` are other names of this party that the KMS knows; it resolves a ticket by the alias that was called.
    `groups` are groups that it is a member of; it resolves by its own name, and the Initiator learns who answered.
    `srtp` are the acceptable SRTP policies; none of the defaults has NULL encryption or authentication.
    `application` is this party's application ID: a ticket that names only others (IDRapp) is refused. None checks none.
    `skew` is how many seconds T of a TRANSFER_INIT may be off; `counter` accepts COUNTER timestamps, which have no age.
    `same_initiator` refuses a TRANSFER_INIT whose IDRi is not the IDRi of the Ticket Policy (A-35).
    """

    required_flags: Flags = Flags.I | Flags.E
    aliases: frozenset[bytes] = frozenset()
    groups: frozenset[bytes] = frozenset()
    srtp: tuple[SrtpPolicy, ...] = (AES_CM_128_HMAC_SHA1_80, AES_CM_256_HMAC_SHA1_80)
    skew: float = 60.0
    counter: bool = False
    same_initiator: bool = True
    application: bytes | None = None

    def check_fresh(self, t: T, now: float) -> None:
        """Raise ProtocolError (Invalid TS) unless a message's timestamp is of a kind and age that is accepted."""
        if t.ts_type != TsType.COUNTER:
            timestamps.check_fresh(t, now, self.skew)
        elif not self.counter:
            raise ProtocolError("COUNTER timestamps are not accepted here", ErrorNo.INVALID_TS)

    def check_srtp(self, policy: SrtpPolicy) -> None:
        """Raise ProtocolError (Invalid SPpar) unless the SRTP policy is acceptable."""
        if policy not in self.srtp:
            raise ProtocolError("the SRTP policy is not acceptable here", ErrorNo.INVALID_SPPAR)

    def check_application(self, policy: TicketPolicy) -> None:
        """Raise ProtocolError (Invalid TPpar) unless the ticket is for this application, or for all (6.10)."""
        authorised = rules.applications(policy)
        if self.application is not None and authorised and self.application not in authorised:
            raise ProtocolError("the ticket is not for this application (IDRapp)", ErrorNo.INVALID_TPPAR)

    def check_flags(self, flags: Flags) -> None:
        """Raise ProtocolError (Invalid TPpar) unless a ticket's flags are acceptable."""
        missing = self.required_flags & ~flags
        if missing:
            raise ProtocolError(
                f"tickets without the flags {missing.letters} are not accepted here", ErrorNo.INVALID_TPPAR
            )

"""Group keys of a conference: where they come from, and what a caller needs of them.

How a focus gets group keys. It asks the KMS for a ticket that encodes them (RFC 6043 4.2.1, 9) and uses what comes
beside the ticket: the keys. The callers' own tickets then carry the keys to them, in the KEMAC of TRANSFER_RESP (M
flag). So the group-key ticket itself is never sent, unless the focus calls members itself (dial-out), and:

- Keys: one TEK with salt for each medium. A TEK is the SRTP master key as it is, so all members have the same one
  whatever RANDs and CS IDs their calls have. A GTGK gives them the same TEK only if nothing in the label of 5.1.3
  differs: H = 0 (no RANDRi), G = 1 with one RANDRr for all, and the same CS ID for the medium in every call (A-38).
  Neither is ever forked (5.1.1), so the I flag does not split the group.
- I = 1 all the same, hence E = 1: with dial-out, Vr shows the members' KMS that the focus itself sent the ticket, and
  MPKr' shows the focus which member answered. With I = 0 every member could pose as the focus to the others.
- D, N, O = 1: the KMS makes the ticket, and parties that know RFC 6043 alone can use it.
- F = 1 and G = 1, H = 0: a member confirms, and a GTGK needs no RANDRi. A TEK does not care.
- J = 1 only with members: one ticket in a Ticket Transfer with each of them is reuse (5.3). L = M = 0: nobody else
  brings keys.
- IDRr: a policy must name a responder. Without dial-out it is the focus itself, so that nobody but the focus could ever
  have the ticket resolved; not the conference URI, which might become a group of others in some KMS. With dial-out it
  is the members.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from kms.mikey.payloads import Flags, KeyData
from kms.mikey.registry import KeyType
from kms.mikey.srtp import SrtpPolicy
from kms.party.requesting import GrantedTicket

GROUP_KEY_FLAGS = Flags.D | Flags.E | Flags.F | Flags.G | Flags.I | Flags.N | Flags.O
"""Flags of a group-key ticket; see the module's text."""
GROUP_KEY_TYPES = (KeyType.TEK_SALT, KeyType.GTGK_SALT)
"""What a group key may be: the default, and the alternative for a focus that controls the CS IDs."""


@dataclass
class GroupKeys:
    """The group keys of a conference, one for each medium in order. `repr` hides them. Thread-safe.

    `keys` are TEKs or GTGKs with salt, each with its SPI (MKI); `policy` is the SRTP policy they are for; `randr_r` is
    the one RANDRr that every member gets with a GTGK, None for TEKs. `ticket` is for dial-out.
    """

    media: tuple[str, ...]
    keys: tuple[KeyData, ...] = field(repr=False)
    policy: SrtpPolicy
    ticket: GrantedTicket = field(repr=False)
    randr_r: bytes | None = field(default=None, repr=False)
    _ssrcs: set[int] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def key(self, medium: str) -> KeyData:
        """The key of a medium. Raises KeyError."""
        return self.keys[self._index(medium)]

    def cs_id(self, medium: str) -> int | None:
        """The CS ID that the medium must have in every call: 1, 2, ... for a GTGK; None (any) for a TEK."""
        return None if self.randr_r is None else self._index(medium) + 1

    def allocate_ssrc(self, wanted: int | None, new: Callable[[], int]) -> int:
        """An SSRC that nobody else has under these keys: the wanted one if it is free, else a new one.

        Two streams with one SSRC and one TEK would be encrypted with the same keystream (RFC 3711 9.1).
        """
        with self._lock:
            ssrc = wanted
            while ssrc is None or ssrc in self._ssrcs:
                ssrc = new()
            self._ssrcs.add(ssrc)
            return ssrc

    def release_ssrcs(self, *ssrcs: int) -> None:
        """Take back SSRCs under which nothing was ever sent, as of a call that was not answered after all."""
        with self._lock:
            self._ssrcs.difference_update(ssrcs)

    def _index(self, medium: str) -> int:
        if medium not in self.media:
            raise KeyError(f"{medium!r} is none of the media {', '.join(self.media)}")
        return self.media.index(medium)

"""What an engine needs beside a message: the token, its keys, the directory, the clock and the operator's limits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from kms.crypto.interface import Key, KeyOperations
from kms.crypto.sources import Sources
from kms.engine.certificates import Certificates
from kms.engine.directory import Directory
from kms.engine.epochs import TicketKeys
from kms.engine.granting import Limits
from kms.engine.peers import Peer
from kms.engine.pke_budget import PkeBudget
from kms.engine.psk import PskSource
from kms.engine.shared_tpks import SharedTpks
from kms.engine.tickets import MPK_LENGTH


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What the public-key messages need: trust in certificates, and the KMS's RSA key, which stays in the token.

    `certificate` is the KMS's own (DER), whose key senders encrypt envelope keys for.
    """

    certificates: Certificates
    certificate: bytes
    private_key: Callable[[], Key]
    budget: PkeBudget = field(default_factory=PkeBudget)


@dataclass(frozen=True, slots=True)
class Context:
    """Made once per engine. `clock_skew` is in seconds; `base_mpk_length` is the length of MPKs in base tickets.

    Without `public_key` the public-key messages are refused. `peers` are other KMSs by identity: their tickets are
    forwarded to them.
    Without `shared_tpks` all tickets are of mode 1.
    With `counter_timestamps` a COUNTER T is accepted: only the replay cache then tells an old message from a new one.
    """

    kms_identity: bytes
    ops: KeyOperations
    psks: PskSource
    keys: TicketKeys
    directory: Directory
    sources: Sources
    limits: Limits = field(default_factory=Limits)
    clock_skew: float = 60.0
    base_mpk_length: int = MPK_LENGTH
    counter_timestamps: bool = False
    public_key: PublicKey | None = None
    peers: Mapping[bytes, Peer] = field(default_factory=dict)
    shared_tpks: SharedTpks | None = None

"""What every party does first with a received message, and with the keys in a KEMAC from the KMS."""

from collections.abc import Sequence

from kms.crypto.interface import Key, KeyOperationError, KeyOperations, Use
from kms.crypto.protection import MessageProtection
from kms.mikey import policy as rules
from kms.mikey.errors import AuthenticationError, ProtocolError, ReceivedError
from kms.mikey.exchange import RECEIVE, Progress, check_message, check_response
from kms.mikey.message import Message
from kms.mikey.payloads import Flags, Kemac, KeyData, Sp, T, TicketPolicy, V
from kms.mikey.registry import DataType, ErrorNo, KeyType

MAX_KEY_LENGTH = 64
"""Bytes of the longest MPK or session key that the parties handle."""


def receive_response(
    raw: bytes,
    initial: Message,
    expected: DataType,
    progress: Progress,
    protection: MessageProtection,
    *,
    update: bool = False,
) -> Message:
    """Decode the answer to `initial` and check its payloads and HDR; its MAC is the caller's next step.

    Raises ReceivedError for an Error message; `protection` are the keys of `initial`, which authenticate one that has
    a V (A-25). Only an authenticated Error message ends the exchange: anybody can forge the other kind.
    """
    message = Message.decode(raw)
    if message.hdr.data_type == DataType.ERROR:
        progress.check(RECEIVE, DataType.ERROR)
        check_message(message, DataType.ERROR)
        check_response(initial, message)
        authenticated = _is_authenticated(message, protection)
        if authenticated:
            progress.move(RECEIVE, DataType.ERROR)
        raise ReceivedError(message.error_numbers, authenticated, message.find_all(Sp))
    progress.check(RECEIVE, expected)
    check_message(message, expected, update=update)
    check_response(initial, message)
    return message


def _is_authenticated(error: Message, protection: MessageProtection) -> bool:
    if not error.payloads or not isinstance(error.payloads[-1], V):
        return False
    try:
        protection.verify(error)
    except AuthenticationError:
        return False
    return True


def split_mpks(
    keys: Sequence[KeyData], policy: TicketPolicy
) -> tuple[tuple[KeyData, ...], tuple[KeyData, ...]]:
    """The MPKs and the session keys of a REQUEST_RESP or RESOLVE_RESP (4.2.1.5, 4.2.3.5).

    MPKi alone, or MPKi and MPKr (MPKr') with key forking, come first. Raises ProtocolError.
    """
    wanted = 2 if policy.flags & Flags.I else 1
    mpks, session_keys = tuple(keys[:wanted]), tuple(keys[wanted:])
    if [k.key_type for k in mpks] != [KeyType.MPK] * wanted or any(
        k.key_type == KeyType.MPK for k in session_keys
    ):
        raise ProtocolError(f"KEMAC must hold {wanted} MPK, followed by session keys (I flag)")
    for key in keys:
        check_key_length(key)
    rules.check_spis(keys)
    rules.check_session_keys(policy, session_keys)
    return mpks, session_keys


def check_key_length(key: KeyData) -> None:
    """Raise ProtocolError unless a key has 16 bytes or more (12.1), and no more than are supported here."""
    if not 16 <= len(key.key) <= MAX_KEY_LENGTH:
        raise ProtocolError(
            f"a {key.key_type.name} of {len(key.key)} bytes: 16 to {MAX_KEY_LENGTH} are supported"
        )


def open_kemac(message: Message, protection: MessageProtection) -> tuple[KeyData, ...]:
    """The keys in the KEMAC of a verified message. Raises DecodeError or ProtocolError."""
    try:
        return protection.open(message.get(Kemac), message.get(T))
    except KeyOperationError as error:
        raise ProtocolError(
            f"{message.name}: KEMAC cannot be decrypted: {error}", ErrorNo.INVALID_EA
        ) from None


def load_prf_key(ops: KeyOperations, key: KeyData) -> Key:
    """An MPK, TGK or GTGK as a PRF key."""
    return ops.load(key.key, Use.PRF)

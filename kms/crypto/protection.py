"""Protecting MIKEY messages (RFC 6043 5.1.2, 5.5) and the keys in them, over any KeyOperations.

The engine uses it with keys in the token, the SDKs with keys in software: the code is the same.
"""

from collections.abc import Iterable

from kms.crypto.interface import Key, KeyOperations, Use, VerificationError
from kms.mikey import labels
from kms.mikey.errors import AuthenticationError, ProtocolError
from kms.mikey.labels import MessageKey
from kms.mikey.message import Message
from kms.mikey.payloads import Kemac, KeyData, T
from kms.mikey.registry import EncrAlg, ErrorNo, PrfFunc


class MessageProtection:
    """The keys of one direction of one exchange, derived when first used.

    `key` is the PSK, envelope key or MPK; `prf` and `csb_id` are HDR's, also in a response (A-09); an omitted RAND is
    empty. `direction` is labels.INITIAL or labels.RESPONSE.
    """

    def __init__(
        self,
        ops: KeyOperations,
        key: Key,
        prf: PrfFunc,
        csb_id: int,
        direction: int,
        *,
        randr_i: bytes = b"",
        randr_r: bytes = b"",
    ) -> None:
        self._ops = ops
        self._key = key
        self._prf = prf
        self._inputs = (csb_id, direction, randr_i, randr_r)
        self._csb_id = csb_id
        self._derived: dict[tuple[MessageKey, Use, int], Key] = {}

    def sign(self, message: Message, *suffixes: bytes) -> Message:
        """The message with the MAC in its V payload. `suffixes` are those of `Message.coverage`."""
        alg = message.v.auth_alg
        key = self._derive(MessageKey.AUTH, labels.AUTH_KEY_LENGTHS[alg], Use.SIGN)
        return message.with_mac(self._ops.mac(key, alg, message.coverage(*suffixes)))

    def verify(self, message: Message, *suffixes: bytes) -> None:
        """Raise AuthenticationError unless the MAC in the message's V payload verifies."""
        v = message.v
        length = labels.AUTH_KEY_LENGTHS.get(v.auth_alg)
        if length is None:
            raise ProtocolError(
                f"{message.name}: V with {v.auth_alg.name} authentication", ErrorNo.INVALID_MAC
            )
        key = self._derive(MessageKey.AUTH, length, Use.VERIFY)
        try:
            self._ops.verify(key, v.auth_alg, message.coverage(*suffixes), v.mac)
        except VerificationError:
            raise AuthenticationError(f"the MAC in V of {message.name} does not verify") from None

    def seal(self, keys: Iterable[KeyData], alg: EncrAlg, t: T) -> Kemac:
        """A KEMAC with these keys. `t` is the T payload of the message that will carry it (A-01)."""
        iv, key = self._cipher(alg, t, Use.ENCRYPT)
        return Kemac(alg, self._ops.encrypt(key, alg, iv, KeyData.write_all(keys)))

    def open(self, kemac: Kemac, t: T) -> tuple[KeyData, ...]:
        """The keys in a KEMAC. Call it after the message was verified. Raises ProtocolError or DecodeError."""
        alg = encr_alg(kemac)
        iv, key = self._cipher(alg, t, Use.DECRYPT)
        return KeyData.read_all(unseal(self._ops, key, alg, iv, kemac))

    def _cipher(self, alg: EncrAlg, t: T, use: Use) -> tuple[bytes, Key]:
        label = labels.message_key(MessageKey.SALT, *self._inputs)
        salt = self._ops.prf_release(self._key, self._prf, label, labels.SALT_KEY_LENGTHS[alg])
        iv = labels.kemac_iv(alg, salt, self._csb_id, t.ts_type, t.value)
        return iv, self._derive(MessageKey.ENCR, labels.ENCR_KEY_LENGTHS[alg], use)

    def _derive(self, constant: MessageKey, length: int, use: Use) -> Key:
        index = (constant, use, length)
        if index not in self._derived:
            label = labels.message_key(constant, *self._inputs)
            self._derived[index] = self._ops.prf_key(self._key, self._prf, label, length, use)
        return self._derived[index]


def unseal(ops: KeyOperations, key: Key, alg: EncrAlg, iv: bytes, kemac: Kemac) -> bytes:
    """The decrypted KEMAC. Raises ProtocolError (Invalid EA) if it is an AES key wrap that does not open."""
    try:
        return ops.decrypt(key, alg, iv, kemac.encr_data)
    except VerificationError as error:
        raise ProtocolError(f"KEMAC cannot be decrypted: {error}", ErrorNo.INVALID_EA) from None


def encr_alg(kemac: Kemac) -> EncrAlg:
    """The KEMAC's encryption algorithm. Raises ProtocolError (Invalid EA) if it is NULL or unknown."""
    if kemac.encr_alg not in labels.ENCR_KEY_LENGTHS:
        raise ProtocolError(f"KEMAC with Encr alg {kemac.encr_alg}", ErrorNo.INVALID_EA)
    return EncrAlg(kemac.encr_alg)

"""The initial messages to the KMS, REQUEST_INIT and RESOLVE_INIT: the one place that knows of PSK and public key.

A REQUEST_INIT carries TP and comes from the Initiator, a RESOLVE_INIT carries TICKET and comes from the Responder; the
PSK variants end with IDRpsk and V (RFC 6043 4.2.1.2, 4.2.3.2), the public-key ones bring CERT and end with CHASH, PKE
and SIGN (4.2.1.3, 4.2.3.3). Both answers are protected alike, by keys derived from the PSK or the envelope key.
"""

from dataclasses import dataclass, field

from kms.crypto.interface import Key, Use
from kms.crypto.protection import MessageProtection
from kms.mikey.labels import INITIAL, RESPONSE
from kms.mikey.message import Message, unsigned_v
from kms.mikey.payloads import Cert, Chash, Hdr, Idr, Payload, Pke, Sign, Ticket, Tp
from kms.mikey.registry import CertType, DataType, IdRole, IdType, RandRole, SignType
from kms.party.party import KmsKey, Party, SigningKey, SuiteKey

ENVELOPE_KEY_LENGTH = 32
"""Bytes of an envelope key, in both suites: a token opens it straight into an object of its own."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A message to the KMS with the keys of its exchange: `initial` for Error messages, `response` for the answer."""

    message: Message
    initial: MessageProtection = field(repr=False)
    response: MessageProtection = field(repr=False)


def request(party: Party, key: KmsKey, content: Tp) -> Asked:
    """A REQUEST_INIT for a ticket with the Ticket Policy in TP."""
    by_psk = isinstance(key, SuiteKey)
    kind = DataType.REQUEST_INIT_PSK if by_psk else DataType.REQUEST_INIT_PK
    return _ask(party, key, kind, IdRole.INITIATOR, party.identity, content)


def resolve(party: Party, key: KmsKey, name: bytes, content: Ticket) -> Asked:
    """A RESOLVE_INIT for a TICKET; `name` is the party's identity or alias (IDRr)."""
    by_psk = isinstance(key, SuiteKey)
    kind = DataType.RESOLVE_INIT_PSK if by_psk else DataType.RESOLVE_INIT_PK
    return _ask(party, key, kind, IdRole.RESPONDER, name, content)


def _ask(party: Party, key: KmsKey, kind: DataType, role: IdRole, name: bytes, content: Payload) -> Asked:
    suite = key.suite
    randr = party.new_randr(RandRole(role))
    hdr = Hdr(kind, party.new_csb_id(), suite.prf, v=True)
    certs, ending, shared = _by_psk(key) if isinstance(key, SuiteKey) else _by_signature(party, key)
    payloads: list[Payload] = [
        party.sources.timestamp(),
        randr,
        Idr(role, IdType.URI, name),
        *certs,
        Idr(IdRole.KMS, IdType.URI, party.kms_identity),
        content,
        *ending,
    ]
    unsigned = Message.build(hdr, payloads)
    rands = {"randr_i" if role is IdRole.INITIATOR else "randr_r": randr.rand}
    initial, response = (
        MessageProtection(party.ops, shared, suite.prf, hdr.csb_id, direction, **rands)
        for direction in (INITIAL, RESPONSE)
    )
    identities = name, party.kms_identity
    if isinstance(key, SuiteKey):
        return Asked(initial.sign(unsigned, *identities), initial, response)
    signature = key.signer.sign(unsigned.coverage(*identities), suite.hash_func)
    return Asked(unsigned.with_signature(signature), initial, response)


def _by_psk(key: SuiteKey) -> tuple[tuple[Cert, ...], tuple[Payload, ...], Key]:
    """CERTs, the last payloads, and the key of the exchange."""
    return (), (Idr(IdRole.PSK, IdType.BYTE_STRING, key.psk_id), unsigned_v(key.suite.mac_alg)), key.psk


def _by_signature(party: Party, key: SigningKey) -> tuple[tuple[Cert, ...], tuple[Payload, ...], Key]:
    """CERTs, the last payloads, and the key of the exchange: a fresh envelope key."""
    hash_func = key.suite.hash_func
    envelope_key = party.sources.random(ENVELOPE_KEY_LENGTH, "envelope key")
    ending = (
        Chash(hash_func, key.kms.hash(hash_func)),
        Pke(key.kms.encrypt(envelope_key)),
        Sign(SignType.RSA_PKCS1_V1_5, bytes(key.signer.length)),
    )
    certs = tuple(Cert(CertType.X509V3, certificate) for certificate in key.signer.chain)
    return certs, ending, party.ops.load(envelope_key, Use.PRF)

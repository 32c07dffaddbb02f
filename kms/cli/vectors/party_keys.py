"""The parties of a vector as subscribers of its KMS: with the PSK or the RSA key that `config` gives them."""

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_der_private_key

from kms.cli.vectors.entries import BrokenVector
from kms.cli.vectors.setting import ScriptedSources, Setting
from kms.crypto.interface import KeyOperations, Use
from kms.crypto.public_key import EnvelopeCertificate, SignatureKey
from kms.crypto.suite import SUITES, suite_of
from kms.mikey.message import Message
from kms.mikey.payloads import Cert, Pke
from kms.party.party import KmsKey, Party, SigningKey, SuiteKey


class ScriptedEnvelope(EnvelopeCertificate):
    """Encrypts an envelope key as a vector did: the padding in PKE is random, so `pke` is given out again.

    `private_key` is the KMS's: PKE must open to the very envelope key that is to be encrypted.
    """

    def __init__(self, certificate: bytes, private_key: RSAPrivateKey) -> None:
        super().__init__(certificate)
        self._private_key = private_key
        self._pke: bytes | None = None

    def script(self, pke: Pke) -> bytes:
        """Give out this PKE next; its envelope key."""
        self._pke = pke.data
        try:
            return self._private_key.decrypt(pke.data, PKCS1v15())
        except ValueError:
            raise BrokenVector("PKE does not open with the private key of the KMS in config") from None

    def encrypt(self, envelope_key: bytes) -> bytes:
        """See EnvelopeCertificate."""
        made, pke = super().encrypt(envelope_key), self._pke
        if pke is None or self._private_key.decrypt(pke, PKCS1v15()) != envelope_key:
            return made
        return pke


class PartyKeys:
    """Makes the parties of a setting, each with the keys that its message needs."""

    def __init__(self, setting: Setting, ops: KeyOperations, sources: ScriptedSources) -> None:
        self._setting = setting
        self._ops = ops
        self._sources = sources
        self._envelope: ScriptedEnvelope | None = None

    def script(self, message: Message) -> None:
        """Make the next message have the envelope key and PKE of this one."""
        pke = message.find(Pke)
        if pke is not None:
            self._sources.put("envelope key", self._kms().script(pke))

    def party(self, identity: bytes, chain: tuple[Cert, ...] = (), *, signing: bool = False) -> Party:
        """A subscriber, in both suites. `signing` gives it its RSA key, with the CERTs of `chain` if it has any."""
        setting = self._setting.home(identity)
        signing = signing or (identity not in setting.psks and identity in setting.private_keys)
        own = suite_of(setting.prf)
        suites = (own, *(s for s in SUITES.values() if s is not own))
        keys: tuple[KmsKey, ...]
        if signing:
            signer = self._signer(identity, chain)
            keys = tuple(SigningKey(suite, signer, self._kms()) for suite in suites)
        elif identity in setting.psks:
            psk, psk_id = setting.psks[identity]
            keys = tuple(SuiteKey(suite, psk_id, self._ops.load(psk, Use.PRF)) for suite in suites)
        else:
            raise BrokenVector(f"config.psk has no {identity.decode(errors='replace')}")
        return Party(identity, setting.kms_identity, keys, self._ops, self._sources)

    def _signer(self, identity: bytes, chain: tuple[Cert, ...]) -> SignatureKey:
        certificate, key = self._setting.certificates.get(identity), self._setting.private_keys.get(identity)
        if certificate is None or key is None:
            raise BrokenVector(
                f"config has no certificate and private key of {identity.decode(errors='replace')}"
            )
        certificates = [c.data for c in chain]
        return SignatureKey(certificates if certificates[:1] == [certificate] else [certificate], _rsa(key))

    def _kms(self) -> ScriptedEnvelope:
        if self._envelope is None:
            own = self._setting.kms_identity
            certificate, key = self._setting.certificates.get(own), self._setting.private_keys.get(own)
            if certificate is None or key is None:
                raise BrokenVector("config has no certificate and private key of the KMS")
            self._envelope = ScriptedEnvelope(certificate, _rsa(key))
        return self._envelope


def _rsa(der: bytes) -> RSAPrivateKey:
    key = load_der_private_key(der, None)
    if not isinstance(key, RSAPrivateKey):
        raise BrokenVector("private_keys_pem: a key is no RSA key")
    return key

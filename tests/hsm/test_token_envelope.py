"""Opening envelope keys with an RSA key (RFC 6043 5.3), run against software, SoftHSM and NSS."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import hsm
from hsm import cryptoki as ck
from hsm.operations import TokenKey
from hsm.templates import Template
from kms.crypto.interface import Key, KeyOperations, UnsupportedKey, Use, VerificationError
from kms.crypto.software import SoftwareKeys
from kms.mikey.registry import PrfFunc

LABEL = "envelope test"


@dataclass
class Opener:
    """Key operations with an UNWRAP key, and its public key."""

    ops: KeyOperations
    key: Key
    public: rsa.RSAPublicKey

    def wrap(self, value: bytes) -> bytes:
        """What a sender puts into PKE."""
        return self.public.encrypt(value, PKCS1v15())


@pytest.fixture(scope="module")
def opener(ops: KeyOperations) -> Iterator[Opener]:
    """An RSA key made in the token, or loaded in software."""
    if isinstance(ops, hsm.Token):
        key: Key = ops.create_private_key(LABEL, 2048)
        exponent, modulus = ops.public_key(LABEL)
        yield Opener(ops, key, rsa.RSAPublicNumbers(exponent, modulus).public_key())
        for handle in ops.session.find(Template([(ck.LABEL, LABEL.encode())])):
            ops.session.destroy(handle)
        return
    private = rsa.generate_private_key(65537, 2048)
    der = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    yield Opener(ops, ops.load(der, Use.UNWRAP), private.public_key())


@pytest.mark.parametrize("length", range(16, 33))
def test_envelope_keys_of_every_length_open(opener: Opener, length: int) -> None:
    value = bytes(range(100, 100 + length))
    software = SoftwareKeys()
    expected = software.load(value, Use.PRF)
    with opener.ops.scope():
        key = opener.ops.unwrap(opener.key, opener.wrap(value))
        assert (key.use, key.length) == (Use.PRF, length)
        for func in PrfFunc:
            released = opener.ops.prf_release(key, func, b"label", 64)
            assert released == software.prf_release(expected, func, b"label", 64)


def test_what_does_not_open_has_one_answer(opener: Opener) -> None:
    """Or it opens to a key that fits nothing: newer libraries answer bad padding so, to starve padding oracles."""
    size = (opener.public.key_size + 7) // 8
    attempts = [opener.wrap(bytes(n)) for n in (0, 1, 15)]
    attempts += [b"", bytes(10), bytes(size), b"\xff" * size, b"\1" * size, bytes(size + 1)]
    answers: list[str] = []
    for wrapped in attempts:
        with opener.ops.scope():
            try:
                key = opener.ops.unwrap(opener.key, wrapped)
            except VerificationError as error:
                answers.append(str(error))
            else:
                assert key.use is Use.PRF
    assert set(answers) == {"the envelope key does not open"}
    assert len(answers) >= 5
    with opener.ops.scope():
        assert opener.ops.unwrap(opener.key, opener.wrap(bytes(32))).length == 32


def test_nothing_is_left_in_the_token(opener: Opener) -> None:
    if not isinstance(opener.ops, hsm.Token):
        pytest.skip("software has no objects to count")
    everything = Template([])
    before = sorted(opener.ops.session.find(everything))
    for wrapped in (opener.wrap(bytes(32)), opener.wrap(bytes(16)), opener.wrap(bytes(15)), b"x" * 256):
        with opener.ops.scope():
            try:
                opener.ops.unwrap(opener.key, wrapped)
            except VerificationError:
                continue
    assert sorted(opener.ops.session.find(everything)) == before


def test_the_private_key_stays_in_the_token(opener: Opener) -> None:
    if not isinstance(opener.ops, hsm.Token):
        pytest.skip("in software it is in the process")
    private_exponent, prime_1, prime_2 = 0x123, 0x124, 0x125
    assert isinstance(opener.key, TokenKey)
    for kind in (private_exponent, prime_1, prime_2):
        with pytest.raises(hsm.TokenFault, match="CKR_ATTRIBUTE_SENSITIVE"):
            opener.ops.session.attribute(opener.key.handle, kind)
    for kind, value in ((ck.SENSITIVE, b"\1"), (ck.EXTRACTABLE, b"\0"), (ck.SIGN, b"\0"), (ck.TOKEN, b"\1")):
        assert opener.ops.session.attribute(opener.key.handle, kind) == value
    assert opener.ops.private_key(LABEL) is opener.key
    with pytest.raises(hsm.KeyExists):
        opener.ops.create_private_key(LABEL)
    with pytest.raises(hsm.KeyNotFound):
        opener.ops.private_key("none")


def test_software_takes_rsa_keys_only() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    der = weak.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    for value in (b"", b"not DER", der):
        with pytest.raises(UnsupportedKey):
            SoftwareKeys().load(value, Use.UNWRAP)

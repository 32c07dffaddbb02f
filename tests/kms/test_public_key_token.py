"""The KMS's RSA key in a real token: made once, certified, and wired to the engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

import hsm
from hsm import cryptoki as ck
from hsm.templates import Template
from kms.cli import tls
from kms.config import Config, ConfigError, load_config, write_default_config
from kms.crypto.public_key import EnvelopeCertificate
from kms.engine import public_key
from kms.engine.faults import StartRefused

IDENTITY = "sip:kms@example.com"


@pytest.fixture
def clean(token: hsm.Token) -> Iterator[hsm.Token]:
    """A token without RSA key, before and after."""
    yield token
    for handle in token.session.find(Template([(ck.LABEL, public_key.LABEL.encode())])):
        token.session.destroy(handle)


def _home(folder: Path) -> Config:
    write_default_config(folder, identity=IDENTITY, token={})
    (folder / "tls").mkdir()
    return load_config(folder)


def test_a_key_is_made_certified_and_found(clean: hsm.Token, tmp_path: Path) -> None:
    config = _home(tmp_path)
    assert public_key.find(clean) is None
    assert public_key.open_public_key(config, clean) is None, "an old home: PSK messages only"
    key = public_key.create(clean)
    assert key is not None
    assert key.key_size == public_key.BITS
    with pytest.raises(hsm.KeyExists):
        public_key.create(clean)
    with pytest.raises(StartRefused, match=r"ca\.pem cannot be read: No such file .*correct \[pk\] ca"):
        public_key.open_public_key(config, clean)

    ca = tls.make_ca("CA")
    certificate = tls.issue_kms(ca, IDENTITY, key)
    config.pk_ca.write_bytes(ca.certificate_pem() + tls.make_ca("another CA").certificate_pem())
    config.pk_cert.write_text("nothing")
    with pytest.raises(StartRefused, match=r"kms\.pem holds no certificate in PEM: correct \[pk\] cert"):
        public_key.open_public_key(config, clean)
    config.pk_cert.write_bytes(ca.certificate_pem())
    with pytest.raises(StartRefused, match=r"is not the certificate of the token's key 'kms RSA 1'"):
        public_key.open_public_key(config, clean)

    config.pk_cert.write_bytes(certificate.public_bytes(Encoding.PEM))
    opened = public_key.open_public_key(config, clean)
    assert opened is not None
    envelope = EnvelopeCertificate(opened.certificate)
    with clean.scope():
        assert clean.unwrap(opened.private_key(), envelope.encrypt(bytes(range(32)))).length == 32


def test_the_ca_of_signers_is_that_of_tls_unless_told(tmp_path: Path) -> None:
    config = _home(tmp_path)
    assert config.pk_ca == config.tls_ca
    path = tmp_path / "kms.toml"
    text = path.read_text()
    start = text.index("[pk]")
    path.write_text(text[:start] + text[text.index("[limits]") :])
    assert load_config(tmp_path).pk_ca == config.tls_ca, "homes of older versions have no [pk]"
    path.write_text(text.replace("[limits]", "cas = 1\n\n[limits]"))
    with pytest.raises(ConfigError, match=r"\[pk\] cas is not a known key"):
        load_config(tmp_path)

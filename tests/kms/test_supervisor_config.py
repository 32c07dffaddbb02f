"""kms.toml: what `kms init` writes loads; what is wrong in it is named by file, key and what is expected."""

from pathlib import Path

import pytest

from kms.config import Address, ConfigError, load_config, write_default_config

IDENTITY = "sip:kms@example.com"


def written(home: Path) -> Path:
    return write_default_config(
        home, identity=IDENTITY, token={"uri": 'pkcs11:token="x"\\', "slot": 3, "pinned": True}
    )


def test_the_default_file_loads(tmp_path: Path) -> None:
    written(tmp_path)
    config = load_config(tmp_path)
    assert config.identity == IDENTITY
    assert config.grpc == Address("127.0.0.1", 7443)
    assert config.metrics == Address("127.0.0.1", 9464)
    assert (config.engines, config.frontends) == (1, 1)
    assert config.tls_key == tmp_path / "tls/server.key"
    assert (config.clock_skew_seconds, config.max_ticket_lifetime_seconds, config.epoch_seconds) == (
        60,
        86400,
        86400,
    )
    assert config.pin_file == tmp_path / "token/pin"
    assert config.token == {"uri": 'pkcs11:token="x"\\', "slot": 3, "pinned": True}


def test_a_file_with_the_identity_alone_has_the_same_defaults(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_default_config(other, identity=IDENTITY, token={})
    (tmp_path / "kms.toml").write_text(f'[kms]\nidentity = "{IDENTITY}"\n')
    short, full = load_config(tmp_path), load_config(other)
    assert short.tls_ca.relative_to(tmp_path) == full.tls_ca.relative_to(other)
    assert (short.grpc, short.metrics, short.engines, short.epoch_seconds) == (
        full.grpc,
        full.metrics,
        full.engines,
        full.epoch_seconds,
    )


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = written(tmp_path)
    before = path.read_text()
    with pytest.raises(FileExistsError):
        write_default_config(tmp_path, identity="sip:other@example.com", token={})
    assert path.read_text() == before


def test_no_file_says_kms_init(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"kms.toml does not exist: run `kms init --home {tmp_path}` first"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (f'"{IDENTITY}"', '"kms"', r"\[kms\] identity must be a URI"),
        (f'identity = "{IDENTITY}"', "", r"\[kms\] identity must be a URI"),
        ('"127.0.0.1:7443"', '"7443"', r"\[listen\] grpc must be an address .* expected HOST:PORT"),
        ('"127.0.0.1:7443"', '"127.0.0.1:70000"', r"\[listen\] grpc .* number from 0 to 65535"),
        ('"127.0.0.1:9464"', "9464", r"\[listen\] metrics must be an address"),
        ('"127.0.0.1:9464"', '"::1:9464"', r"\[listen\] metrics must be an address"),
        ("engines = 1", "engines = 0", r"\[processes\] engines must be a whole number from 1 to 256"),
        ("engines = 1", 'engines = "2"', r"\[processes\] engines must be a whole number"),
        ("engines = 1", "engines = true", r"\[processes\] engines must be a whole number"),
        ("frontends = 1", "frontends = 2", r"\[processes\] frontends must be 1: .*replay cache"),
        ("epoch_seconds", "epoch_second", r"\[limits\] epoch_second is not a known key"),
        ("[limits]", "[limit]", r"\[limit\] clock_skew_seconds is not a known key"),
        ("[kms]", "kms = 1\n[kms2]", r"kms must be a table"),
        ("[kms]", "name = 1\n[kms]", r"name is not a known key"),
        ("[token]", "[extra]\n[token]", r"\[extra\] is not a known table"),
        ('ca = "tls/ca.pem"', "ca = 1", r"\[tls\] ca must be the path of a file"),
        ('"token/pin"', '""', r"\[token\] pin_file must be the path of a file"),
        ("[kms]", "[kms", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = written(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_config(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_addresses_read_as_they_are_written() -> None:
    for text in ("127.0.0.1:0", "[::1]:7443", "kms.example.com:65535"):
        assert str(Address.parse(text)) == text


def test_a_control_character_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="control characters"):
        write_default_config(tmp_path, identity='sip:kms@example.com"\n[tls]', token={})
    assert not (tmp_path / "kms.toml").exists()

"""The `kms` command with real processes: what it makes, and one clear line for each mistake."""

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.e2e.home import IDENTITY, Server, init, kms, serving


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that no server runs in. Tests leave it as they found it."""
    home = tmp_path_factory.mktemp("cli") / "home"
    init(home)
    return home


@pytest.fixture
def config(made: Path) -> Iterator[Path]:
    """The kms.toml of `made`; restored after the test."""
    path = made / "kms.toml"
    before = path.read_text()
    yield path
    path.write_text(before)


def said(stderr: str) -> str:
    """The one line for a person; the log's lines are JSON."""
    lines = [line for line in stderr.splitlines() if line and not line.startswith("{")]
    assert len(lines) == 1, stderr
    return lines[0]


def refusal(*arguments: str | Path, cwd: Path | None = None) -> str:
    """What `kms` says on standard error as it refuses with exit code 2."""
    result = kms(*arguments, cwd=cwd)
    assert result.returncode == 2, result
    assert result.stdout == ""
    line = said(result.stderr)
    assert line.startswith("kms: ")
    return line


# -- init --------------------------------------------------------------------------------------------------------------


def test_init_makes_a_private_home(made: Path) -> None:
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for name in ("token/pin", "tls/ca.key", "tls/server.key"):
        assert stat.S_IMODE((made / name).stat().st_mode) == 0o600, name
    assert f'identity = "{IDENTITY}"' in (made / "kms.toml").read_text()


def test_server_certificate_is_signed_by_the_home_ca(made: Path) -> None:
    ca = x509.load_pem_x509_certificate((made / "tls/ca.pem").read_bytes())
    server = x509.load_pem_x509_certificate((made / "tls/server.pem").read_bytes())
    server.verify_directly_issued_by(ca)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_init_never_overwrites(made: Path) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert "kms.toml" in refusal("init", "--home", made)
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_init_that_fails_leaves_nothing(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text("1234\n")
    pin.chmod(0o600)
    home = tmp_path / "home"
    uri = "pkcs11:token=none?module-path=/nonexistent/libpkcs11.so"
    assert "/nonexistent/libpkcs11.so" in refusal("init", "--home", home, "--token", uri, "--pin-file", pin)
    assert not home.exists()
    assert pin.exists()


def test_init_into_an_empty_folder_that_fails_leaves_the_folder(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text("")
    pin.chmod(0o600)
    home = tmp_path / "home"
    home.mkdir()
    assert "pin" in refusal("init", "--home", home, "--pin-file", pin)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--listen", "localhost"), "--listen"),
        (("--metrics", "127.0.0.1:99999"), "--metrics"),
        (("--identity", "kms"), "--identity"),
        (("--token", "tpm"), "--token"),
        (("--token", "pkcs11:token=x"), "--pin-file"),
        (("--engines", "0"), "--engines"),
    ],
)
def test_init_names_the_wrong_option(tmp_path: Path, options: tuple[str, ...], named: str) -> None:
    assert named in refusal("init", "--home", tmp_path / "home", *options)
    assert not (tmp_path / "home").exists()


def test_init_refuses_a_readable_pin_file(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.write_text("1234\n")
    pin.chmod(0o644)
    assert "chmod 600" in refusal("init", "--home", tmp_path / "home", "--pin-file", pin)


def test_a_home_on_nss(tmp_path: Path) -> None:
    home = tmp_path / "home"
    init(home, "nss")
    with serving(home) as running:
        running.enrol("sip:nora@example.com")
        report = json.loads(kms("doctor", "--json", "--home", home).stdout)
    assert {key["kind"] for key in report["keys"]} == {
        "PSK master",
        "shared TPK master",
        "TPK epoch",
        "RSA 3072",
    }
    assert "native" in {o["rung"] for o in report["operations"] if o["operation"].startswith("prf_key")}
    assert list(users(home)) == ["sip:nora@example.com"]


def test_an_existing_token_by_its_uri(made: Path, tmp_path: Path) -> None:
    """A second home on the token of the first: refused, since its masters are there already."""
    module = next(line for line in (made / "kms.toml").read_text().splitlines() if line.startswith("module"))
    uri = f"pkcs11:token=kms?module-path={module.partition('=')[2].strip().strip(chr(34))}"
    home = tmp_path / "home"
    conf = str(made / "token/softhsm2.conf")
    result = kms("init", "--home", home, "--token", uri, "--pin-file", made / "token/pin", SOFTHSM2_CONF=conf)
    assert result.returncode == 2
    assert "kms PSK master 1" in said(result.stderr)
    assert not home.exists()
    assert kms("key", "list", "--home", made).returncode == 0


# -- serve -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [("serve",), ("user", "list"), ("key", "list"), ("doctor",)])
def test_without_init(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert "kms init" in refusal(*command, "--home", tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_serve_with_a_wrong_pin(made: Path) -> None:
    pin = made / "token/pin"
    right = pin.read_bytes()
    pin.write_bytes(b"wrong-pin-17\n")
    try:
        line = refusal("serve", "--home", made)
        assert "PIN" in line
        assert "wrong-pin-17" not in line
        assert "PIN" in refusal("user", "list", "--home", made)
    finally:
        pin.write_bytes(right)
    assert kms("key", "list", "--home", made).returncode == 0


def test_serve_without_a_pin_file(made: Path) -> None:
    pin = made / "token/pin"
    right = pin.read_bytes()
    pin.unlink()
    try:
        assert str(pin) in refusal("serve", "--home", made)
    finally:
        pin.write_bytes(right)
        pin.chmod(0o600)


def test_serve_with_a_missing_module(made: Path, config: Path) -> None:
    text = config.read_text()
    assert "libsofthsm2.so" in text
    config.write_text(text.replace("libsofthsm2.so", "libsofthsm9.so"))
    assert "libsofthsm9.so" in refusal("serve", "--home", made)


@pytest.mark.parametrize("option", ["grpc", "metrics"])
def test_serve_on_a_busy_port(made: Path, config: Path, option: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        config.write_text(config.read_text().replace(f'{option} = "127.0.0.1:0"', f'{option} = "{address}"'))
        assert address in refusal("serve", "--home", made)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("[kms\n", "TOML"),
        ('[kms]\nidentity = "sip:kms@example.com"\ncolour = 1\n', "colour"),
        ('[kms]\nidentity = "sip:kms@example.com"\n[processes]\nengines = 0\n', "engines"),
    ],
)
def test_serve_with_an_unreadable_configuration(made: Path, config: Path, wrong: str, named: str) -> None:
    config.write_text(wrong)
    line = refusal("serve", "--home", made)
    assert named in line
    assert str(config) in line


def test_serve_once_per_home(server: Server) -> None:
    assert "kms serve" in refusal("serve", "--home", server.home)


# -- user --------------------------------------------------------------------------------------------------------------


def check_enrolment(file: Path, home: Path, identity: str, target: str) -> dict[str, object]:
    """Assert what every enrolment file must hold, and return it."""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    enrolment: dict[str, object] = json.loads(file.read_text())
    assert enrolment["identity"] == identity
    assert enrolment["kms_identity"] == IDENTITY
    assert enrolment["target"] == target
    ca = x509.load_pem_x509_certificate((home / "tls/ca.pem").read_bytes())
    assert enrolment["ca_cert"] == (home / "tls/ca.pem").read_text()
    certificate = x509.load_pem_x509_certificate(str(enrolment["tls_cert"]).encode())
    certificate.verify_directly_issued_by(ca)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [identity]
    return enrolment


def users(home: Path) -> dict[str, dict[str, object]]:
    listed = kms("user", "list", "--json", "--home", home)
    assert listed.returncode == 0, listed.stderr
    return {user["identity"]: user for user in json.loads(listed.stdout)}


def test_user_add_while_running(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "nina.json"
    command = (
        "user",
        "add",
        "sip:nina@example.com",
        "--role",
        "client",
        "--suite",
        "128",
        "--home",
        server.home,
    )
    added = kms(*command, "--target", server.grpc, "--out", out)
    assert added.returncode == 0, added.stderr
    enrolment = check_enrolment(out, server.home, "sip:nina@example.com", server.grpc)
    assert enrolment["suite"] == 128
    assert "psks" not in enrolment
    psk = str(enrolment["psk"])
    assert len(bytes.fromhex(psk)) == 32
    assert psk not in added.stdout + added.stderr + server.log.read_text()
    assert users(server.home)["sip:nina@example.com"]["role"] == "client"


def test_user_life_while_stopped(made: Path, tmp_path: Path) -> None:
    command = (
        "user",
        "add",
        "sip:room@example.com",
        "--role",
        "focus",
        "--home",
        made,
        "--target",
        "127.0.0.1:7443",
    )
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    assert kms(*command, "--out", first).returncode == 0
    enrolment = check_enrolment(first, made, "sip:room@example.com", "127.0.0.1:7443")
    psks = enrolment["psks"]
    assert isinstance(psks, list)
    assert [psk["suite"] for psk in psks] == [256, 128]
    assert psks[0]["psk"] == enrolment["psk"] != psks[1]["psk"]

    assert "revoke" in refusal(*command, "--out", second)
    assert not second.exists()
    assert kms("user", "revoke", "sip:room@example.com", "--home", made).returncode == 0
    assert users(made)["sip:room@example.com"]["revoked"] is True
    assert kms(*command, "--out", second).returncode == 0
    assert json.loads(second.read_text())["psk"] != enrolment["psk"]

    with serving(made) as running:
        assert users(running.home)["sip:room@example.com"]["version"] == 2


def test_gateway_has_no_psk(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "gateway.json"
    command = ("user", "add", "sip:gw@example.com", "--role", "gateway", "--home", made, "--target", "h:1")
    assert "--acts-for" in refusal(*command, "--out", out)
    assert kms(*command, "--acts-for", "sip:*@example.com", "--out", out).returncode == 0
    assert not {"psk", "psk_id", "suite", "psks"} & set(json.loads(out.read_text()))
    assert users(made)["sip:gw@example.com"]["acts_for"] == ["sip:*@example.com"]


def test_user_add_never_overwrites(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "kept.json"
    out.write_text("kept")
    line = refusal(
        *("user", "add", "sip:olaf@example.com", "--role", "client", "--home", server.home),
        *("--target", server.grpc, "--out", out),
    )
    assert str(out) in line
    assert out.read_text() == "kept"
    assert "sip:olaf@example.com" not in users(server.home)


def test_default_file_name(server: Server, tmp_path: Path) -> None:
    added = kms(
        *("user", "add", "sip:pia@example.com;x=/../y", "--role", "client", "--home", server.home),
        *("--target", server.grpc),
        cwd=tmp_path,
    )
    assert added.returncode == 0, added.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["sip-pia@example.com-x-..-y.json"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("user", "add", "alice", "--role", "client"), "'alice'"),
        (("user", "add", "sip:älice@example.com", "--role", "client"), "ASCII"),
        (("user", "add", "sip:a@example.com", "--role", "admin"), "--role"),
        (("user", "add", "sip:a@example.com", "--role", "client", "--suite", "192"), "--suite"),
        (("user", "add", "sip:a@example.com", "--role", "client"), "--target"),
        (("user", "add", "sip:a@example.com", "--role", "client", "--target", "h:1", "--out", "-"), "--out"),
        (
            ("user", "add", "sip:a@example.com", "--role", "client", "--target", "h:1", "--out", "/none/a"),
            "/none/a",
        ),
        (("user", "revoke", "sip:nobody@example.com"), "sip:nobody@example.com"),
    ],
)
def test_user_mistakes(server: Server, arguments: tuple[str, ...], named: str) -> None:
    assert named in refusal(*arguments, "--home", server.home)


# -- key, doctor -------------------------------------------------------------------------------------------------------


def test_keys_are_the_same_running_and_stopped(made: Path) -> None:
    def keys() -> list[dict[str, object]]:
        result = kms("key", "list", "--json", "--home", made)
        assert result.returncode == 0, result.stderr
        found: list[dict[str, object]] = json.loads(result.stdout)
        return found

    stopped = keys()
    assert {key["kind"] for key in stopped} == {"PSK master", "shared TPK master", "TPK epoch", "RSA 3072"}
    assert len({key["fingerprint"] for key in stopped}) == len(stopped)
    with serving(made):
        assert keys() == stopped


def test_doctor_names_rungs_mechanisms_and_epochs(server: Server) -> None:
    result = kms("doctor", "--json", "--home", server.home)
    assert result.returncode == 0, result
    report = json.loads(result.stdout)
    assert report["operations"]
    assert all(operation["rung"] and operation["mechanism"] for operation in report["operations"])
    assert report["mechanisms"]
    assert any(key["kind"] == "TPK epoch" and key["destroy_at"] for key in report["keys"])
    texts = " ".join(finding["text"] for finding in report["findings"])
    assert "not a security boundary" in texts
    assert "expires on" in texts
    assert kms("doctor", "--home", server.home).returncode == 0


def test_doctor_finds_a_readable_pin(made: Path) -> None:
    pin = made / "token/pin"
    pin.chmod(0o644)
    try:
        result = kms("doctor", "--json", "--home", made)
    finally:
        pin.chmod(0o600)
    assert result.returncode == 1
    errors = [
        finding["text"] for finding in json.loads(result.stdout)["findings"] if finding["level"] == "error"
    ]
    assert len(errors) == 1
    assert str(pin) in errors[0]
    assert "chmod" in errors[0]


# -- the command itself ------------------------------------------------------------------------------------------------


def test_no_command_and_unknown_command() -> None:
    assert "--help" in refusal()
    assert "frobnicate" in refusal("frobnicate")


@pytest.mark.parametrize(
    "command",
    [
        "init",
        "serve",
        "user add",
        "user list",
        "user revoke",
        "group add",
        "group remove",
        "group list",
        "key list",
        "doctor",
        "inspect",
        "bench",
        "demo",
    ],
)
def test_every_command_has_help(command: str) -> None:
    result = kms(*command.split(), "--help")
    assert result.returncode == 0
    assert "Usage: kms" in result.stdout


def test_traceback_only_on_request(tmp_path: Path) -> None:
    result = kms("serve", "--home", tmp_path, KMS_DEBUG="1")
    assert result.returncode == 2
    assert "Traceback" in result.stderr

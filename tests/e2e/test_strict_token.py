"""[token] require_native_prf in kms.toml, and what `kms doctor` says of a token."""

import json
from pathlib import Path

import pytest

from tests.e2e.home import init, kms, serving


def _require_native_prf(home: Path) -> None:
    config = home / "kms.toml"
    config.write_text(config.read_text() + "require_native_prf = true\n")


def _findings(home: Path) -> tuple[int, list[tuple[str, str]]]:
    result = kms("doctor", "--json", "--home", home)
    report = json.loads(result.stdout)
    return result.returncode, [(finding["level"], finding["text"]) for finding in report["findings"]]


def test_softhsm_is_refused_in_one_line(tmp_path: Path) -> None:
    home = tmp_path / "home"
    init(home, "softhsm")
    _require_native_prf(home)
    refused = kms("serve", "--home", home)
    assert refused.returncode != 0
    (line,) = refused.stderr.strip().splitlines()
    assert "the token does not compute MIKEY_1 by itself" in line
    assert "require_native_prf forbids it" in line
    code, findings = _findings(home)
    assert code == 1
    assert any(level == "error" and "require_native_prf" in text for level, text in findings)


def test_nss_is_accepted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    init(home, "nss")
    _require_native_prf(home)
    with serving(home):
        code, findings = _findings(home)
    assert code == 0
    assert ("ok", "the token derives every key itself") in findings


@pytest.mark.parametrize(("token", "weak"), [("softhsm", False), ("nss", True)])
def test_doctor_names_what_a_token_permits(tmp_path: Path, token: str, weak: bool) -> None:
    home = tmp_path / "home"
    init(home, token)
    _, findings = _findings(home)
    warnings = [text for level, text in findings if level == "warning"]
    assert any("C_CopyObject makes a copy that can be extracted" in text for text in warnings) == weak
    assert any("CKA_ALLOWED_MECHANISMS is not enforced" in text for text in warnings) == weak

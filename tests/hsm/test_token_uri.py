"""PKCS#11 URIs."""

from pathlib import Path

import pytest

import hsm


@pytest.mark.parametrize(
    ("uri", "spec"),
    [
        ("pkcs11:token=kms?module-path=/l.so", hsm.TokenSpec(Path("/l.so"), label="kms")),
        (
            "pkcs11:token=NSS%20Certificate%20DB;serial=00ff?module-path=/a%26b.so",
            hsm.TokenSpec(Path("/a&b.so"), label="NSS Certificate DB", serial="00ff"),
        ),
        ("PKCS11:slot-id=7?module-path=/l.so", hsm.TokenSpec(Path("/l.so"), slot=7)),
    ],
)
def test_uris_name_tokens(uri: str, spec: hsm.TokenSpec) -> None:
    assert hsm.uri.parse(uri) == spec


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("token=kms", "not a PKCS#11 URI"),
        ("pkcs11:token=kms", "needs the absolute path"),
        ("pkcs11:token=kms?module-path=l.so", "needs the absolute path"),
        ("pkcs11:?module-path=/l.so", "names no token"),
        ("pkcs11:token=kms;object=key?module-path=/l.so", "object in the PKCS#11 URI"),
        ("pkcs11:token=a;token=b?module-path=/l.so", "more than one"),
        ("pkcs11:token?module-path=/l.so", "no value"),
        ("pkcs11:token=%ff?module-path=/l.so", "not UTF-8"),
        ("pkcs11:slot-id=x?module-path=/l.so", "must be a number"),
    ],
)
def test_what_is_not_understood_is_refused(uri: str, text: str) -> None:
    with pytest.raises(hsm.TokenNotFound, match=text):
        hsm.uri.parse(uri)


@pytest.mark.parametrize("attribute", ["pin-value=4711", "pin-source=file:/4711"])
def test_pins_are_refused_and_not_repeated(attribute: str) -> None:
    with pytest.raises(hsm.TokenNotFound, match="does not belong") as refusal:
        hsm.uri.parse(f"pkcs11:token=kms?module-path=/l.so&{attribute}")
    assert "4711" not in str(refusal.value)

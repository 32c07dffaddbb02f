"""What the token itself refuses, asked through the C API: not what our classes refrain from asking."""

from collections.abc import Callable, Iterator
from ctypes import byref, c_ubyte, c_ulong
from hashlib import sha256

import pytest

import hsm
from hsm import cryptoki as ck
from hsm.operations import TokenKey
from hsm.templates import Template
from kms.crypto.interface import Key, Use
from kms.crypto.software import SoftwareKeys
from kms.mikey import labels
from kms.mikey.registry import PrfFunc

SHA_256 = PrfFunc.PRF_HMAC_SHA_256


def _uses(token: hsm.Token, key: Key) -> set[int]:
    """What a key may do in the token: what its one use needs, native or composed."""
    native = token.capabilities
    if isinstance(key, TokenKey) and key.is_master:
        return {ck.DERIVE} if native.native_derivation else {ck.ENCRYPT}
    composed_ctr = set() if native.native_ctr else {ck.ENCRYPT}
    return {
        Use.BRANCH: {ck.ENCRYPT} | ({ck.DERIVE} if native.native_derivation else set()),
        Use.PRF: {ck.SIGN} | ({ck.DERIVE} if native.native_prf else set()),
        Use.SIGN: {ck.SIGN},
        Use.VERIFY: {ck.VERIFY},
        Use.ENCRYPT: {ck.ENCRYPT},
        Use.DECRYPT: composed_ctr | ({ck.DECRYPT} if native.native_ctr or key.length == 16 else set()),
    }[key.use]


@pytest.fixture(scope="module")
def keys(token: hsm.Token) -> Iterator[dict[str, Key]]:
    """Keys of every kind, made in every way there is."""
    master = token.create_master("boundary")
    with token.scope():
        user = token.branch(master, labels.user_branch(b"sip:alice@example.com", 1, SHA_256))
        ticket = token.branch(master, labels.ticket_branch(bytes(32), b"thdr", b"ticket"))
        mpkr = token.leaf(ticket, labels.ticket_mpkr(), 32, Use.PRF)
        yield {
            "master": master,
            "user branch": user,
            "ticket branch": ticket,
            "PSK": token.leaf(user, labels.psk(), 32, Use.PRF),
            "MPKr": mpkr,
            "16-byte PRF leaf": token.leaf(ticket, b"TGK", 16, Use.PRF),
            "sign leaf": token.leaf(ticket, labels.ticket_mac_key(), 32, Use.SIGN),
            "verify leaf": token.leaf(ticket, labels.ticket_mac_key(), 20, Use.VERIFY),
            "forked": token.prf_key(mpkr, SHA_256, b"fork", 32, Use.PRF),
            "auth_key": token.prf_key(mpkr, SHA_256, labels.vr_key(), 32, Use.VERIFY),
            "sign": token.prf_key(mpkr, SHA_256, b"sign", 32, Use.SIGN),
            "encr_key": token.prf_key(mpkr, SHA_256, b"encrypt", 32, Use.ENCRYPT),
            "decrypt": token.prf_key(mpkr, PrfFunc.MIKEY_1, b"decrypt", 16, Use.DECRYPT),
            "loaded": token.load(bytes(32), Use.PRF),
        }
    token.destroy_master("boundary")


def _handle(key: Key) -> int:
    assert isinstance(key, TokenKey)
    return key.handle


def _is_softhsm(token: hsm.Token) -> bool:
    return "SoftHSM" in token.probe.library


def test_no_key_gives_up_its_value(token: hsm.Token, keys: dict[str, Key]) -> None:
    for name, key in keys.items():
        with pytest.raises(hsm.TokenFault, match="CKR_ATTRIBUTE_SENSITIVE"):
            pytest.fail(f"{name}: {len(token.session.attribute(_handle(key), ck.VALUE))} bytes")


def test_every_key_has_its_use_and_no_other(token: hsm.Token, keys: dict[str, Key]) -> None:
    for name, key in keys.items():
        uses = _uses(token, key)
        for kind in ck.USES:
            assert (token.session.attribute(_handle(key), kind) == b"\1") == (kind in uses), (name, kind)
        expected = {ck.SENSITIVE: True, ck.EXTRACTABLE: False, ck.PRIVATE: True, ck.MODIFIABLE: False}
        assert isinstance(key, TokenKey)
        stored = name == "master" and not token.is_copy(key)
        for kind, value in (expected | {ck.TOKEN: stored}).items():
            assert token.session.attribute(_handle(key), kind) == bytes((value,)), (name, kind)


def test_softhsm_vouches_for_the_whole_tree(token: hsm.Token, keys: dict[str, Key]) -> None:
    if not _is_softhsm(token):
        pytest.skip("NSS says false for derived keys; opencryptoki derives none")
    for name in ("master", "user branch", "ticket branch", "PSK", "MPKr", "sign leaf", "verify leaf"):
        for kind in (ck.ALWAYS_SENSITIVE, ck.NEVER_EXTRACTABLE):
            assert token.session.attribute(_handle(keys[name]), kind) == b"\1", (name, kind)


@pytest.mark.parametrize("kind", [*ck.USES, ck.EXTRACTABLE, ck.MODIFIABLE, ck.COPYABLE])
def test_no_use_can_be_added(token: hsm.Token, keys: dict[str, Key], kind: int) -> None:
    template = Template([(kind, True)])
    for key in keys.values():
        with pytest.raises(hsm.TokenFault, match="CKR_A"):
            token.session.cryptoki.C_SetAttributeValue(
                token.session.handle, _handle(key), template.array, template.count
            )


def test_keys_cannot_be_made_readable(token: hsm.Token, keys: dict[str, Key]) -> None:
    template = Template([(ck.SENSITIVE, False)])
    new = c_ulong()
    arguments = (template.array, template.count)
    for key in keys.values():
        with pytest.raises(hsm.TokenFault):
            token.session.cryptoki.C_SetAttributeValue(token.session.handle, _handle(key), *arguments)
        with pytest.raises(hsm.TokenFault):
            token.session.cryptoki.C_CopyObject(token.session.handle, _handle(key), *arguments, byref(new))


@pytest.mark.parametrize(
    "attributes", [[], [(ck.SIGN, True)], [(ck.EXTRACTABLE, True)], [(ck.MODIFIABLE, True)]]
)
def test_softhsm_makes_no_copies(
    token: hsm.Token, keys: dict[str, Key], attributes: list[tuple[int, bool]]
) -> None:
    if not _is_softhsm(token):
        pytest.skip("the others do not honour CKA_COPYABLE: test_what_a_token_permits_is_reported")
    for key in keys.values():
        with pytest.raises(hsm.TokenFault, match="CKR_ACTION_PROHIBITED"):
            token.session.copy(_handle(key), Template(attributes))


@pytest.mark.parametrize(
    ("kind", "text"), [(ck.EXTRACTABLE, "can be extracted"), (ck.SIGN, "has further uses")]
)
def test_what_a_token_permits_is_reported(
    token: hsm.Token, keys: dict[str, Key], kind: int, text: str
) -> None:
    reported = any(text in weakness for weakness in token.probe.weaknesses)
    try:
        copy = token.session.copy(_handle(keys["ticket branch"]), Template([(kind, True)]))
    except hsm.TokenFault:
        assert not reported
        return
    assert reported
    with pytest.raises(hsm.TokenFault, match="CKR_ATTRIBUTE_SENSITIVE"):
        token.session.attribute(copy, ck.VALUE)
    token.session.destroy(copy)


def _leaf_of(branch: bytes) -> bytes:
    software = SoftwareKeys()
    return software.release(software.load(branch, Use.BRANCH), b"leaf", 32)


def test_readable_derived_keys_are_reported(token: hsm.Token, keys: dict[str, Key]) -> None:
    """SoftHSM and NSS let the template of C_DeriveKey say that the result is readable, whatever the base key is."""
    if not token.capabilities.native_derivation:
        pytest.skip("the token derives nothing")
    data = ck.AesCbcEncryptDataParams(data=sha256(b"label").digest(), length=32)
    template: list[tuple[int, int]] = [(ck.CLASS, ck.SECRET_KEY), (ck.KEY_TYPE, ck.GENERIC_SECRET)]
    template += [(ck.VALUE_LEN, 32), (ck.TOKEN, False), (ck.SENSITIVE, False), (ck.EXTRACTABLE, True)]
    reported = any("makes a readable key" in weakness for weakness in token.probe.weaknesses)
    mechanism = ck.Mechanism(ck.AES_CBC_ENCRYPT_DATA, data)
    try:
        derived = token.session.derive(mechanism, _handle(keys["master"]), Template(template))
        value = token.session.attribute(derived, ck.VALUE)
    except hsm.TokenFault:
        assert not reported
    else:
        assert reported
        with token.scope():
            branch = token.branch(keys["master"], b"label")
            assert token.release(branch, b"leaf", 32) == _leaf_of(value)
        token.session.destroy(derived)


def test_softhsm_has_no_other_weakness(token: hsm.Token) -> None:
    assert (len(token.probe.weaknesses) == 1) == _is_softhsm(token)


def test_softhsm_holds_keys_to_their_mechanisms(token: hsm.Token, keys: dict[str, Key]) -> None:
    if not _is_softhsm(token):
        pytest.skip("the others do not honour CKA_ALLOWED_MECHANISMS: reported as a weakness")
    sha512_hmac = 0x271
    calls: list[Callable[[], object]] = [
        lambda: token.session.encrypt(ck.Mechanism(ck.AES_ECB), _handle(keys["ticket branch"]), bytes(16)),
        lambda: token.session.encrypt(ck.Mechanism(ck.AES_ECB), _handle(keys["encr_key"]), bytes(16)),
        lambda: token.session.sign(ck.Mechanism(sha512_hmac), _handle(keys["PSK"]), b"", 0, bytes(64), 64),
    ]
    for call in calls:
        with pytest.raises(hsm.TokenFault, match="CKR_MECHANISM_INVALID"):
            call()


def test_a_scope_leaves_no_object(token: hsm.Token) -> None:
    everything = Template([])
    master = token.create_master("scoped")
    before = sorted(token.session.find(everything))

    def use_keys(error: Exception | None) -> None:
        with token.scope():
            branch = token.branch(master, b"branch")
            for length in (16, 20, 32):
                key = token.leaf(branch, b"leaf", length, Use.PRF)
                with token.scope():
                    for func in PrfFunc:
                        token.prf_key(key, func, b"fork", length, Use.PRF)
                        token.prf_key(key, func, b"encrypt", 16, Use.ENCRYPT)
            token.load(bytes(16), Use.PRF)
            token.release(branch, b"leaf", 32)
            token.prf_release(key, SHA_256, b"leaf", 64)
            assert len(token.session.find(everything)) == len(before) + 5
            if error is not None:
                raise error

    use_keys(None)
    assert sorted(token.session.find(everything)) == before
    with pytest.raises(ZeroDivisionError):
        use_keys(ZeroDivisionError())
    assert sorted(token.session.find(everything)) == before
    assert token.branch(master, b"the master is there still").length == 32
    token.destroy_master("scoped")


def test_a_master_releases_nothing(token: hsm.Token, keys: dict[str, Key]) -> None:
    if not token.capabilities.native_derivation:
        pytest.skip("a composed master must encrypt: reported as a weakness, kept by our code only")
    with pytest.raises(
        hsm.TokenFault, match=r"C_EncryptInit failed: CKR_(KEY_FUNCTION_NOT_PERMITTED|KEY_TYPE)"
    ):
        token.session.encrypt(ck.Mechanism(ck.AES_CBC, (c_ubyte * 16)()), _handle(keys["master"]), bytes(32))

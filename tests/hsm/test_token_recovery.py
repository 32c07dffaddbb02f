"""The recovery ladder: what goes away behind a Token's back comes back with `reopen`, or raises one clear error."""

import contextlib
from collections.abc import Callable
from functools import partial

import pytest

import hsm
from hsm import cryptoki as ck
from hsm.templates import Template
from kms.crypto.interface import Key, Use, VerificationError
from kms.mikey.registry import MacAlg
from tests.hsm.breaking import BREAKS, Break, close_session, log_out
from tests.hsm.tokens import TOKENS

OpenToken = Callable[..., hsm.Token]
every_token = pytest.mark.parametrize("kind", TOKENS)

LABEL = "recovered"
SHA_256 = MacAlg.HMAC_SHA_256_256
SESSION_COUNT, DEVICE_MEMORY, DEVICE_ERROR = 0xB1, 0x31, 0x30


every_break = pytest.mark.parametrize("go_wrong", BREAKS)


def _rung(token: hsm.Token) -> str:
    return next(rung.rung for rung in token.probe.rungs if rung.operation == "branch, leaf")


def _use(token: hsm.Token, master: Key) -> bytes:
    with token.scope():
        return token.release(token.branch(master, b"branch"), b"leaf", 32)


# -- it comes back -----------------------------------------------------------------------------------------------------


@every_token
@every_break
def test_a_token_is_opened_again(open_token: OpenToken, kind: str, go_wrong: Break) -> None:
    token = open_token(kind)
    master = token.create_master(LABEL)
    rsa = token.create_private_key(LABEL, 2048)
    expected, probe = _use(token, master), token.probe
    session_key = token.load(bytes(32), Use.SIGN)
    objects = len(token.session.find(Template([(ck.TOKEN, True)])))

    go_wrong(token)
    with pytest.raises((hsm.TokenGone, hsm.KeyNotFound)):
        _use(token, master)
    with pytest.raises(hsm.TokenGone):
        token.masters()

    token.reopen()
    assert token.probe == probe
    for old, use in ((master, Use.BRANCH), (session_key, Use.SIGN), (rsa, Use.UNWRAP)):
        with pytest.raises(hsm.KeyNotFound, match="another session"):
            token.handle(old, use)
    assert _use(token, token.master(LABEL)) == expected
    assert LABEL in [info.label for info in token.masters()]
    assert len(token.session.find(Template([(ck.TOKEN, True)]))) == objects
    token.destroy_master(LABEL)
    for handle in token.session.find(Template([(ck.LABEL, LABEL.encode())])):
        token.session.destroy(handle)


@every_token
def test_a_lost_login_is_not_taken_for_a_missing_key(open_token: OpenToken, kind: str) -> None:
    token = open_token(kind)
    log_out(token)
    for call in (partial(token.master, "none"), partial(token.private_key, "none"), token.masters):
        with pytest.raises(hsm.TokenGone, match="CKR_USER_NOT_LOGGED_IN"):
            call()
    token.reopen()
    with pytest.raises(hsm.KeyNotFound):
        token.master("none")


@every_token
@every_break
def test_a_broken_token_is_never_a_wrong_mac(open_token: OpenToken, kind: str, go_wrong: Break) -> None:
    token = open_token(kind)
    mac = token.mac(token.load(bytes(32), Use.SIGN), SHA_256, b"data")
    key = token.load(bytes(32), Use.VERIFY)
    go_wrong(token)
    # NSS lets session keys be used after a logout.
    with contextlib.suppress(hsm.TokenGone, hsm.KeyNotFound):
        token.verify(key, SHA_256, b"data", mac)
    token.reopen()
    with token.scope():
        again = token.load(bytes(32), Use.VERIFY)
        token.verify(again, SHA_256, b"data", mac)
        with pytest.raises(VerificationError):
            token.verify(again, SHA_256, b"data", bytes(32))


@every_token
def test_a_scope_that_outlives_its_session_destroys_nothing_of_the_next(
    open_token: OpenToken, kind: str
) -> None:
    token = open_token(kind)
    with token.scope():
        for _ in range(8):
            token.load(bytes(32), Use.SIGN)
        close_session(token)
        token.reopen()
        # Handles start anew: they may be those of the keys before.
        keys = [token.load(bytes(32), Use.VERIFY) for _ in range(8)]
        mac = token.mac(token.load(bytes(32), Use.SIGN), SHA_256, b"data")
        for key in keys:
            token.verify(key, SHA_256, b"data", mac)


# -- the PIN -----------------------------------------------------------------------------------------------------------


@every_token
@every_break
def test_a_wrong_pin_is_tried_once(
    open_token: OpenToken, kind: str, go_wrong: Break, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = open_token(kind)
    calls = token.count_calls()
    monkeypatch.setattr(token, "_pin", b"1234567")
    go_wrong(token)
    for _ in range(3):
        with pytest.raises(hsm.PinRefused, match="tried once") as refusal:
            token.reopen()
        assert "1234567" not in str(refusal.value)
    assert calls["C_Login"][0] == 1
    assert token.session.handle == 0
    open_token(kind)  # no session was left behind, and the token is not locked


# -- a token that does not come back, is full, or has no session left --------------------------------------------------


class _Fault:
    """Makes one C function of a Token fail: `times` times, or always."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, token: hsm.Token, function: str, ckr: int) -> None:
        self._real = getattr(token.session.cryptoki, function)
        self._function, self._ckr = function, ckr
        self.times = 1 << 30
        self.calls = 0
        monkeypatch.setattr(token.session.cryptoki, function, self)

    def __call__(self, *arguments: object) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise hsm.TokenFault(self._function, self._ckr)
        self._real(*arguments)


@every_token
def test_no_session_left_is_said(open_token: OpenToken, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    token = open_token(kind)
    fault = _Fault(monkeypatch, token, "C_OpenSession", SESSION_COUNT)
    with pytest.raises(hsm.TokenError, match=r"no session with .*C_OpenSession failed: CKR_SESSION_COUNT"):
        token.reopen()
    assert fault.calls == 2, "a new session, and one after C_Finalize and C_Initialize"
    fault.times = fault.calls + 1
    token.reopen()
    assert fault.calls == 4
    token.load(bytes(32), Use.SIGN)


@every_token
def test_a_full_token_costs_one_operation(
    open_token: OpenToken, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = open_token(kind)
    before = len(token.session.find(Template([])))
    with token.scope():
        branch = token.load(bytes(32), Use.BRANCH)
        native = token.capabilities.native_derivation
        fault = _Fault(monkeypatch, token, "C_DeriveKey" if native else "C_CreateObject", DEVICE_MEMORY)
        fault.times = 1
        with pytest.raises(hsm.TokenFault, match="CKR_DEVICE_MEMORY") as full:
            token.leaf(branch, b"leaf", 32, Use.PRF)
        assert not isinstance(full.value, hsm.TokenGone)
        assert token.leaf(branch, b"leaf", 32, Use.PRF).length == 32
    assert len(token.session.find(Template([]))) == before


@every_token
@pytest.mark.parametrize("code", [DEVICE_MEMORY, DEVICE_ERROR])
def test_no_weaker_master_is_made_for_a_fault_of_the_moment(
    open_token: OpenToken, kind: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = open_token(kind)
    fault = _Fault(monkeypatch, token, "C_GenerateKey", code)
    fault.times = 1
    with pytest.raises(hsm.TokenFault, match="C_GenerateKey"):
        token.create_master("weaker")
    assert fault.calls == 1
    with pytest.raises(hsm.KeyNotFound):
        token.master("weaker")


@pytest.mark.parametrize("kind", ["softhsm", "nss"])
@pytest.mark.parametrize("code", [DEVICE_MEMORY, DEVICE_ERROR])
def test_derivation_is_not_composed_for_a_fault_of_the_moment(
    open_token: OpenToken, kind: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = open_token(kind)
    _Fault(monkeypatch, token, "C_DeriveKey", code)
    with pytest.raises(hsm.TokenUnfit, match="cannot do branch, leaf, release"):
        token.reopen()


@pytest.mark.parametrize("kind", ["softhsm", "nss"])
def test_a_master_keeps_the_derivation_that_it_was_made_for(
    open_token: OpenToken, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token that learns CKM_AES_CBC_ENCRYPT_DATA, or loses it, with masters of before."""
    token = open_token(kind)
    _Fault(monkeypatch, token, "C_DeriveKey", 0x70)
    token.reopen()
    assert _rung(token) == "composed"
    released = _use(token, token.create_master("composed"))
    assert token.session.attribute(token.master("composed").handle, ck.DERIVE) == b"\0"
    monkeypatch.undo()

    token.reopen()
    assert _rung(token) == "native"
    assert _use(token, token.master("composed")) == released
    native = token.create_master("native")
    _use(token, native)
    assert {"composed", "native"} <= {info.label for info in token.masters()}

    _Fault(monkeypatch, token, "C_DeriveKey", 0x70)
    token.reopen()
    assert _use(token, token.master("composed")) == released
    with pytest.raises(hsm.TokenUnfit, match="made to derive by itself"):
        token.master("native")
    monkeypatch.undo()

    token.close()
    if kind == "nss":
        strict = open_token(kind, require_native_prf=True)
        with pytest.raises(hsm.TokenUnfit, match="require_native_prf forbids it"):
            strict.master("composed")
        strict.close()
    token = open_token(kind)
    token.destroy_master("composed")
    token.destroy_master("native")


@every_token
def test_a_token_that_is_removed_for_good_is_given_up(
    open_token: OpenToken, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = open_token(kind)
    monkeypatch.setattr(token, "_spec", hsm.TokenSpec(token._spec.module, label="removed"))
    with pytest.raises(hsm.TokenNotFound, match="no token with label 'removed'"):
        token.reopen()

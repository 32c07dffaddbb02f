"""No public operation of hsm gives away key bytes, except the two whose names say so."""

import copy
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import pytest

import hsm
from hsm import cryptoki as ck
from hsm.operations import TokenKey
from hsm.templates import Template
from kms.crypto.interface import KeyOperationError, Use
from kms.crypto.limits import LEAF_USES, PRF_USES, SYMMETRIC_USES
from kms.crypto.software import SoftwareKeys
from kms.mikey.registry import EncrAlg, MacAlg, PrfFunc

KEY, LABEL = bytes(range(200, 232)), b"label"
LENGTHS = (16, 20, 32)
RELEASING = {"release", "prf_release"}
"""Give bytes to a key's owner: that is what they are for."""
UNCHANGED = {"reopen", "close", "adopt"}
"""Change the token's state for all tests: tested for themselves; return nothing."""

Call = Callable[[], object]


def _calls(token: hsm.Token, key: TokenKey) -> dict[str, list[Call]]:
    """Every public method, called in every way that a key or a label can."""
    prfs = [(func, length, use) for func in PrfFunc for length in LENGTHS for use in PRF_USES]
    iv = {EncrAlg.AES_CM_128: bytes(16), EncrAlg.AES_CM_256: bytes(16), EncrAlg.AES_KW_128: bytes(8)}
    return {
        "branch": [lambda: token.branch(key, LABEL)],
        "leaf": [partial(token.leaf, key, LABEL, n, u) for n in LENGTHS for u in LEAF_USES],
        "release": [lambda: token.release(key, LABEL, 32)],
        "prf_key": [partial(token.prf_key, key, f, LABEL, n, u) for f, n, u in prfs],
        "prf_release": [partial(token.prf_release, key, f, LABEL, 32) for f in PrfFunc],
        "mac": [partial(token.mac, key, a, LABEL) for a in MacAlg],
        "verify": [lambda: token.verify(key, MacAlg.HMAC_SHA_256_256, LABEL, bytes(32))],
        "encrypt": [partial(token.encrypt, key, a, i, bytes(32)) for a, i in iv.items()],
        "decrypt": [partial(token.decrypt, key, a, i, bytes(40)) for a, i in iv.items()],
        "load": [partial(token.load, KEY, u) for u in SYMMETRIC_USES],
        "unwrap": [lambda: token.unwrap(key, bytes(256))],
        "random": [lambda: token.random(32)],
        "handle": [partial(token.handle, key, u) for u in Use],
        "key": [partial(token.key, key, u) for u in Use],
        "is_copy": [lambda: token.is_copy(key)],
        "master": [lambda: token.master("around")],
        "masters": [token.masters],
        "create_master": [lambda: token.create_master("around 2")],
        "forget_master": [lambda: token.forget_master("around")],
        "destroy_master": [lambda: token.destroy_master("around 2")],
        "create_private_key": [lambda: token.create_private_key("around", 2048)],
        "private_key": [lambda: token.private_key("around")],
        "public_key": [lambda: token.public_key("around")],
        "count_calls": [token.count_calls],
        "scope": [lambda: _entered(token.scope())],
    }


def _entered(scope: AbstractContextManager[None]) -> None:
    with scope:
        pass


def _result(call: Call) -> object:
    """What a call returns, or everything that its refusal says."""
    try:
        return call()
    except (KeyOperationError, hsm.TokenError) as error:
        return [str(error), error.args, repr(error.__cause__), repr(error.__context__)]


def _secrets() -> list[bytes]:
    """The bytes of the test's key and of everything that the calls derive from it."""
    software = SoftwareKeys()
    branch, prf = software.load(KEY, Use.BRANCH), software.load(KEY, Use.PRF)
    return [
        KEY,
        software.release(branch, LABEL, 32),
        *(software.prf_release(prf, func, LABEL, 32) for func in PrfFunc),
    ]


def _texts(value: object, depth: int = 3) -> Iterator[str]:
    """All that a value shows: bytes in hex, its repr, and the same of what it holds."""
    if isinstance(value, bytes | bytearray | memoryview):
        yield bytes(value).hex()
    else:
        yield value if isinstance(value, str) else repr(value)
    if depth == 0 or isinstance(value, hsm.Token):
        return
    names = {name for each in type(value).__mro__ for name in getattr(each, "__slots__", ())}
    held: list[Any] = [getattr(value, name, None) for name in names | set(getattr(value, "__dict__", ()))]
    held += list(value.values()) if isinstance(value, dict) else []
    held += list(value) if isinstance(value, list | tuple | set | frozenset) else []
    for each in held:
        yield from _texts(each, depth - 1)


def _gives_away(value: object) -> bool:
    shown = "\n".join(_texts(value))
    return any(
        form in shown for secret in _secrets() for form in (secret[:12].hex(), repr(secret[:12])[2:-1])
    )


def test_every_public_operation_is_tried(token: hsm.Token) -> None:
    with token.scope():
        key = token.load(KEY, Use.BRANCH)
        assert isinstance(key, TokenKey)
        public = {name for name in dir(token) if not name.startswith("_") and callable(getattr(token, name))}
        assert public - UNCHANGED == set(_calls(token, key)), "a new operation: what does it give away?"


def test_the_search_finds_what_is_released() -> None:
    for secret in _secrets():
        assert _gives_away(secret)
        assert _gives_away({"a": [secret]})
        assert _gives_away(f"<key {secret!r}>")
        assert _gives_away(SoftwareKeys().load(secret, Use.PRF))
    assert not _gives_away(b"\0" * 32)


@pytest.mark.parametrize("use", SYMMETRIC_USES)
def test_no_operation_gives_key_bytes(token: hsm.Token, use: Use) -> None:
    token.create_master("around")
    released = 0
    with token.scope():
        key = token.load(KEY, use)
        assert isinstance(key, TokenKey)
        for name, calls in _calls(token, key).items():
            for call in calls:
                result = _result(call)
                if name in RELEASING and isinstance(result, bytes):
                    released += _gives_away(result)
                else:
                    assert not _gives_away(result), name
    assert released == {Use.BRANCH: 1, Use.PRF: len(PrfFunc)}.get(use, 0)
    token.destroy_master("around")
    for handle in token.session.find(Template([(ck.LABEL, b"around")])):
        token.session.destroy(handle)


def test_keys_and_tokens_are_not_copied_or_stored(token: hsm.Token) -> None:
    with token.scope():
        key = token.load(KEY, Use.SIGN)
        for thing in (key, token, token.session):
            for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="cannot be copied"):
                    attempt(thing)
        assert key != token.load(KEY, Use.SIGN)

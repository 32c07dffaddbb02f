"""What every implementation of KeyOperations must do, run against software, SoftHSM and NSS."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hsm
from kms.crypto.interface import Key, KeyOperations, UnsupportedKey, Use, VerificationError, WrongUse
from kms.crypto.limits import SYMMETRIC_USES
from kms.crypto.software import SoftwareKeys
from kms.mikey.registry import EncrAlg, MacAlg, PrfFunc

KEY = bytes(range(32))
DATA = b"data to protect " * 5
SHA_1, SHA_256 = MacAlg.HMAC_SHA_1_160, MacAlg.HMAC_SHA_256_256
PRFS = tuple(PrfFunc)

# A fixture of module scope keeps no state between examples: keys are made in scopes.
property_test = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
labels = st.binary(max_size=300)
prf_labels = st.binary(min_size=1, max_size=300)


def observe(ops: KeyOperations, key: Key) -> list[bytes]:
    """What can be seen of a key: equal for equal keys, different for different ones."""
    if key.use is Use.BRANCH:
        return [ops.release(key, b"seen", 32)]
    if key.use is Use.PRF:
        return [ops.prf_release(key, func, b"seen", 64) for func in PRFS]
    if key.use is Use.SIGN:
        return [
            ops.mac(key, alg, DATA) for alg, length in ((SHA_1, 20), (SHA_256, 32)) if key.length >= length
        ]
    alg = EncrAlg.AES_CM_128 if key.length == 16 else EncrAlg.AES_CM_256
    if key.use is Use.ENCRYPT:
        return [ops.encrypt(key, alg, bytes(16), DATA)]
    if key.use is Use.DECRYPT:
        return [ops.decrypt(key, alg, bytes(16), DATA)]
    return []


# -- agreement with the vectors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["prf", "derivations"])
def test_prf_vectors(ops: KeyOperations, vectors: dict[str, Any], group: str) -> None:
    tried = 0
    for vector in vectors[group]:
        inkey, out, label = (bytes.fromhex(vector[name]) for name in ("inkey", "outkey", "label"))
        func = PrfFunc(vector["prf"])
        with ops.scope():
            if len(inkey) > 32 and isinstance(ops, hsm.Token):
                with pytest.raises(UnsupportedKey):
                    ops.load(inkey, Use.PRF)
                continue
            key = ops.load(inkey, Use.PRF)
            assert ops.prf_release(key, func, label, len(out)) == out, vector
            for use in (Use.PRF, Use.SIGN, Use.ENCRYPT, Use.DECRYPT):
                if use in (Use.ENCRYPT, Use.DECRYPT) and len(out) not in (16, 32):
                    continue
                if not (20 if use is Use.SIGN else 16) <= len(out) <= 32:
                    continue
                derived = ops.prf_key(key, func, label, len(out), use)
                assert derived.length == len(out)
                assert observe(ops, derived) == observe(ops, ops.load(out, use)), (vector, use)
            tried += 1
    assert tried >= 60


def test_algorithm_vectors(ops: KeyOperations, vectors: dict[str, Any]) -> None:
    for vector in vectors["algorithms"]:
        entry = {name: bytes.fromhex(value) for name, value in vector.items() if isinstance(value, str)}
        with ops.scope():
            if "mac_alg" in vector:
                alg = MacAlg(vector["mac_alg"])
                assert ops.mac(ops.load(entry["auth_key"], Use.SIGN), alg, entry["data"]) == entry["mac"]
                ops.verify(ops.load(entry["auth_key"], Use.VERIFY), alg, entry["data"], entry["mac"])
                continue
            cipher = EncrAlg(vector["encr_alg"])
            sealing, opening = (ops.load(entry["encr_key"], use) for use in (Use.ENCRYPT, Use.DECRYPT))
            assert ops.encrypt(sealing, cipher, entry["iv"], entry["plain"]) == entry["encr_data"]
            assert ops.decrypt(opening, cipher, entry["iv"], entry["encr_data"]) == entry["plain"]


# -- agreement with software -------------------------------------------------------------------------------------------


@property_test
@given(
    path=st.lists(labels, min_size=1, max_size=3),
    length=st.integers(16, 32),
    use=st.sampled_from([Use.PRF, Use.SIGN]),
)
def test_own_derivation_is_the_same_everywhere(
    ops: KeyOperations, path: list[bytes], length: int, use: Use
) -> None:
    length = max(length, 20) if use is Use.SIGN else length
    seen = []
    for each in (SoftwareKeys(), ops):
        with each.scope():
            key = each.load(KEY, Use.BRANCH)
            for label in path[:-1]:
                key = each.branch(key, label)
            leaf = each.leaf(key, path[-1], length, use)
            released = each.release(key, path[-1], length)
            assert len(released) == leaf.length == length
            assert observe(each, each.load(released, use)) == observe(each, leaf)
            seen.append((released, observe(each, leaf)))
    assert seen[0] == seen[1]


@property_test
@given(
    value=st.binary(min_size=16, max_size=32),
    path=st.lists(st.tuples(st.sampled_from(PRFS), prf_labels, st.integers(16, 32)), min_size=1, max_size=3),
)
def test_forked_keys_are_the_same_everywhere(
    ops: KeyOperations, value: bytes, path: list[tuple[PrfFunc, bytes, int]]
) -> None:
    seen = []
    for each in (SoftwareKeys(), ops):
        with each.scope():
            key = each.load(value, Use.PRF)
            for func, label, length in path:
                released = each.prf_release(key, func, label, length)
                key = each.prf_key(key, func, label, length, Use.PRF)
                assert observe(each, each.load(released, Use.PRF)) == observe(each, key)
            seen.append(observe(each, key))
    assert seen[0] == seen[1]


@property_test
@given(
    data=st.binary(max_size=2000), iv=st.binary(min_size=14, max_size=14), length=st.sampled_from([16, 32])
)
def test_aes_cm_is_the_same_everywhere_and_inverse(
    ops: KeyOperations, data: bytes, iv: bytes, length: int
) -> None:
    alg = EncrAlg.AES_CM_128 if length == 16 else EncrAlg.AES_CM_256
    software = SoftwareKeys()
    expected = software.encrypt(software.load(KEY[:length], Use.ENCRYPT), alg, iv + b"\0\0", data)
    with ops.scope():
        assert ops.encrypt(ops.load(KEY[:length], Use.ENCRYPT), alg, iv + b"\0\0", data) == expected
        assert ops.decrypt(ops.load(KEY[:length], Use.DECRYPT), alg, iv + b"\0\0", expected) == data


@property_test
@given(data=st.integers(2, 12).flatmap(lambda blocks: st.binary(min_size=blocks * 8, max_size=blocks * 8)))
def test_aes_key_wrap_opens_what_it_made_and_nothing_else(ops: KeyOperations, data: bytes) -> None:
    alg, iv = EncrAlg.AES_KW_128, b"8 bytes!"
    with ops.scope():
        wrapped = ops.encrypt(ops.load(KEY[:16], Use.ENCRYPT), alg, iv, data)
        key = ops.load(KEY[:16], Use.DECRYPT)
        assert ops.decrypt(key, alg, iv, wrapped) == data
        bad = wrapped[:9] + bytes((wrapped[9] ^ 1,)) + wrapped[10:]
        for wrong_iv, wrong in (
            (iv, bad),
            (b"9 bytes!", wrapped),
            (iv, wrapped[:-8]),
            (iv, wrapped[:-1]),
            (iv, b""),
        ):
            with pytest.raises(VerificationError):
                ops.decrypt(key, alg, wrong_iv, wrong)


# -- verifying ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", [SHA_1, SHA_256])
def test_verify_raises_for_every_wrong_mac(ops: KeyOperations, alg: MacAlg) -> None:
    with ops.scope():
        mac = ops.mac(ops.load(KEY, Use.SIGN), alg, DATA)
        key = ops.load(KEY, Use.VERIFY)
        ops.verify(key, alg, DATA, mac)
        wrong = [mac[:-1] + bytes((mac[-1] ^ 1,)), bytes((mac[0] ^ 0x80,)) + mac[1:], bytes(len(mac))]
        for bad in (*wrong, b"", mac[:-1], mac + b"\0", mac[:12]):
            with pytest.raises(VerificationError):
                ops.verify(key, alg, DATA, bad)
        with pytest.raises(VerificationError):
            ops.verify(key, alg, DATA + b"\0", mac)
        ops.verify(key, alg, DATA, mac)  # a failed verification leaves nothing behind


# -- refusals ----------------------------------------------------------------------------------------------------------


def _operations(ops: KeyOperations, key: Key) -> dict[Use, list[Any]]:
    iv = bytes(16)
    return {
        Use.BRANCH: [
            lambda: ops.branch(key, b""),
            lambda: ops.leaf(key, b"", 32, Use.PRF),
            lambda: ops.leaf(key, b"", 16, Use.PRF),
            lambda: ops.release(key, b"", 32),
        ],
        Use.PRF: [
            lambda: ops.prf_key(key, PrfFunc.PRF_HMAC_SHA_256, b"x", 32, Use.SIGN),
            lambda: ops.prf_release(key, PrfFunc.MIKEY_1, b"x", 14),
        ],
        Use.SIGN: [lambda: ops.mac(key, SHA_256, DATA)],
        Use.VERIFY: [lambda: ops.verify(key, SHA_256, DATA, bytes(32))],
        Use.ENCRYPT: [lambda: ops.encrypt(key, EncrAlg.AES_CM_256, iv, DATA)],
        Use.DECRYPT: [lambda: ops.decrypt(key, EncrAlg.AES_CM_256, iv, DATA)],
        Use.UNWRAP: [lambda: ops.unwrap(key, DATA)],
    }


@pytest.mark.parametrize("use", SYMMETRIC_USES)
def test_a_key_has_one_use(ops: KeyOperations, use: Use) -> None:
    with ops.scope():
        key = ops.load(KEY, use)
        for other, calls in _operations(ops, key).items():
            for call in calls:
                if other is not use:
                    with pytest.raises(WrongUse):
                        call()


@pytest.mark.parametrize("use", SYMMETRIC_USES)
def test_keys_of_other_operations_are_refused(ops: KeyOperations, use: Use) -> None:
    key = SoftwareKeys().load(KEY, use)
    for call in _operations(ops, key)[use]:
        with pytest.raises(WrongUse):
            call()


def test_keys_that_cannot_be_made_are_refused(ops: KeyOperations) -> None:
    with ops.scope():
        branch, key = ops.load(KEY, Use.BRANCH), ops.load(KEY, Use.PRF)
        for use in (Use.BRANCH, Use.ENCRYPT, Use.DECRYPT):
            with pytest.raises(WrongUse):
                ops.leaf(branch, b"", 32, use)
        with pytest.raises(WrongUse):
            ops.prf_key(key, PrfFunc.MIKEY_1, b"", 32, Use.BRANCH)


def test_lengths_out_of_range_are_refused(ops: KeyOperations) -> None:
    with ops.scope():
        branch, key = ops.load(KEY, Use.BRANCH), ops.load(KEY, Use.PRF)
        sign, verify = ops.load(KEY[:20], Use.SIGN), ops.load(KEY[:20], Use.VERIFY)
        short, long = ops.load(KEY[:16], Use.ENCRYPT), ops.load(KEY, Use.ENCRYPT)
        func = PrfFunc.PRF_HMAC_SHA_256
        calls: list[Callable[[], object]] = [
            *(lambda n=n: ops.leaf(branch, b"", n, Use.PRF) for n in (-1, 0, 15, 33)),
            *(lambda n=n: ops.leaf(branch, b"", n, Use.SIGN) for n in (0, 19, 33)),
            *(lambda n=n: ops.release(branch, b"", n) for n in (-1, 0, 33)),
            *(lambda n=n: ops.prf_key(key, func, b"x", n, Use.PRF) for n in (0, 15, 33)),
            *(lambda n=n: ops.prf_key(key, func, b"x", n, Use.VERIFY) for n in (0, 19, 33)),
            *(lambda n=n: ops.prf_key(key, func, b"x", n, Use.ENCRYPT) for n in (15, 20, 24, 33)),
            *(lambda n=n: ops.prf_release(key, func, b"x", n) for n in (-1, 0, 65)),
            *(lambda n=n: ops.load(bytes(n), Use.PRF) for n in (0, 15)),
            *(lambda n=n: ops.load(bytes(n), Use.BRANCH) for n in (0, 16, 31, 33)),
            *(lambda n=n: ops.load(bytes(n), Use.DECRYPT) for n in (0, 17, 24)),
            lambda: ops.prf_key(key, func, b"", 32, Use.PRF),
            lambda: ops.prf_release(key, func, b"", 32),
            lambda: ops.mac(sign, SHA_256, DATA),
            lambda: ops.mac(sign, MacAlg.NULL, DATA),
            lambda: ops.verify(verify, SHA_256, DATA, bytes(32)),
            lambda: ops.verify(verify, MacAlg.NULL, DATA, b""),
            lambda: ops.encrypt(short, EncrAlg.NULL, b"", DATA),
            lambda: ops.encrypt(short, EncrAlg.AES_CM_256, bytes(16), DATA),
            lambda: ops.encrypt(long, EncrAlg.AES_CM_128, bytes(16), DATA),
            lambda: ops.encrypt(long, EncrAlg.AES_KW_128, bytes(8), DATA),
            lambda: ops.encrypt(long, EncrAlg.AES_CM_256, bytes(15), DATA),
            lambda: ops.encrypt(long, EncrAlg.AES_CM_256, bytes(16), bytes((1 << 20) + 1)),
            lambda: ops.encrypt(short, EncrAlg.AES_KW_128, bytes(8), bytes(8)),
            lambda: ops.encrypt(short, EncrAlg.AES_KW_128, bytes(8), bytes(17)),
        ]
        for call in calls:
            with pytest.raises(UnsupportedKey):
                call()


# -- scopes ------------------------------------------------------------------------------------------------------------


def test_scopes_destroy_what_was_made_inside(ops: KeyOperations) -> None:
    with ops.scope():
        outer = ops.load(KEY, Use.BRANCH)
        with ops.scope():
            inner = ops.branch(outer, b"inner")
            assert ops.release(inner, b"", 32)
        assert ops.release(outer, b"", 32)
        with pytest.raises(WrongUse):
            ops.release(inner, b"", 32)
    with pytest.raises(WrongUse):
        ops.branch(outer, b"")


def test_scopes_destroy_on_exceptions(ops: KeyOperations) -> None:
    keys: list[Key] = []

    def fail() -> None:
        with ops.scope():
            keys.append(ops.load(KEY, Use.VERIFY))
            ops.verify(keys[0], SHA_256, DATA, bytes(32))

    with pytest.raises(VerificationError):
        fail()
    with pytest.raises(WrongUse):
        ops.verify(keys[0], SHA_256, DATA, bytes(32))


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_repr_shows_use_and_length_only(ops: KeyOperations) -> None:
    with ops.scope():
        for use in SYMMETRIC_USES:
            key = ops.load(KEY, use)
            assert f"{key!r} {key}".count(f"{use.value} 32 bytes") == 2
            assert KEY[8:12].hex() not in repr(key)


def test_random_has_the_length_and_differs(ops: KeyOperations) -> None:
    assert [len(ops.random(length)) for length in (1, 16, 32, 100)] == [1, 16, 32, 100]
    assert ops.random(32) != ops.random(32)


def test_software_random_can_be_scripted() -> None:
    assert SoftwareKeys(random=lambda length: b"\x05" * length).random(3) == b"\5\5\5"

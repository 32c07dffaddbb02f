"""The demo's judgement: it must notice what does not go as it must."""

import os
from dataclasses import replace

import grpc
import pylibsrtp
import pytest

from kms.cli.demo import media
from kms.cli.demo.show import Refusal, Show, Unexpected
from kms.client import AuthenticationError, ProtocolError, Refused, SrtpKeys
from kms.mikey.srtp import AES_CM_128_HMAC_SHA1_80, AES_CM_256_HMAC_SHA1_80


def keys(ssrc: int) -> SrtpKeys:
    return SrtpKeys(1, ssrc, None, None, bytes(range(16)), bytes(range(14)), b"", AES_CM_128_HMAC_SHA1_80)


def test_everybody_hears_everybody() -> None:
    members = {name: keys(number) for number, name in enumerate(("alice", "bob", "carol"), 1)}
    assert media.play(members, keys(9)) == media.PACKETS * 3 * 2


def test_a_member_with_another_key_hears_nothing() -> None:
    members = {"alice": keys(1), "bob": replace(keys(2), master_key=os.urandom(16))}
    with pytest.raises(pylibsrtp.Error):
        media.play(members, keys(9))


def test_only_the_profile_that_libsrtp_has() -> None:
    other = replace(keys(1), policy=AES_CM_256_HMAC_SHA1_80)
    with pytest.raises(Unexpected, match="AES_256_CM"):
        media.play({"alice": other}, keys(9))


def test_an_attack_that_succeeds_is_noticed() -> None:
    with (
        pytest.raises(Unexpected, match="nobody refused"),
        Show().refused("mallory", "tries", "the KMS", Refused),
    ):
        pass


def test_another_error_is_no_refusal() -> None:
    with pytest.raises(ProtocolError), Show().refused("mallory", "tries", "bob", AuthenticationError):
        raise ProtocolError("something else")


def test_a_refusal_for_another_reason_is_noticed() -> None:
    refusal = Refusal("mallory tries", Refused("REPLAYED", "seen before", grpc.StatusCode.ALREADY_EXISTS))
    refusal.must_be("REPLAYED")
    with pytest.raises(Unexpected, match="seen before"):
        refusal.must_be("NOT_AUTHORIZED")

"""The Initiator and Responder roles of the conformance vectors: exchanges and negatives."""

from pathlib import Path
from typing import Any

import pytest

from kms.mikey.errors import DecodeError, MikeyError
from kms.mikey.message import Message
from tests.kms.vector_kms import VectorKms
from tests.kms.vector_player import Player
from tests.mikey.vectors import build, load

Json = dict[str, Any]

NEGATIVES = [n for n in load("negatives")["negatives"] if "KMS" not in n["target"]]


@pytest.mark.parametrize("exchange", load("exchanges")["exchanges"], ids=lambda e: e["name"])
def test_exchange(exchange: Json) -> None:
    """Every message a party sends is byte-equal, every other is accepted, and both sides end with the same keys."""
    player = Player(exchange["config"], exchange["messages"], exchange["sessions"])
    player.play()
    for expected, made in player.sent:
        assert made == expected
    by_the_kms = sum(m["name"] in ("REQUEST_RESP", "RESOLVE_RESP") for m in exchange["messages"])
    assert len(player.sent) + by_the_kms == len(exchange["messages"])
    assert len(player.sessions) == len(exchange["sessions"])
    for expected_session in exchange["sessions"]:
        session = player.sessions[expected_session["role"], expected_session["csb_id"]]
        static = session.static
        assert list(session.keys) == [build(k) for k in expected_session["keys"]]
        assert static.flags.letters == expected_session["flags"]
        assert static.randr_i.hex() == expected_session["randi"]
        assert static.randr_r.hex() == expected_session["randr"]
        assert static.identity_i.hex() == expected_session["identity_i"]
        assert static.identity_r.hex() == expected_session["identity_r"]
        srtp = {str(k.cs_id): {"tek": k.master_key.hex(), "salt": k.master_salt.hex()} for k in session.srtp}
        assert srtp == expected_session["srtp"]


@pytest.mark.parametrize("negative", NEGATIVES, ids=lambda n: n["name"])
def test_negative(negative: Json, tmp_path: Path) -> None:
    """A message that no party may accept is refused, with the Error no of the vector (A-20)."""
    bad = bytes.fromhex(negative["bad"])
    if negative["target"] == "any":
        with pytest.raises(DecodeError) as malformed:
            Message.decode(bad)
        assert malformed.value.error_no == negative["expected"]["error_no"]
        return
    config = negative["config"] | {"clock_unix": negative["clock_unix"]}
    player = Player(config, negative["context"])
    player.play()
    assert all(made == expected for expected, made in player.sent), "the context is not played right"
    with pytest.raises(MikeyError) as refused:
        _deliver(player, negative, bad, tmp_path)
    assert refused.value.error_no == negative["expected"]["error_no"]


def _deliver(player: Player, negative: Json, bad: bytes, folder: Path) -> None:
    call = player.call
    if negative["target"] == "Initiator":
        exchange = call.outgoing or call.request
        assert exchange
        exchange.complete(bad)
    elif negative["target"] == "Responder":
        assert call.incoming
        call.incoming.resolved(bad)
    else:
        incoming = player.receive(bad, "sip:bob@example.com")
        resolve_init = player.resolve_init(incoming)
        outcome = VectorKms(negative["config"], folder, clock=negative["clock_unix"]).answer(resolve_init.raw)
        incoming.resolved(outcome.mikey_message)

"""What the engine's memory holds of keys that both sides know: only those on their way to their owner (SECURITY.md)."""

from dataclasses import replace
from pathlib import Path

import pytest

from kms.client import Participant
from kms.client.endpoint import ClientEndpoint
from kms.crypto.interface import Use
from kms.crypto.software import SoftwareKey, SoftwareKeys
from kms.link.hardening import DUMPABLE_VARIABLE
from kms.mikey import labels
from kms.mikey.labels import MessageKey
from kms.mikey.message import Message
from kms.mikey.payloads import Randr
from kms.mikey.registry import PrfFunc
from kms.party.credential import Credential
from tests.e2e.home import Server, init, serving
from tests.e2e.test_isolation import _children, _memory_holds

ALICE, BOB = "sip:secrets-alice@example.com", "sip:secrets-bob@example.com"
SHA_256 = PrfFunc.PRF_HMAC_SHA_256


class Recording:
    """An Endpoint that keeps what it sent."""

    def __init__(self, credential: Credential) -> None:
        self._endpoint = ClientEndpoint(credential)
        self.sent: list[bytes] = []

    def request_ticket(self, message: bytes) -> bytes:
        self.sent.append(message)
        return self._endpoint.request_ticket(message)

    def resolve_ticket(self, message: bytes) -> bytes:
        self.sent.append(message)
        return self._endpoint.resolve_ticket(message)


def _message_keys(psk: bytes, raw: bytes) -> dict[str, bytes]:
    """The keys that protect a message and its answer, derived here from the PSK."""
    ops, message = SoftwareKeys(), Message.decode(raw)
    key, rand = ops.load(psk, Use.PRF), message.get(Randr).rand
    return {
        f"{constant.name} key {direction}": ops.prf_release(
            key, SHA_256, labels.message_key(constant, message.hdr.csb_id, direction, rand, b""), 32
        )
        for constant in (MessageKey.AUTH, MessageKey.ENCR)
        for direction in (labels.INITIAL, labels.RESPONSE)
    }


def _held(server: Server, secrets: dict[str, bytes]) -> set[str]:
    (engine,) = _children(server.pid)["engine"]
    found = _memory_holds(engine, list(secrets.values()))
    return {name for name, value in secrets.items() if value in found}


@pytest.mark.parametrize("token", ["nss", "softhsm"])
def test_keys_that_stay_in_the_token_are_not_in_the_engines_memory(
    tmp_path: Path, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is started anew for each exchange, so that what is found is of that exchange."""
    monkeypatch.setenv(DUMPABLE_VARIABLE, "1")  # else only root may read an engine's memory
    home = tmp_path / "home"
    init(home, token)
    with serving(home) as server:
        alice, bob = (Credential.load(server.enrol(identity)) for identity in (ALICE, BOB))
    psks = {"PSK of Alice": alice.psks[0].psk, "PSK of Bob": bob.psks[0].psk}
    # The engine keeps it, to open a lost token again: it shows that the search finds what is there.
    control = {"PIN": (home / "token/pin").read_bytes().strip()}

    with serving(home) as server:
        requesting = Recording(replace(alice, target=server.grpc))
        caller = Participant(alice, endpoint=requesting)
        ticket = caller.request_ticket([BOB])
        assert isinstance(ticket.mpkr, SoftwareKey)
        mpkr, (tgk, *_) = bytes(ticket.mpkr.value), ticket.session_keys
        # MPKi, MPKr and the TGK go to Alice, and may be there still.
        stays = psks | _message_keys(alice.psks[0].psk, requesting.sent[0])
        assert _held(server, stays | control) == {"PIN"}
    offer = caller.offer(ticket, BOB)

    with serving(home) as server:
        resolving = Recording(replace(bob, target=server.grpc))
        answer = Participant(bob, endpoint=resolving).receive(offer.message).answer()
        forked = offer.complete(answer.message or b"").keys[0].key
        assert forked != tgk.key
        # MPKi, MPKr' and TGK' go to Bob.
        ops = SoftwareKeys()
        vr_key = ops.prf_release(ops.load(mpkr, Use.PRF), SHA_256, labels.vr_key(), 32)
        stays = psks | _message_keys(bob.psks[0].psk, resolving.sent[0])
        stays |= {"MPKr": mpkr, "TGK": tgk.key, "key of Vr": vr_key}
        assert _held(server, stays | control) == {"PIN"}

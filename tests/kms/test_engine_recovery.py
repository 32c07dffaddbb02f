"""The engine on real tokens that go away: the next message is answered, or the engine ends to be replaced."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hsm
from kms.client import Participant
from kms.crypto.sources import Sources
from kms.crypto.suite import suite_of
from kms.engine.context import Context
from kms.engine.directory import Directory, Role
from kms.engine.engine import Engine
from kms.engine.epochs import Epochs
from kms.engine.faults import EngineFault
from kms.engine.psk import CURRENT_MASTER, MASTER_LABEL, DiversifiedPsks, encode_psk_id
from kms.mikey.registry import PrfFunc
from kms.party.credential import Credential, PreSharedKey
from tests.hsm.breaking import BREAKS, Break
from tests.hsm.tokens import TOKENS
from tests.kms.callers import ALICE, BOBBY
from tests.kms.local_kms import KMS_IDENTITY, Clock, LocalEndpoint, LocalKms

DAY = 86400


class TokenKms(LocalKms):
    """A KMS whose PSKs and TPKs come from masters in a token, as `kms serve` has it."""

    def __init__(self, folder: Path, token: hsm.Token) -> None:
        super().__init__(folder)
        self.clock = Clock()
        self.token = token
        self._masters = DiversifiedPsks(token)
        self.epochs = Epochs(token, DAY, DAY, leader=True)
        self.epochs.maintain(self.clock.now)
        self.directory = Directory(folder / "token.db")
        self.engine = Engine(
            Context(
                KMS_IDENTITY.encode(),
                token,
                self._masters,
                self.epochs,
                self.directory,
                Sources(clock=self.clock),
            )
        )

    def participant(self, identity: str) -> Participant:
        """A new subscriber with a diversified PSK."""
        user = self.directory.enrol(identity.encode(), Role.CLIENT)
        psks = tuple(
            PreSharedKey(
                suite_of(prf).bits,
                encode_psk_id(identity.encode(), user.version),
                self._masters.release(identity.encode(), user.version, prf),
            )
            for prf in (PrfFunc.PRF_HMAC_SHA_256, PrfFunc.MIKEY_1)
        )
        credential = Credential(identity, KMS_IDENTITY, "localhost:0", "client", psks, "-", "-", "-")
        return Participant(
            credential, endpoint=LocalEndpoint(self, credential), sources=Sources(clock=self.clock)
        )


@pytest.fixture(params=TOKENS)
def kms(
    request: pytest.FixtureRequest, tmp_path: Path, open_token: Callable[..., hsm.Token]
) -> Iterator[TokenKms]:
    token = open_token(request.param)
    token.create_master(MASTER_LABEL.format(CURRENT_MASTER))
    yield TokenKms(tmp_path, token)
    token.reopen()
    for info in token.masters():
        if info.label.startswith("kms "):
            token.destroy_master(info.label)


def _call(alice: Participant, bobby: Participant) -> None:
    offer = alice.offer(alice.request_ticket([BOBBY]), BOBBY)
    answer = bobby.receive(offer.message).answer()
    assert offer.complete(answer.message or b"").peer_authenticated


@pytest.mark.parametrize("go_wrong", BREAKS)
def test_a_call_goes_through_although_the_token_went_away(kms: TokenKms, go_wrong: Break) -> None:
    alice, bobby = kms.participant(ALICE), kms.participant(BOBBY)
    _call(alice, bobby)
    before = alice.request_ticket([BOBBY])
    go_wrong(kms.token)
    offer = alice.offer(alice.request_ticket([BOBBY]), BOBBY)
    go_wrong(kms.token)
    answer = bobby.receive(offer.message).answer()
    assert offer.complete(answer.message or b"").peer_authenticated
    # A ticket of before: the epochs are the same keys.
    offer = alice.offer(before, BOBBY)
    assert offer.complete(bobby.receive(offer.message).answer().message or b"").peer_authenticated


def test_a_refused_pin_ends_the_engine(kms: TokenKms, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = kms.participant(ALICE)
    kms.participant(BOBBY)
    with monkeypatch.context() as wrong_pin:
        wrong_pin.setattr(kms.token, "_pin", b"1234567")
        BREAKS[0](kms.token)
        calls = kms.token.count_calls()
        for _ in range(2):
            with pytest.raises(EngineFault, match=r"refused the PIN") as fault:
                alice.request_ticket([BOBBY])
            assert "1234567" not in str(fault.value)
        assert calls["C_Login"][0] == 1
    kms.token._pin_refusal = None  # so that the fixture can clean up

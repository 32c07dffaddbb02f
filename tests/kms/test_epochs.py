"""TPK epochs in real tokens: made ahead, destroyed after their last ticket, and what that means for old tickets."""

from collections.abc import Callable, Iterator

import pytest

import hsm
from hsm.operations import TokenKey
from kms.crypto.sources import Sources
from kms.engine import tickets
from kms.engine.epochs import LABEL_PREFIX, Epochs
from kms.engine.faults import EngineFault
from kms.engine.refusals import Reason, Refused
from kms.mikey import policy as rules
from kms.mikey.payloads import TicketPolicy
from kms.mikey.registry import KeyType
from kms.mikey.ticket_data import BASE_TICKET, DERIVED_TICKET, KeyEntry
from tests.hsm.tokens import TOKENS

DAY = 86400
NOW = 20_000 * DAY + 100
TGK = KeyEntry(KeyType.TGK, 32, 0, b"spi1")

OpenToken = Callable[..., hsm.Token]


@pytest.fixture(params=TOKENS)
def opened(request: pytest.FixtureRequest, open_token: OpenToken) -> Iterator[tuple[str, hsm.Token]]:
    token = open_token(request.param)
    yield request.param, token
    for info in token.masters():
        if info.label.startswith(LABEL_PREFIX):
            token.destroy_master(info.label)


def _labels(token: hsm.Token) -> list[str]:
    return [info.label for info in token.masters() if info.label.startswith(LABEL_PREFIX)]


def _policy(kind: tuple[int, int, int]) -> TicketPolicy:
    data = rules.tp_data(kms=b"sip:kms@x", initiator=b"sip:a@x", responders=[b"sip:b@x"], end=NOW + 60)
    return TicketPolicy(*kind, 1, rules.FORKED_MODE_1, data)


def test_the_leader_makes_epochs_ahead_and_destroys_them_in_time(opened: tuple[str, hsm.Token]) -> None:
    _, token = opened
    epochs = Epochs(token, DAY, DAY, leader=True)
    epochs.maintain(NOW)
    assert _labels(token) == ["kms TPK 20000", "kms TPK 20001"]
    epochs.maintain(NOW + 60)
    epochs.maintain(NOW + DAY)
    assert _labels(token) == ["kms TPK 20000", "kms TPK 20001", "kms TPK 20002"]
    assert epochs.destroy_at(20000) == 20_002 * DAY
    epochs.maintain(20_002 * DAY - 1)
    assert "kms TPK 20000" in _labels(token), "its last ticket may still be valid"
    epochs.maintain(20_002 * DAY)
    assert "kms TPK 20000" not in _labels(token)


@pytest.mark.parametrize("kind", [DERIVED_TICKET, BASE_TICKET], ids=["derived", "base"])
def test_a_ticket_of_a_destroyed_epoch_is_as_good_as_forged(
    opened: tuple[str, hsm.Token], kind: tuple[int, int, int]
) -> None:
    """Recorded signalling cannot be opened any more, by nobody: the key is gone from the token."""
    _, token = opened
    epochs = Epochs(token, DAY, DAY, leader=True)
    epochs.maintain(NOW)
    grant = tickets.grant_derived if kind == DERIVED_TICKET else tickets.grant_base
    with token.scope():
        ticket, _ = grant(token, epochs, Sources(clock=lambda: float(NOW)), _policy(kind), [TGK])
        assert tickets.open_ticket(token, epochs, ticket).session_keys()
    epochs.maintain(20_002 * DAY)
    epochs._looked_up = -10.0  # as if the second of the rate limit had passed
    with token.scope(), pytest.raises(Refused) as refused:
        tickets.open_ticket(token, epochs, ticket)
    assert refused.value.reason is Reason.TICKET_NOT_AUTHENTIC


def test_an_engine_that_is_not_the_leader_follows(opened: tuple[str, hsm.Token]) -> None:
    _, token = opened
    Epochs(token, DAY, DAY, leader=True).maintain(NOW)
    other = Epochs(token, DAY, DAY, leader=False)
    assert other.current(NOW)[0] == b"\1" + (20000).to_bytes(4, "big")
    other.maintain(NOW + 5 * DAY)
    assert _labels(token) == ["kms TPK 20000", "kms TPK 20001"], "only the leader makes and destroys"
    with pytest.raises(EngineFault, match="engine 0"):
        other.current(NOW + 5 * DAY)


def test_a_key_that_another_process_destroyed_is_noticed_and_looked_up_anew(
    opened: tuple[str, hsm.Token],
) -> None:
    _, token = opened
    epochs = Epochs(token, DAY, DAY, leader=True)
    epochs.maintain(NOW)
    psk_id, key = epochs.current(NOW)
    assert isinstance(key, TokenKey)
    original, _id = token._originals["kms TPK 20000"]
    token.session.destroy(original)  # behind the back of this Token, as another process would
    stale = epochs.epoch(psk_id)
    assert stale is not None
    if not token.is_copy(key):
        with token.scope(), pytest.raises(hsm.KeyNotFound):
            token.branch(stale, b"x")
    epochs.forget()
    with token.scope(), pytest.raises(hsm.KeyNotFound):
        token.branch(stale, b"x")
    assert epochs.epoch(psk_id) is None


@pytest.mark.parametrize("psk_id", [None, b"", b"\1", b"\2\0\0\0\1", b"\1\0\0\0\1x", b"\1\xff\xff\xff\xff"])
def test_unknown_epochs(opened: tuple[str, hsm.Token], psk_id: bytes | None) -> None:
    _, token = opened
    epochs = Epochs(token, DAY, DAY, leader=True)
    epochs.maintain(NOW)
    assert epochs.epoch(psk_id) is None
    assert epochs.base(psk_id, 1) is None  # type: ignore[arg-type]

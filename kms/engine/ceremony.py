"""The key ceremony: which long-term keys a fresh token gets."""

from hsm import MasterInfo, Token
from kms.engine import epochs, psk, shared_tpks


def create_masters(token: Token, *, epoch_seconds: int, now: float) -> list[MasterInfo]:
    """Make the PSK master, the shared TPK master and the TPKs of the current and the next epoch in the token.

    Raises hsm.KeyExists if the token has one of them: nothing is ever overwritten.
    """
    token.create_master(psk.MASTER_LABEL.format(psk.CURRENT_MASTER))
    token.create_master(shared_tpks.MASTER_LABEL.format(shared_tpks.CURRENT_MASTER))
    first = int(now) // epoch_seconds
    for number in (first, first + 1):
        token.create_master(epochs.label(number))
    return token.masters()

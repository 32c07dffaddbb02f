"""Building an engine from a home folder."""

from pathlib import Path

import structlog

import hsm
from kms.config import Config, load_config
from kms.crypto.sources import Sources
from kms.engine.admin import Administration
from kms.engine.context import Context
from kms.engine.directory import Directory, DirectoryError
from kms.engine.engine import Engine
from kms.engine.epochs import Epochs
from kms.engine.faults import StartRefused
from kms.engine.granting import Limits
from kms.engine.peers import read_peers
from kms.engine.psk import CURRENT_MASTER, MASTER_LABEL, DiversifiedPsks
from kms.engine.public_key import open_public_key
from kms.engine.shared_tpks import DiversifiedTpks

DIRECTORY_NAME = "directory.db"

_log = structlog.get_logger()


def build_engine(home: Path, pin: bytes, index: int) -> Engine:
    """The engine of a home folder, with the token open. Engine 0 makes and destroys TPK epochs.

    Raises StartRefused with one line for the operator, or kms.config.ConfigError.
    """
    config = load_config(home)
    peers = read_peers(config.peers)
    token = _open_token(config, home, pin)
    try:
        directory = Directory(home / DIRECTORY_NAME)
        token.master(MASTER_LABEL.format(CURRENT_MASTER))
    except DirectoryError as error:
        raise StartRefused(str(error)) from None
    except hsm.KeyNotFound:
        raise StartRefused(
            "the token has no PSK master: run `kms init` for a new home, or check [token]"
        ) from None
    sources = Sources()
    epochs = Epochs(token, config.epoch_seconds, config.max_ticket_lifetime_seconds, leader=index == 0)
    epochs.maintain(sources.now())
    _log.info("token open", token=token.probe.token, **{r.operation: r.rung for r in token.probe.rungs})
    psks, tpks = DiversifiedPsks(token), DiversifiedTpks.of(token)
    context = Context(
        config.identity.encode(),
        token,
        psks,
        epochs,
        directory,
        sources,
        Limits(config.max_ticket_lifetime_seconds),
        config.clock_skew_seconds,
        peers=peers,
        public_key=open_public_key(config, token),
        shared_tpks=tpks,
    )
    return Engine(context, Administration(context, token, psks, epochs, tpks))


def _open_token(config: Config, home: Path, pin: bytes) -> hsm.Token:
    try:
        return hsm.open_token(hsm.TokenSpec.from_config(config.token, home), pin)
    except hsm.PinRefused as error:
        raise StartRefused(str(error), pin_rejected=True) from None
    except hsm.TokenError as error:
        raise StartRefused(str(error)) from None

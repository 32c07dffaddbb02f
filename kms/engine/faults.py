"""How the engine tells its process that it cannot go on. Not refusals: those are answers."""


class EngineFault(Exception):
    """The token is gone or cannot be trusted any more: this engine must end and be replaced."""


class StartRefused(Exception):
    """The engine cannot start; the text is one line, what is wrong and what to do, never a secret.

    pin_rejected: the token refused the PIN. It is not tried again: tokens lock after a few wrong PINs.
    """

    def __init__(self, message: str, *, pin_rejected: bool = False) -> None:
        super().__init__(message)
        self.pin_rejected = pin_rejected

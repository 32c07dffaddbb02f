"""The whole demonstration, from set-up to exit code."""

import time

from kms.cli.demo.show import Show, Unexpected
from kms.cli.errors import CommandError
from kms.cli.stage import Stage, temporary_stage

EXIT_FAILED = 1


def demo_command(*, keep: bool) -> int:
    """Play everything; 0 only if all went as it must. Raises CommandError if the KMS cannot be set up."""
    try:
        import pylibsrtp  # noqa: F401 - an extra of its own
    except ImportError:
        raise CommandError("the demo needs pylibsrtp: install mikey-ticket-kms[server,srtp]") from None
    with temporary_stage(keep=keep) as stage:
        show = Show()
        try:
            _play(stage, show)
        except Unexpected as unexpected:
            show.end(f"Not as it must be: {unexpected}", "bold red")
            return EXIT_FAILED
        finally:
            if keep:
                show.end(f"The home is kept in {stage.home}", "dim")
    show.end("Everything went as it must: exit code 0", "bold green")
    return 0


def _play(stage: Stage, show: Show) -> None:
    from kms.cli.demo.attacks import attack
    from kms.cli.demo.play import IDENTITIES, KMS, Cast, hold_conference
    from kms.client import KmsError, MikeyError

    show.act("Set-up: a SoftHSM token, TLS, and a KMS in a temporary home")
    with show.step("operator", "kms init --token softhsm"):
        stage.init(KMS)
    begun = time.monotonic()
    with stage.serving() as running:
        ready = f"kms serve: frontend and engine are ready at {running.target}"
        show.done("operator", ready, time.monotonic() - begun)
        files = {}
        for identity, role in IDENTITIES.items():
            with show.step("operator", f"kms user add {identity} --role {role}"):
                files[identity] = stage.enrol(identity, role, running.target)
        with Cast(files) as cast:
            try:
                conference = hold_conference(cast, show)
                attack(cast, conference, show)
            except (KmsError, MikeyError) as error:
                raise Unexpected(f"{type(error).__name__}: {error}") from error
    show.summary()

"""The commands, their options and how they fail. Each command imports what it needs, so that --help is quick."""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kms.cli.errors import CommandError
from kms.cli.vectors.commands import vectors_app

EXIT_USAGE = 2
EXIT_FAULT = 70
EXIT_INTERRUPTED = 130

app = typer.Typer(
    help="Key management service for MIKEY-TICKET (RFC 6043), with its keys in a PKCS#11 token.",
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
user_app = typer.Typer(help="Enrol, list and revoke users.", rich_markup_mode=None)
key_app = typer.Typer(help="Look at the long-term keys.", rich_markup_mode=None)
app.add_typer(user_app, name="user")
peer_app = typer.Typer(help="Have other KMSs resolve their tickets.", rich_markup_mode=None)
group_app = typer.Typer(help="Name groups of responders for tickets.", rich_markup_mode=None)
app.add_typer(group_app, name="group")
app.add_typer(key_app, name="key")
app.add_typer(vectors_app, name="vectors")
app.add_typer(peer_app, name="peer")


class Role(StrEnum):
    """Role of a user, as the command line spells it."""

    CLIENT = "client"
    FOCUS = "focus"
    GATEWAY = "gateway"
    PEER = "peer"


class TpkRole(StrEnum):
    """What a user gets a TPK of the KMS for, as the command line spells it."""

    RESPONDER = "responder"
    INITIATOR = "initiator"


class SuiteBits(StrEnum):
    """A suite by its size in bits."""

    BITS_256 = "256"
    BITS_128 = "128"


Home = Annotated[
    Path,
    typer.Option(
        "--home", metavar="DIR", envvar="KMS_HOME", help="The home folder of the KMS.", show_default=True
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

HOME = Path("~/.kms")


@app.command()
def init(
    home: Home = HOME,
    token: Annotated[
        str,
        typer.Option(metavar="softhsm|nss|URI", help="Make a token, or name one by its PKCS#11 URI."),
    ] = "softhsm",  # noqa: S107 - no password
    identity: Annotated[
        str, typer.Option(metavar="URI", help="IDRkms, the identity of this KMS.")
    ] = "sip:kms@example.com",
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where clients and foci connect.")
    ] = "127.0.0.1:7443",
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where Prometheus connects.")
    ] = "127.0.0.1:9464",
    engines: Annotated[int, typer.Option(min=1, max=256, help="Engine processes, one per core.")] = 1,
    pin_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="PIN of an existing token; made for a new one if not given."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a new home by key ceremony.

    Token, master keys, TLS CA, server certificate and kms.toml. An existing home is never overwritten.
    """
    from kms.cli.init import Wishes, init_command

    wishes = Wishes(
        token=token, identity=identity, grpc=listen, metrics=metrics, engines=engines, pin_file=pin_file
    )
    init_command(home, wishes, as_json=json)


@app.command()
def serve(home: Home = HOME) -> None:
    """Run the KMS of a home.

    Prints `ready grpc=HOST:PORT metrics=HOST:PORT` when it serves; ends on SIGTERM or Ctrl-C.
    """
    from kms.cli.serve import serve_command

    raise typer.Exit(serve_command(home))


@user_app.command("add")
def user_add(
    uri: Annotated[
        str, typer.Argument(metavar="URI", help="Identity of the user, such as sip:alice@example.com.")
    ],
    role: Annotated[Role, typer.Option(help="What the user may do.")],
    suite: Annotated[
        SuiteBits, typer.Option(help="Suite of a client; a focus and a peer get both.")
    ] = SuiteBits.BITS_256,
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="URI", help="One more identity the user may speak as. May be repeated."),
    ] = None,
    acts_for: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Whose messages a gateway may carry, or for whom a peer KMS may have tickets resolved: "
            "sip:*@example.com. May be repeated.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Where the user finds this KMS, if not where it listens."),
    ] = None,
    cert: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The user signs: its RSA certificate, then those that certify it (PEM)."
        ),
    ] = None,
    pk: Annotated[
        bool, typer.Option("--pk", help="The user signs: make its RSA key and certificate, for trial.")
    ] = False,
    share_tpk: Annotated[
        list[TpkRole] | None,
        typer.Option(
            help="Share a TPK: a responder opens its tickets itself (mode 2), an initiator makes its own (mode 3). "
            "May be repeated; docs/modes.md says what it costs."
        ),
    ] = None,
    share_tpk_with: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URI",
            help="Share TPKs with another user, who must be enrolled with this option too (mode 4). May be repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Enrolment file (mode 0600).  [default: made from URI]"),
    ] = None,
    home: Home = HOME,
    json: Json = False,
) -> None:
    """Enrol a user.

    Writes the enrolment file: PSK, TLS certificate and where to connect. Whoever has it is that user. With --cert or
    --pk the user has no PSK: it signs with an RSA key (docs/public-key.md).
    """
    from kms.cli.users import Enrolment, add_command

    enrolment = Enrolment(
        uri,
        role.value,
        int(suite.value),
        aliases=tuple(alias or ()),
        acts_for=tuple(acts_for or ()),
        target=target,
        cert=cert,
        pk=pk,
        share_tpk=tuple(role.value for role in share_tpk or ()),
        share_tpk_with=tuple(share_tpk_with or ()),
    )
    add_command(home, enrolment, out, as_json=json)


@user_app.command("list")
def user_list(home: Home = HOME, json: Json = False) -> None:
    """List the users."""
    from kms.cli.users import list_command

    list_command(home, as_json=json)


@user_app.command("revoke")
def user_revoke(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Identity of the user.")],
    home: Home = HOME,
) -> None:
    """Refuse a user from now on."""
    from kms.cli.users import revoke_command

    revoke_command(home, uri)


@group_app.command("add")
def group_add(
    group: Annotated[
        str, typer.Argument(metavar="GROUP", help="Name of the group, a URI: IDRr of a ticket.")
    ],
    uri: Annotated[str, typer.Argument(metavar="URI", help="Identity of the new member.")],
    home: Home = HOME,
) -> None:
    """Let a user have the tickets of a group resolved. The group is made with its first member."""
    from kms.cli.groups import add_command

    add_command(home, group, uri)


@group_app.command("remove")
def group_remove(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.")],
    uri: Annotated[str, typer.Argument(metavar="URI", help="Identity of the member.")],
    home: Home = HOME,
) -> None:
    """Take a user out of a group."""
    from kms.cli.groups import remove_command

    remove_command(home, group, uri)


@group_app.command("list")
def group_list(home: Home = HOME, json: Json = False) -> None:
    """List the groups and their members."""
    from kms.cli.groups import list_command

    list_command(home, as_json=json)


@key_app.command("list")
def key_list(home: Home = HOME, json: Json = False) -> None:
    """List labels, fingerprints and dates."""
    from kms.cli.keys import list_command

    list_command(home, as_json=json)


@peer_app.command("add")
def peer_add(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Enrolment file that the other KMS's operator made.")
    ],
    home: Home = HOME,
) -> None:
    """Forward the tickets of another KMS to it.

    FILE was made there by `kms user add URI-OF-THIS-KMS --role peer --acts-for PATTERN`. It is split into a PSK for the
    engines and TLS files for the frontend, and entered into kms.toml; `kms serve` reads that when it starts.
    """
    from kms.cli.peers import add_command

    add_command(home, file)


@app.command()
def doctor(home: Home = HOME, json: Json = False) -> None:
    """Say how this KMS works and what is wrong.

    Names the rung of every key operation, the mechanisms and the keys. Exit code 1 if anything is an error.
    """
    from kms.cli.doctor import doctor_command

    raise typer.Exit(doctor_command(home, as_json=json))


@app.command()
def inspect(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|- ...",
            help="MIKEY messages in the order they were sent: binary, hex, base64 or SDP.",
        ),
    ],
    credential: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Enrolment file of a party: verifies MACs and opens KEMACs with its keys."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Decode MIKEY messages into readable trees, and check them.

    Exit code 1 if one is malformed, breaks a rule of RFC 6043, or has a wrong MAC. Keys are shown as fingerprints.
    """
    from kms.cli.inspect import inspect_command

    raise typer.Exit(inspect_command(*files, as_json=json, credential=credential))


@app.command()
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the temporary home, and say where it is.")
    ] = False,
) -> None:
    """Play a conference and attacks on it.

    On a KMS of its own in a temporary home. Exit code 0 only if everything went as it must.
    """
    from kms.cli.demo import demo_command

    raise typer.Exit(demo_command(keep=keep))


@app.command()
def bench(
    token: Annotated[
        list[str] | None,
        typer.Option(metavar="softhsm|nss", help="Which tokens; may be repeated.  [default: both]"),
    ] = None,
    count: Annotated[int, typer.Option(min=100, max=100_000, help="Exchanges of each kind.")] = 1000,
    callers: Annotated[int, typer.Option(min=1, max=64, help="Callers at once.")] = 4,
    engines: Annotated[int, typer.Option(min=1, max=64, help="Engine processes.")] = 1,
    json: Json = False,
) -> None:
    """Measure exchanges per second, latencies, CPU by process and PKCS#11 calls.

    On a KMS of its own in a temporary home, over loopback.
    """
    from kms.cli.bench import bench_command

    tokens = token or ["softhsm", "nss"]
    code = bench_command(tokens=tokens, count=count, callers=callers, engines=engines, as_json=json)
    raise typer.Exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. 2 for what the user can mend, 70 for a fault of ours."""
    try:
        result = app(args=None if argv is None else list(argv), prog_name="kms", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except typer.TyperException as error:
        return _fail(_one_line(error.format_message()).rstrip(".") + _hint(error))
    except CommandError as error:
        return _fail(_one_line(str(error)), error)
    except BrokenPipeError:
        # The reader of our output has gone (`kms key list | head`); nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAULT
    except Exception as error:  # noqa: BLE001 - a traceback may quote what was handled
        from kms import logs

        place = logs.where(error)
        fault = f"a fault of the program, {place['error']} at {place['trail'].rpartition(' > ')[2]}"
        return _fail(f"{fault}; KMS_DEBUG=1 shows more", error, EXIT_FAULT)
    return result if isinstance(result, int) else 0


def _fail(text: str, error: Exception | None = None, code: int = EXIT_USAGE) -> int:
    if error is not None and os.environ.get("KMS_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    print(f"kms: {text}", file=sys.stderr)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _hint(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f"; see `{context.command_path} --help`" if context is not None else ""


if __name__ == "__main__":
    sys.exit(main())

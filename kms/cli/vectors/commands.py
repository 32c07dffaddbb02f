"""The commands of `kms vectors`. Each imports what it needs."""

from pathlib import Path
from typing import Annotated

import typer

vectors_app = typer.Typer(help="Check and write conformance vectors.", rich_markup_mode=None)


@vectors_app.command("check")
def vectors_check(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Vector files in JSON (docs/vectors.md).")
    ],
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Play every vector of the files in every role.

    Each is pass, fail with its first difference, or refused-as-expected. Exit code 1 if any failed, 2 if a file is no
    vector file. JSON: files (each file, results: kind, name, role, verdict, detail, difference) and totals.
    """
    from kms.cli.vectors.check import check_command

    raise typer.Exit(check_command(files, as_json=json))


@vectors_app.command("write")
def vectors_write(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")],
    seed: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What all keys and random values are drawn from.")
    ] = None,
) -> None:
    """Write this project's own vectors: derived tickets in derived-*.json, and forwarding-exchanges.json.

    The same seed gives the same bytes; without one they are those of tests/vectors. Their keys protect nothing.
    """
    from kms.cli.vectors.write import SEED, write_command

    raise typer.Exit(write_command(folder, seed=SEED if seed is None else seed))

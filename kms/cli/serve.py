"""`kms serve`: hand over to the supervisor."""

from pathlib import Path

from kms.cli import home as home_folder


def serve_command(home: Path) -> int:
    """Run the server until a stop signal; the exit code."""
    home = home_folder.resolve(home)
    config = home_folder.load(home)
    from kms.supervisor import serve

    return serve(home, config)

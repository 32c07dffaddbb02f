"""`kms key list`: the long-term keys in the token."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.table import Table

from kms.admin.v1.admin_pb2 import AdminRequest, ListKeysRequest, MasterKey
from kms.cli import home as home_folder
from kms.cli import output
from kms.cli.admin import open_admin


def list_command(home: Path, *, as_json: bool) -> None:
    """Print every long-term key. Raises CommandError."""
    with open_admin(home_folder.resolve(home)) as admin:
        keys = admin.ask(AdminRequest(list_keys=ListKeysRequest())).list_keys.keys
    if as_json:
        output.print_json([key_json(key) for key in keys])
    else:
        output.console().print(key_table(keys))


def key_json(key: MasterKey) -> dict[str, Any]:
    """A key for --json; times are Unix seconds, destroy_at null for a key that no epoch ends."""
    return {
        "label": key.label,
        "kind": key.kind,
        "fingerprint": key.fingerprint,
        "created_at": key.created_at,
        "destroy_at": key.destroy_at or None,
    }


def key_table(keys: Iterable[MasterKey]) -> Table:
    """The keys for people."""
    rows = [
        (key.label, key.kind, key.fingerprint, output.utc(key.created_at), output.utc(key.destroy_at))
        for key in keys
    ]
    return output.table("Keys in the token", ("label", "kind", "fingerprint", "made", "destroyed at"), rows)

"""`kms group`: names that an IDRr of a ticket may have, and who may have such tickets resolved (RFC 6043 12.5)."""

from pathlib import Path

from kms.admin.v1.admin_pb2 import AddMemberRequest, AdminRequest, ListGroupsRequest, RemoveMemberRequest
from kms.cli import home as home_folder
from kms.cli import output
from kms.cli.admin import open_admin
from kms.cli.users import check_uri


def add_command(home: Path, group: str, uri: str) -> None:
    """Make a user a member of a group. Raises CommandError."""
    check_uri(group, "GROUP")
    check_uri(uri, "URI")
    request = AddMemberRequest(group=group, identity=uri)
    with open_admin(home_folder.resolve(home)) as admin:
        reply = admin.ask(AdminRequest(add_member=request)).add_member
    note = "" if reply.enrolled else " (not enrolled here: only a peer KMS can resolve for it)"
    print(f"{uri} is a member of {group}{note}")


def remove_command(home: Path, group: str, uri: str) -> None:
    """Take a user out of a group. Raises CommandError."""
    with open_admin(home_folder.resolve(home)) as admin:
        admin.ask(AdminRequest(remove_member=RemoveMemberRequest(group=group, identity=uri)))
    print(f"{uri} is no member of {group} any more")


def list_command(home: Path, *, as_json: bool) -> None:
    """Print the groups. Raises CommandError."""
    with open_admin(home_folder.resolve(home)) as admin:
        groups = admin.ask(AdminRequest(list_groups=ListGroupsRequest())).list_groups.groups
    if as_json:
        output.print_json([{"group": group.name, "members": list(group.members)} for group in groups])
        return
    rows = [(group.name, " ".join(group.members)) for group in groups]
    output.console().print(
        output.table("Groups", ("group", "members"), rows)
        if rows
        else "No groups: make one with `kms group add`."
    )

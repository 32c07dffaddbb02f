"""The directory: enrolment, revocation, versions, aliases, groups, gateways."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from kms.engine.directory import _MIGRATIONS, Directory, DirectoryError, Role, TpkRole

STAFF = b"sip:staff@example.com"
ALICE, BOB = b"sip:alice@example.com", b"sip:bob@example.com"


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path / "directory.db")


def test_unknown_identities_are_not_found(directory: Directory) -> None:
    assert directory.find(ALICE) is None
    assert directory.find(b"\xff\xfe not UTF-8") is None


def test_enrolment_gives_version_1_and_reenrolment_the_next(directory: Directory) -> None:
    assert directory.enrol(ALICE, Role.CLIENT).version == 1
    with pytest.raises(DirectoryError, match="enrolled already"):
        directory.enrol(ALICE, Role.CLIENT)
    directory.revoke(ALICE)
    found = directory.find(ALICE)
    assert found is not None
    assert found.revoked
    again = directory.enrol(ALICE, Role.FOCUS)
    assert (again.version, again.revoked, again.role) == (2, False, Role.FOCUS)


def test_revoking_twice_or_a_stranger_is_an_error(directory: Directory) -> None:
    with pytest.raises(DirectoryError, match="not enrolled"):
        directory.revoke(ALICE)
    directory.enrol(ALICE, Role.CLIENT)
    directory.revoke(ALICE)
    with pytest.raises(DirectoryError, match="not enrolled"):
        directory.revoke(ALICE)


def test_an_identity_is_compared_byte_for_byte(directory: Directory) -> None:
    directory.enrol(ALICE, Role.CLIENT)
    for other in (
        b"sip:Alice@example.com",
        b"sip:alice@example.com.",
        b"SIP:alice@example.com",
        ALICE + b" ",
    ):
        assert directory.find(other) is None


def test_aliases_belong_to_one_user(directory: Directory) -> None:
    user = directory.enrol(ALICE, Role.CLIENT, aliases=(b"tel:+15551234",))
    assert user.may_speak_as(b"tel:+15551234")
    assert user.may_speak_as(ALICE)
    assert not user.may_speak_as(BOB)
    with pytest.raises(DirectoryError, match="is an alias of sip:alice"):
        directory.enrol(BOB, Role.CLIENT, aliases=(b"tel:+15551234",))
    assert directory.find(BOB) is None, "a refused enrolment leaves nothing behind"
    with pytest.raises(DirectoryError, match="cannot be an alias"):
        directory.enrol(BOB, Role.CLIENT, aliases=(ALICE,))
    with pytest.raises(DirectoryError, match="is an alias of"):
        directory.enrol(b"tel:+15551234", Role.CLIENT)


def test_reenrolment_replaces_aliases(directory: Directory) -> None:
    directory.enrol(ALICE, Role.CLIENT, aliases=(b"tel:+1",))
    directory.revoke(ALICE)
    assert directory.enrol(ALICE, Role.CLIENT, aliases=(b"tel:+2",)).aliases == {b"tel:+2"}


def test_groups(directory: Directory) -> None:
    directory.enrol(ALICE, Role.CLIENT)
    directory.add_member(b"sip:support@example.com", ALICE)
    found = directory.find(ALICE)
    assert found is not None
    assert found.groups == {b"sip:support@example.com"}
    assert not found.may_speak_as(b"sip:support@example.com"), "a member is not the group"


def test_groups_are_listed_and_left(directory: Directory) -> None:
    for member in (ALICE, BOB, b"sip:visitor@other.example"):
        directory.add_member(STAFF, member)
    directory.add_member(STAFF, BOB)
    directory.add_member(b"sip:a@example.com", BOB)
    assert directory.groups() == [
        (b"sip:a@example.com", frozenset({BOB})),
        (STAFF, frozenset({ALICE, BOB, b"sip:visitor@other.example"})),
    ]
    directory.remove_member(STAFF, BOB)
    assert directory.groups_of(BOB) == {b"sip:a@example.com"}
    for group in (STAFF, b"sip:nothing@example.com"):
        with pytest.raises(DirectoryError, match="is not a member of"):
            directory.remove_member(group, BOB)


def test_a_group_has_nobodys_name(directory: Directory) -> None:
    """Its members could open that user's tickets."""
    directory.enrol(ALICE, Role.CLIENT, aliases=(b"tel:+1",))
    for name in (ALICE, b"tel:+1"):
        with pytest.raises(DirectoryError, match="cannot be a group"):
            directory.add_member(name, BOB)
    directory.revoke(ALICE)
    with pytest.raises(DirectoryError, match="cannot be a group"):
        directory.add_member(ALICE, BOB)
    directory.add_member(STAFF, BOB)
    with pytest.raises(DirectoryError, match="name of a group"):
        directory.enrol(STAFF, Role.CLIENT)
    with pytest.raises(DirectoryError, match="name of a group"):
        directory.enrol(BOB, Role.CLIENT, aliases=(STAFF,))


def test_who_is_enrolled_anew_begins_anew(directory: Directory) -> None:
    first = directory.enrol(ALICE, Role.CLIENT, tpk_roles=list(TpkRole))
    directory.add_member(STAFF, ALICE)
    assert (first.tpk_roles, directory.next_version(ALICE)) == (frozenset(TpkRole), 1)
    directory.revoke(ALICE)
    assert directory.next_version(ALICE) == 2
    again = directory.enrol(ALICE, Role.CLIENT, tpk_roles=[TpkRole.INITIATOR])
    assert (again.groups, again.tpk_roles) == (frozenset(), frozenset({TpkRole.INITIATOR}))
    assert directory.next_version(b"sip:nobody@example.com") == 1


def test_a_directory_of_the_first_schema_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in _MIGRATIONS[0].split(";"):
            db.execute(statement)
        db.execute("INSERT INTO users VALUES (?, 'client', 3, 0, '[]', 1, NULL)", (ALICE.decode(),))
        db.execute("PRAGMA user_version = 1")
    found = Directory(path).find(ALICE)
    assert found is not None
    assert (found.version, found.tpk_roles) == (3, frozenset())
    Directory(path).enrol(BOB, Role.CLIENT, tpk_roles=[TpkRole.RESPONDER])
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(DirectoryError, match="newer than this program"):
        Directory(path)


def test_only_a_gateway_carries_and_only_what_it_may(directory: Directory) -> None:
    gateway = directory.enrol(b"kms:gw1", Role.GATEWAY, acts_for=("sip:*@example.com",))
    assert gateway.may_carry(ALICE)
    assert not gateway.may_carry(b"sip:alice@example.com.evil.org")
    assert not gateway.may_carry(b"sip:alice@other.org")
    client = directory.enrol(ALICE, Role.CLIENT, acts_for=("sip:*",))
    assert not client.may_carry(BOB)


def test_another_process_sees_changes_and_the_file_is_private(tmp_path: Path) -> None:
    writer, reader = Directory(tmp_path / "d.db"), Directory(tmp_path / "d.db")
    assert reader.find(ALICE) is None
    writer.enrol(ALICE, Role.CLIENT)
    assert reader.find(ALICE) is not None
    writer.revoke(ALICE)
    found = reader.find(ALICE)
    assert found is not None
    assert found.revoked
    assert (tmp_path / "d.db").stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    path.write_text("not a database, but long enough to be read as the header of one" * 20)
    with pytest.raises(DirectoryError, match="cannot be opened"):
        Directory(path)

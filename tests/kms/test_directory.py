"""The directory: enrolment, revocation, versions, aliases, groups, gateways."""

from pathlib import Path

import pytest

from kms.engine.directory import Directory, DirectoryError, Role

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

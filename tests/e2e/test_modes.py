"""Modes 2 to 4 over the real server: shared TPKs by `kms user add`, the SDKs, and a KMS that is out of reach."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from kms.client import Acceptance, Credential, Participant, Refused
from kms.focus import Focus
from kms.mikey.payloads import Flags, KeyData
from kms.mikey.registry import KeyType
from kms.mikey.ticket_data import BASE_TICKET
from tests.e2e.home import Server, kms
from tests.e2e.test_calls import both_tokens

ANY = Acceptance(required_flags=Flags(0))
MODE_2_FLAGS = Flags.D | Flags.F | Flags.G | Flags.H | Flags.N | Flags.O
STAFF = "sip:modes-staff@example.com"
_numbers = itertools.count()


def names(*who: str) -> list[str]:
    """Identities that no other test has."""
    number = next(_numbers)
    return [f"sip:modes-{name}-{number}@example.com" for name in who]


def enrolled(server: Server, identity: str, *options: str, role: str = "client") -> Credential:
    return Credential.load(server.enrol(identity, role, *options))


def alone(credential: Credential) -> Participant:
    """A participant whose KMS is out of reach: whatever it does, it does without."""
    return Participant(replace(credential, target="127.0.0.1:1"), acceptance=ANY)


def call(caller: Participant, callee: Participant, ticket: object) -> None:
    """A call from end to end."""
    offer = caller.offer(ticket, callee.identity)  # type: ignore[arg-type]
    received = callee.receive(offer.message)
    assert received.caller == caller.identity
    answer = received.answer()
    assert offer.complete(answer.message or b"").srtp == answer.session.srtp


@both_tokens
@pytest.mark.parametrize("suite", ["256", "128"])
def test_mode_2_without_resolve(server: Server, suite: str) -> None:
    alice, bob = names("alice", "bob")
    with (
        Participant(enrolled(server, alice, "--suite", suite)) as caller,
        alone(enrolled(server, bob, "--suite", suite, "--share-tpk", "responder")) as callee,
    ):
        call(caller, callee, caller.request_ticket([bob], flags=MODE_2_FLAGS, kind=BASE_TICKET))


@both_tokens
@pytest.mark.parametrize("suite", ["256", "128"])
def test_mode_3_without_request(server: Server, suite: str) -> None:
    alice, bob = names("alice", "bob")
    with (
        alone(enrolled(server, alice, "--suite", suite, "--share-tpk", "initiator")) as caller,
        Participant(enrolled(server, bob, "--suite", suite)) as callee,
    ):
        call(caller, callee, caller.make_ticket([bob]))
        assert kms("user", "revoke", alice, "--home", server.home).returncode == 0
        with pytest.raises(Refused, match="revoked or enrolled anew") as refused:
            call(caller, callee, caller.make_ticket([bob]))
        assert refused.value.reason == "TICKET_NOT_AUTHENTIC"


@both_tokens
def test_mode_4_without_kms(server: Server) -> None:
    alice, bob = names("alice", "bob")
    with (
        alone(enrolled(server, alice, "--share-tpk-with", bob)) as caller,
        alone(enrolled(server, bob, "--share-tpk-with", alice)) as callee,
    ):
        call(caller, callee, caller.make_ticket([bob], mode=4))
        call(callee, caller, callee.make_ticket([alice], mode=4))


def test_a_focus_has_tpks_of_both_suites_and_makes_group_key_tickets(server: Server) -> None:
    (room,) = names("room")
    credential = enrolled(server, room, "--share-tpk", "initiator", "--share-tpk", "responder", role="focus")
    assert sorted((t.role, t.suite) for t in credential.tpks) == [
        ("initiator", 128),
        ("initiator", 256),
        ("responder", 128),
        ("responder", 256),
    ]
    with Focus(credential) as focus:
        ticket = focus.make_ticket([STAFF], keys=[KeyData(KeyType.TEK_SALT, bytes(16), bytes(14))])
        assert len(ticket.session_keys[0].key) == 16


def test_tpks_are_in_the_enrolment_file_and_nowhere_else(server: Server, tmp_path: Path) -> None:
    nina, paul = names("nina", "paul")
    out = tmp_path / "nina.json"
    options = ("--share-tpk", "responder", "--share-tpk-with", paul)
    command: list[str] = ["user", "add", nina, "--role", "client", *options, "--target", server.grpc]
    added = kms(*command, "--home", server.home, "--out", out)
    assert added.returncode == 0, added.stderr
    assert out.stat().st_mode & 0o077 == 0
    tpks = json.loads(out.read_text())["tpks"]
    assert [(t["role"], t.get("peer"), t["suite"]) for t in tpks] == [
        ("responder", None, 256),
        ("initiator", paul, 256),
        ("responder", paul, 256),
    ]
    assert len({t["tpk"] for t in tpks}) == 3
    said = added.stdout + added.stderr + server.log.read_text()
    assert not any(t["tpk"] in said or len(bytes.fromhex(t["tpk"])) != 32 for t in tpks)
    listed = json.loads(kms("user", "list", "--json", "--home", server.home).stdout)
    assert [user["share_tpk"] for user in listed if user["identity"] == nina] == [["responder"]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--role", "gateway", "--acts-for", "sip:*", "--share-tpk", "responder"), "clients and foci only"),
        (("--role", "client", "--share-tpk", "kms"), "--share-tpk"),
        (("--role", "client", "--share-tpk-with", "bob"), "--share-tpk-with 'bob'"),
        (("--role", "client", "--share-tpk-with", "sip:self@example.com"), "with itself"),
    ],
)
def test_mistakes_enrol_nobody(server: Server, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    out = tmp_path / "self.json"
    command = ("user", "add", "sip:self@example.com", *options, "--target", server.grpc)
    added = kms(*command, "--home", server.home, "--out", out)
    assert added.returncode == 2
    assert said in added.stderr
    assert not out.exists()
    assert "sip:self@example.com" not in kms("user", "list", "--json", "--home", server.home).stdout


def test_a_group(server: Server) -> None:
    """Whoever is in it may resolve its tickets, until it is taken out."""
    alice, bob = names("alice", "bob")
    credentials = [enrolled(server, name) for name in (alice, bob)]
    member = replace(Acceptance(), groups=frozenset({STAFF.encode()}))
    with Participant(credentials[0]) as caller, Participant(credentials[1], acceptance=member) as callee:

        def offer() -> str:
            made = caller.offer(caller.request_ticket([STAFF]), STAFF, group=True)
            session = made.complete(callee.answer(made.message).message or b"")
            return session.peer

        with pytest.raises(Refused, match="does not name this responder"):
            offer()
        added = kms("group", "add", STAFF, bob, "--home", server.home)
        assert (added.returncode, added.stdout) == (0, f"{bob} is a member of {STAFF}\n"), added.stderr
        assert offer() == bob
        listed = json.loads(kms("group", "list", "--json", "--home", server.home).stdout)
        assert {"group": STAFF, "members": [bob]} in listed
        assert STAFF in kms("group", "list", "--home", server.home).stdout
        assert kms("group", "remove", STAFF, bob, "--home", server.home).returncode == 0
        with pytest.raises(Refused, match="does not name this responder"):
            offer()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "staff", "sip:x@example.com"), "GROUP 'staff'"),
        (("add", STAFF, "x"), "URI 'x'"),
        (("remove", STAFF, "sip:x@example.com"), "not a member"),
    ],
)
def test_group_mistakes(server: Server, arguments: tuple[str, ...], said: str) -> None:
    result = kms("group", *arguments, "--home", server.home)
    assert result.returncode == 2
    assert said in result.stderr


def test_a_stranger_in_a_group_is_said_to_be_one(server: Server) -> None:
    added = kms("group", "add", "sip:guests@example.com", "sip:guest@other.example", "--home", server.home)
    assert "not enrolled here" in added.stdout

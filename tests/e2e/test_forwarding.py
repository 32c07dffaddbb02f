"""Two KMSs (RFC 6043 10): alice's KMS a makes tickets, bob's KMS b has them resolved by it. Both run `kms serve`."""

import contextlib
import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from kms.client import Participant, Refused
from kms.client.v1.client_pb2 import ResolveTicketRequest
from kms.client.v1.client_pb2_grpc import ClientServiceStub
from kms.crypto.software import SoftwareKey
from kms.focus import Focus
from kms.focus.v1.focus_pb2_grpc import FocusServiceStub
from kms.frontend.peers import ANSWER_SECONDS
from kms.link.hardening import DUMPABLE_VARIABLE
from kms.mikey.message import Message
from kms.mikey.payloads import Idr, KeyData
from kms.mikey.registry import ErrorNo, IdRole, KeyType
from kms.mikey.ticket_data import BASE_TICKET
from kms.party.credential import Credential
from kms.party.initiator import OutgoingTransfer
from kms.party.party import Party
from kms.party.requesting import GrantedTicket
from kms.party.responder import IncomingTransfer
from kms.sdk.errors import Unavailable
from tests.e2e.home import Server, init, kms, serving
from tests.e2e.test_isolation import _children, _memory_holds
from tests.e2e.test_refusals import SRTP, Caller, refusal

KMS_A, KMS_B, KMS_C, KMS_HUNG = (f"sip:kms@{domain}.example" for domain in ("a", "b", "c", "hung"))
ALICE, BOB, MALLORY, FOCUS = (
    "sip:alice@a.example",
    "sip:bob@b.example",
    "sip:mallory@b.example",
    "sip:focus@b.example",
)
LOCAL = "sip:local@b.example"
"""Has an address of domain b, but is enrolled with KMS a."""


class World:
    """KMSs a and b, which run; c, which does not; and one that takes connections and says nothing."""

    def __init__(self, a: Server, b: Server, home_c: Path, target_c: str) -> None:
        self.a, self.b, self.home_c, self.target_c = a, b, home_c, target_c

    def file(self, identity: str, *options: str) -> Path:
        """Enrolment file of somebody at the KMS of its domain."""
        server = self.a if identity.endswith("@a.example") or identity == LOCAL else self.b
        role = "focus" if identity == FOCUS else "client"
        return server.enrol(identity, role, *options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("kmss")
    homes = {name: folder / name for name in "abc"}
    for name, home in homes.items():
        init(home, "softhsm", "--identity", f"sip:kms@{name}.example")
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv(DUMPABLE_VARIABLE, "1")
        hung = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        target_c = f"127.0.0.1:{_free_port()}"
        _replace(homes["c"] / "kms.toml", '"127.0.0.1:0"', f'"{target_c}"')
        # Only the resolver is told of the other: but a has c as a peer too, which it must not use for b.
        _peer(homes["c"], homes["a"], "a", target_c)
        a = stack.enter_context(serving(homes["a"]))
        _peer(homes["a"], homes["b"], "b", a.grpc)
        _peer(homes["c"], homes["b"], "b", target_c)
        _hung_peer(homes["b"], f"127.0.0.1:{hung.getsockname()[1]}")
        b = stack.enter_context(serving(homes["b"]))
        yield World(a, b, homes["c"], target_c)


def _peer(issuer: Path, resolver: Path, domain: str, target: str) -> Path:
    """Enrol the KMS of a domain with the one that issues tickets, and enter that into the first one's home."""
    file = issuer.parent / f"{domain}-at-{issuer.name}.json"
    added = kms(
        *(
            "user",
            "add",
            f"sip:kms@{domain}.example",
            "--role",
            "peer",
            "--acts-for",
            f"sip:*@{domain}.example",
        ),
        *("--target", target, "--home", issuer, "--out", file),
    )
    assert added.returncode == 0, added.stderr
    entered = kms("peer", "add", file, "--home", resolver)
    assert entered.returncode == 0, entered.stderr
    return file


def _hung_peer(home: Path, target: str) -> None:
    """One more peer, made from the files of a."""
    text = (home / "kms.toml").read_text()
    table = text[text.index(f'[peers."{KMS_A}"]') : text.index(f'[peers."{KMS_C}"]')]
    table = re.sub(r'target = ".*"', f'target = "{target}"', table.replace(KMS_A, KMS_HUNG, 1))
    (home / "kms.toml").write_text(f"{text}\n{table}")


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("suite", [256, 128])
@pytest.mark.parametrize("kind", ["derived", "base"])
def test_a_call_between_the_subscribers_of_two_kmss(world: World, kind: str, suite: int) -> None:
    caller_name, callee_name = f"sip:caller-{suite}@a.example", f"sip:callee-{suite}@b.example"
    files = [world.file(name, "--suite", str(suite)) for name in (caller_name, callee_name)]
    keys = [KeyData(KeyType.TGK_SALT, bytes(suite // 8), bytes(14)), KeyData(KeyType.TGK, bytes(16))]
    options = {"kind": BASE_TICKET} if kind == "base" else {}
    with Participant.load(files[0]) as caller, Participant.load(files[1]) as callee:
        ticket = caller.request_ticket([callee_name], keys=keys, **options)  # type: ignore[arg-type]
        offer = caller.offer(ticket, callee_name)
        call = callee.receive(offer.message)
        assert call.caller == caller_name
        answer = call.answer()
        assert answer.message is not None
        session = offer.complete(answer.message)
    assert session.peer == callee_name
    assert session.peer_authenticated
    assert [k.libsrtp_key for k in session.srtp] == [k.libsrtp_key for k in answer.session.srtp]
    assert [k.key for k in session.keys] != [k.key for k in ticket.session_keys], "TGKs must be forked"


def test_a_focus_receives_callers_of_both_kmss_in_one_batch(world: World) -> None:
    with Focus.load(world.file(FOCUS)) as focus:
        offers = []
        for name in (ALICE, BOB, "sip:anna@a.example"):
            with Participant.load(world.file(name)) as caller:
                offers.append(caller.offer(caller.request_ticket([FOCUS]), FOCUS))
        for offer, call in zip(offers, focus.receive_batch([offer.message for offer in offers]), strict=True):
            assert not isinstance(call, Exception), call
            answer = call.answer(focus.group_keys(["audio"]))
            assert answer.message is not None
            assert offer.complete(answer.message).peer == FOCUS


# -- what the KMS of the ticket refuses ------------------------------------------------------------------------------


@contextlib.contextmanager
def _connected(file: Path) -> Iterator[Caller]:
    """A subscriber, or a peer, with a raw connection to the KMS that made its enrolment file."""
    credential = Credential.load(file)
    tls = grpc.ssl_channel_credentials(
        credential.ca_cert.encode(), credential.tls_key.encode(), credential.tls_cert.encode()
    )
    with grpc.secure_channel(credential.target, tls) as channel:
        stubs = ClientServiceStub(channel), FocusServiceStub(channel)
        yield Caller(credential, Party.of(credential), *stubs)


def _resolve_init(party: Party, sender: Party, granted: GrantedTicket, to: str) -> bytes:
    """A RESOLVE_INIT for a TRANSFER_INIT to `to`, whoever `party` is: its own SDK would not ask."""
    transfer = OutgoingTransfer(sender, granted, to.encode(), *SRTP)
    incoming = IncomingTransfer(replace(party, identity=to.encode()), transfer.message.raw)
    incoming._party = party
    return incoming.resolve_init().raw


def _made_by(granted: GrantedTicket, issuer: str) -> GrantedTicket:
    """The ticket with another IDRkms: whoever made it would notice, whoever routes by it does not."""
    policy = granted.ticket.policy
    data = tuple(
        replace(p, data=issuer.encode()) if isinstance(p, Idr) and p.role == IdRole.KMS else p
        for p in policy.tp_data
    )
    return replace(granted, ticket=replace(granted.ticket, policy=replace(policy, tp_data=data)))


def _text(caught: pytest.ExceptionInfo[Refused]) -> tuple[str, str]:
    return caught.value.reason, caught.value.message.rpartition(" ")[2]


def test_the_peer_refuses_a_responder_that_the_ticket_does_not_name(world: World) -> None:
    with _connected(world.file(ALICE)) as alice, _connected(world.file(MALLORY)) as mallory:
        granted = alice.ticket_for(BOB)
        transfer = OutgoingTransfer(alice.party, granted, BOB.encode(), *SRTP)
        incoming = IncomingTransfer(replace(mallory.party, identity=BOB.encode()), transfer.message.raw)
        incoming._party, incoming.identity = mallory.party, MALLORY.encode()
        code, reason, mikey = refusal(lambda: mallory.resolve(incoming.resolve_init().raw))
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "PEER_REFUSED")
        assert mikey is not None
        assert mikey.error_numbers == (ErrorNo.INVALID_ID,), "the Error no of the peer is passed on"
        assert mikey.v.auth_alg == mallory.party.keys[0].suite.mac_alg, (
            "in an Error message of mallory's own KMS"
        )
        # Bob is not hers to be at her own KMS either.
        code, reason, _ = refusal(
            lambda: mallory.resolve(
                _resolve_init(replace(mallory.party, identity=BOB.encode()), alice.party, granted, BOB)
            )
        )
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_AUTHORIZED")


def test_the_peer_checks_who_sent_the_ticket(world: World) -> None:
    with _connected(world.file(ALICE)) as alice, Participant.load(world.file(BOB)) as bob:
        granted = alice.ticket_for(BOB)
        # A legitimate recipient has MPKi, and could make Initiator Data with it.
        grafted = OutgoingTransfer(alice.party, replace(granted, mpkr=granted.mpki), BOB.encode(), *SRTP)
        with pytest.raises(Refused) as caught:
            bob.receive(grafted.message.raw)
        assert _text(caught) == ("PEER_REFUSED", "INITIATOR_NOT_AUTHENTIC")
        # A byte of the ticket's MAC.
        data = granted.ticket.ticket_data
        data = data[:-1] + bytes((data[-1] ^ 1,))
        forged = replace(granted, ticket=replace(granted.ticket, ticket_data=data))
        with pytest.raises(Refused) as caught:
            bob.receive(OutgoingTransfer(alice.party, forged, BOB.encode(), *SRTP).message.raw)
        assert _text(caught) == ("PEER_REFUSED", "TICKET_NOT_AUTHENTIC")
        good = OutgoingTransfer(alice.party, granted, BOB.encode(), *SRTP)
        assert bob.receive(good.message.raw).caller == ALICE, "nothing of it did harm"


def test_a_peer_resolves_for_its_own_domains_only(world: World) -> None:
    """Straight to a, as a KMS b that has been taken over would."""
    world.file(LOCAL)
    with _connected(world.a.home.parent / "b-at-a.json") as peer, _connected(world.file(ALICE)) as alice:
        assert peer.resolve(_ask(peer, alice, BOB)), "so what is refused below is refused for the responder"
        for responder in ("sip:carol@c.example", ALICE, LOCAL, KMS_B.replace("kms@", "kms2@") + "x"):
            code, reason, mikey = refusal(lambda who=responder: peer.resolve(_ask(peer, alice, who)))  # type: ignore[misc]
            assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_AUTHORIZED")
            assert mikey is not None
            assert mikey.error_numbers == (ErrorNo.INVALID_ID,)
        code, reason, _ = refusal(lambda: peer.ticket_for(BOB))
        assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "NOT_AUTHORIZED")


def _ask(peer: Caller, sender: Caller, responder: str) -> bytes:
    """What KMS b would send for a responder that calls itself so."""
    party = replace(peer.party, identity=responder.encode())
    return _resolve_init(party, sender.party, sender.ticket_for(responder), responder)


def test_only_the_connection_of_the_peer_carries_its_messages(world: World) -> None:
    with _connected(world.a.home.parent / "b-at-a.json") as peer, _connected(world.file(ALICE)) as alice:
        message = _ask(peer, alice, BOB)
        code, reason, _ = refusal(lambda: alice.resolve(message))
    assert (code, reason) == (grpc.StatusCode.PERMISSION_DENIED, "TLS_IDENTITY_MISMATCH")


# -- routing ----------------------------------------------------------------------------------------------------------


def test_a_ticket_of_an_unknown_kms_is_refused(world: World) -> None:
    with _connected(world.file(ALICE)) as alice, _connected(world.file(BOB)) as bob:
        granted = _made_by(alice.ticket_for(BOB), "sip:kms@nowhere.example")
        code, reason, mikey = refusal(
            lambda: bob.resolve(_resolve_init(bob.party, alice.party, granted, BOB))
        )
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_KMS")
    assert mikey is not None
    assert mikey.error_numbers == (ErrorNo.INVALID_ID,)


def test_what_a_peer_sent_is_not_forwarded_again(world: World) -> None:
    """KMS a has c as a peer, and b asks it for a ticket of c: a would be one more step, and c could lead back to b."""
    with _connected(world.a.home.parent / "b-at-a.json") as peer, _connected(world.file(ALICE)) as alice:
        granted = _made_by(alice.ticket_for(BOB), KMS_C)
        party = replace(peer.party, identity=BOB.encode())
        code, reason, _ = refusal(lambda: peer.resolve(_resolve_init(party, alice.party, granted, BOB)))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WRONG_KMS")
        # A subscriber of a may: c is asked, and is not there.
        granted = _made_by(alice.ticket_for("sip:anna@a.example"), KMS_C)
        with _connected(world.file("sip:anna@a.example")) as anna:
            message = _resolve_init(anna.party, alice.party, granted, "sip:anna@a.example")
            code, reason, _ = refusal(lambda: anna.resolve(message))
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE")


def _forwards(server: Server, peer: str, outcome: str) -> float:
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=20) as page:
        text = page.read().decode()
    found = re.search(
        rf'kms_frontend_forwards_total{{outcome="{outcome}",peer="{re.escape(peer)}"}} (\S+)', text
    )
    return float(found[1]) if found else 0.0


def test_a_peer_that_is_down_and_comes_back(world: World) -> None:
    dave = "sip:dave@c.example"
    with _connected(world.file(ALICE)) as alice, _connected(world.file(BOB)) as bob:
        granted = _made_by(alice.ticket_for(BOB), KMS_C)
        message = _resolve_init(bob.party, alice.party, granted, BOB)
        before = _forwards(world.b, KMS_C, "unavailable")
        for _ in range(2):  # not a replay: the message was not answered
            code, reason, mikey = refusal(lambda: bob.resolve(message))
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE")
            assert mikey is None, "a fault on our side, which is no ground to give the call up"
        assert _forwards(world.b, KMS_C, "unavailable") == before + 2
    with (
        serving(world.home_c) as c,
        Participant.load(c.enrol(dave)) as caller,
        Participant.load(world.file(BOB)) as bob_,
    ):
        offer = caller.offer(caller.request_ticket([BOB]), BOB)
        deadline = time.monotonic() + 30
        while True:
            try:
                assert bob_.receive(offer.message).caller == dave
                break
            except Unavailable:
                assert time.monotonic() < deadline
        assert _forwards(world.b, KMS_C, "answered") >= 1


def test_a_peer_that_hangs_keeps_no_one_else_waiting(world: World) -> None:
    with (
        _connected(world.file(ALICE)) as alice,
        _connected(world.file(BOB)) as bob,
        _connected(world.file(MALLORY)) as other,
    ):
        granted = _made_by(alice.ticket_for(BOB), KMS_HUNG)
        hanging = []
        for _ in range(40):  # more than may wait at a time; each is a message of its own
            message = _resolve_init(bob.party, alice.party, granted, BOB)
            hanging.append(
                bob.client.ResolveTicket.future(ResolveTicketRequest(mikey_message=message), timeout=20)
            )
        assert other.ticket_for(BOB), "the one engine of b is free"
        assert other.resolve(_resolve_init(other.party, alice.party, alice.ticket_for(MALLORY), MALLORY))
        for call in hanging:
            code, reason, _ = refusal(call.result)
            assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "PEER_UNAVAILABLE")


def test_the_caller_s_deadline_ends_the_waiting_for_a_peer(world: World) -> None:
    with _connected(world.file(ALICE)) as alice, _connected(world.file(BOB)) as bob:
        message = _resolve_init(bob.party, alice.party, _made_by(alice.ticket_for(BOB), KMS_HUNG), BOB)
        before = _forwards(world.b, KMS_HUNG, "unavailable")
        with pytest.raises(grpc.RpcError):
            bob.client.ResolveTicket(ResolveTicketRequest(mikey_message=message), timeout=ANSWER_SECONDS / 8)
        deadline = time.monotonic() + 20
        while _forwards(world.b, KMS_HUNG, "unavailable") == before:
            assert time.monotonic() < deadline


# -- what each process may hold ------------------------------------------------------------------------------------


def test_no_frontend_holds_the_psk_of_a_peer_or_a_key_that_was_forwarded(world: World) -> None:
    with Participant.load(world.file(ALICE)) as alice, Participant.load(world.file(BOB)) as bob:
        ticket = alice.request_ticket([BOB])
        offer = alice.offer(ticket, BOB)
        answer = bob.receive(offer.message).answer()
        assert answer.message is not None
        session = offer.complete(answer.message)
    assert isinstance(ticket.mpki, SoftwareKey)
    psks = json.loads((world.b.home / "peers/sip-kms@a.example/psk.json").read_text())["psks"]
    secrets = [
        *(bytes.fromhex(psk["psk"]) for psk in psks),
        *(psk["psk"].encode() for psk in psks),
        bytes(ticket.mpki.value),
        *(key.key for key in session.keys),
    ]
    control = (world.b.home / "peers/sip-kms@a.example/cert.pem").read_bytes()[100:160]
    for pid in _children(world.b.pid)["frontend"]:
        assert _memory_holds(pid, [*secrets, control]) == [control]


# -- entering a peer -------------------------------------------------------------------------------------------------


def test_peer_add_says_what_is_wrong(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home"
    init(home, "softhsm", "--identity", KMS_B)
    before = (home / "kms.toml").read_text()
    file = world.a.home.parent / "b-at-a.json"
    assert _complaint(home, world.file(ALICE)).endswith("enrols a client: it must be made with --role peer")
    assert "is for sip:kms@a.example, but this KMS is sip:kms@b.example" in _complaint(
        home, world.a.home.parent / "a-at-c.json"
    )
    assert (home / "kms.toml").read_text() == before
    assert kms("peer", "add", file, "--home", home).returncode == 0
    assert {path.stat().st_mode & 0o777 for path in (home / "peers/sip-kms@a.example").iterdir()} == {0o600}
    assert "is a peer already" in _complaint(home, file)
    psk = home / "peers/sip-kms@a.example/psk.json"
    psk.chmod(0o644)
    assert (
        f"{psk} holds a PSK but has the mode 0644; run: chmod 600 {psk}"
        in kms("serve", "--home", home).stderr
    )
    assert kms("user", "add", KMS_C, "--role", "peer", "--home", home).stderr.startswith(
        "kms: a peer needs --acts-for"
    )


def _complaint(home: Path, file: Path) -> str:
    refused = kms("peer", "add", file, "--home", home)
    assert refused.returncode == 2
    return refused.stderr.strip()


def test_messages_of_the_exchange_between_kmss_are_not_those_of_the_responder(world: World) -> None:
    """IDRr and TICKET are reused (section 10); what protects them is another key, and another RAND."""
    with _connected(world.a.home.parent / "b-at-a.json") as peer, _connected(world.file(ALICE)) as alice:
        answer = Message.decode(peer.resolve(_ask(peer, alice, BOB)))
    assert answer.idr(IdRole.RESPONDER) == BOB.encode(), "the initiator is told who answered, not who asked"
    assert answer.idr(IdRole.KMS) == KMS_A.encode()

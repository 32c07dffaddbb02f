"""The process split: the frontend has no PKCS #11 library in its memory, and no key that its clients got."""

from pathlib import Path

import pytest

from kms.client import Participant
from kms.crypto.software import SoftwareKey
from kms.link.hardening import DUMPABLE_VARIABLE
from kms.party.credential import Credential
from tests.e2e.home import Server, init, serving

ALICE, BOB = "sip:iso-alice@example.com", "sip:iso-bob@example.com"


def _children(pid: int) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {"engine": [], "frontend": []}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        role = "engine" if b"kms.engine.process" in words else "frontend"
        found[role].append(int(child))
    return found


def _libraries(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def _memory_holds(pid: int, needles: list[bytes]) -> list[bytes]:
    """Which needles lie somewhere in the readable memory of a process."""
    found = set()
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in _libraries(pid).splitlines():
            span, permissions, *rest = line.split()
            if not permissions.startswith("r") or rest[-1:] in (
                ["[vvar]"],
                ["[vsyscall]"],
                ["[vvar_vclock]"],
            ):
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            try:
                memory.seek(start)
                content = memory.read(end - start)
            except (OSError, ValueError):
                continue
            found |= {needle for needle in needles if needle in content}
    return sorted(found)


def test_only_engines_have_a_pkcs11_library(server: Server) -> None:
    children = _children(server.pid)
    assert children["engine"]
    assert children["frontend"]
    for pid in children["engine"]:
        assert "libsofthsm2" in _libraries(pid)
    for pid in [server.pid, *children["frontend"]]:
        assert not any(name in _libraries(pid) for name in ("softhsm", "softokn", "pkcs11", "p11-kit"))


def test_no_frontend_holds_a_key_that_its_clients_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DUMPABLE_VARIABLE, "1")  # else only root may read a frontend's memory
    home = tmp_path / "home"
    init(home)
    with serving(home) as server:
        files = [server.enrol(ALICE), server.enrol(BOB)]
        with Participant.load(files[0]) as alice, Participant.load(files[1]) as bob:
            ticket = alice.request_ticket([BOB])
            offer = alice.offer(ticket, BOB)
            answer = bob.receive(offer.message).answer()
            assert answer.message is not None
            session = offer.complete(answer.message)
        assert isinstance(ticket.mpki, SoftwareKey)
        assert isinstance(ticket.mpkr, SoftwareKey)
        keys = [
            bytes(ticket.mpki.value),
            bytes(ticket.mpkr.value),
            *(key.key for key in ticket.session_keys),
            *(key.key for key in session.keys),
            *(psk.psk for file in files for psk in Credential.load(file).psks),
            (home / "token" / "pin").read_bytes().strip(),
        ]
        # The server's certificate must be there: it shows that the search finds what is in the memory.
        control = (home / "tls" / "server.pem").read_bytes()[100:160]
        for pid in _children(server.pid)["frontend"]:
            assert _memory_holds(pid, [*keys, control]) == [control]

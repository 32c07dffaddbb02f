"""Users that sign, over the real server: the KMS's RSA key in SoftHSM or NSS, enrolment by `kms user add`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from kms.cli import tls
from kms.client import ClientEndpoint, Credential, Participant, Refused
from kms.crypto.public_key import EnvelopeCertificate, SignatureKey
from kms.focus import Focus
from kms.mikey import policy as rules
from kms.mikey.message import Message
from kms.mikey.payloads import TicketPolicy
from kms.mikey.registry import HashFunc
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.party import Party, SigningKey
from kms.party.requesting import TicketRequest
from tests.e2e.home import IDENTITY, Server, kms

FOCUS, CALLEE = "sip:pk-focus@example.com", "sip:pk-callee@example.com"
both_tokens = pytest.mark.parametrize("server", ["softhsm", "nss"], indirect=True)


@both_tokens
@pytest.mark.parametrize("suite", [256, 128])
def test_a_signer_calls_a_focus_and_a_participant_with_psks(server: Server, suite: int) -> None:
    signer = server.enrol(f"sip:pk-{suite}@example.com", "client", "--pk", "--suite", str(suite))
    callee = f"sip:pk-callee-{suite}@example.com"
    callee_file = server.enrol(callee, "client", "--suite", str(suite))
    with Participant.load(signer) as alice, Focus.load(server.enrol(FOCUS, "focus")) as focus:
        offer = alice.offer(alice.request_ticket([FOCUS]), FOCUS)
        answer = focus.receive(offer.message).answer(focus.group_keys(["audio"]))
        assert answer.message is not None
        session = offer.complete(answer.message)
        assert session.peer_authenticated
        assert session.srtp[0].libsrtp_key == answer.session.srtp[0].libsrtp_key
        with Participant.load(callee_file) as bob:
            _call(alice, bob, callee)
            _call(bob, alice, alice.identity)


def _call(caller: Participant, callee: Participant, name: str) -> None:
    offer = caller.offer(caller.request_ticket([name]), name)
    incoming = callee.receive(offer.message)
    assert incoming.caller == caller.identity
    answer = incoming.answer()
    assert answer.message is not None
    session = offer.complete(answer.message)
    assert session.peer == name
    assert session.srtp[0].libsrtp_key == answer.session.srtp[0].libsrtp_key


def test_a_focus_that_signs(server: Server) -> None:
    """It has group keys, and resolves the tickets of clients with PSKs of both suites."""
    identity = "sip:pk-signing-focus@example.com"
    file = server.enrol(identity, "focus", "--pk")
    with Focus.load(file) as focus:
        group = focus.group_keys(["audio"])
        for suite in (256, 128):
            client = server.enrol(f"sip:pk-of-{suite}@example.com", "client", "--suite", str(suite))
            with Participant.load(client) as alice:
                offer = alice.offer(alice.request_ticket([identity]), identity)
                answer = focus.receive(offer.message).answer(group)
                assert answer.message is not None
                assert offer.complete(answer.message).peer == identity


def _certificate(server: Server, identity: str, folder: Path) -> tuple[Path, Path]:
    """Files of a certificate by the home's CA, and of its key, which stays with the user."""
    ca = tls.load_ca(server.home / "tls/ca.pem", server.home / "tls/ca.key")
    issued = tls.issue_signer(ca, identity)
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(issued.certificate_pem())
    key.write_bytes(issued.key_pem())
    key.chmod(0o600)
    return cert, key


def test_enrolment_by_a_users_own_certificate_and_revocation(server: Server, tmp_path: Path) -> None:
    identity = "sip:pk-own@example.com"
    (tmp_path / "old").mkdir()
    cert, key = _certificate(server, identity, tmp_path / "old")
    old_file = server.enrol(identity, "client", "--cert", str(cert))
    data = json.loads(old_file.read_text())
    assert "psk" not in data
    assert "key" not in data
    assert data["cert"] == cert.read_text()
    old = Credential.load(old_file, key=key)
    with Participant(old) as alice:
        alice.request_ticket([CALLEE])
        listed = json.loads(kms("user", "list", "--home", server.home, "--json").stdout)
        (user,) = (user for user in listed if user["identity"] == identity)
        assert len(user["certificate_sha256"]) == 64
        assert kms("user", "revoke", identity, "--home", server.home).returncode == 0
        with pytest.raises(Refused) as refused:
            alice.request_ticket([CALLEE])
        assert refused.value.reason == "AUTHENTICATION_FAILED"

        cert, key = _certificate(server, identity, tmp_path)
        options = ("--role", "client", "--cert", cert, "--target", server.grpc, "--home", server.home)
        added = kms("user", "add", identity, *options, "--out", tmp_path / "new.json")
        assert added.returncode == 0, added.stderr
        with pytest.raises(Refused) as refused:
            alice.request_ticket([CALLEE])
        assert refused.value.reason == "AUTHENTICATION_FAILED"
    with Participant(Credential.load(tmp_path / "new.json", key=key)) as alice:
        alice.request_ticket([CALLEE])


def test_enrolments_that_are_refused(server: Server, tmp_path: Path) -> None:
    identity = "sip:pk-refused@example.com"
    cert, key = _certificate(server, "sip:somebody@example.com", tmp_path)
    foreign = tmp_path / "foreign.pem"
    other = tls.issue_signer(tls.make_ca("another CA"), identity)
    foreign.write_bytes(other.certificate_pem())
    add = (
        "user",
        "add",
        identity,
        "--home",
        server.home,
        "--target",
        server.grpc,
        "--out",
        tmp_path / "x.json",
    )
    for options, text in (
        (("--role", "client", "--cert", cert), "names sip:somebody@example.com in subjectAltName"),
        (("--role", "client", "--cert", foreign), "is not trusted"),
        (("--role", "client", "--cert", key), "is not a certificate in PEM"),
        (("--role", "client", "--cert", tmp_path / "none.pem"), "No such file"),
        (("--role", "client", "--cert", cert, "--pk"), "give one of them"),
        (("--role", "gateway", "--acts-for", "sip:*", "--pk"), "for clients and foci"),
    ):
        refused = kms(*add, *options)
        assert refused.returncode == 2, refused.stderr
        assert text in " ".join(refused.stderr.split())
        assert not (tmp_path / "x.json").exists()


@both_tokens
def test_the_rsa_key_is_shown_and_certified(server: Server) -> None:
    keys = json.loads(kms("key", "list", "--home", server.home, "--json").stdout)
    assert [key["kind"] for key in keys if key["label"] == "kms RSA 1"] == ["RSA 3072"]
    doctor = kms("doctor", "--home", server.home, "--json")
    findings = [finding["text"] for finding in json.loads(doctor.stdout)["findings"]]
    assert any("kms RSA 1" in text for text in findings)
    assert any("kms.pem expires" in text for text in findings)
    certificate = x509.load_pem_x509_certificate((server.home / "tls/kms.pem").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [IDENTITY]
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_encipherment
    assert not usage.digital_signature


class Misdirected(EnvelopeCertificate):
    """Encrypts for another key, but says in CHASH that it is for the KMS's."""

    def __init__(self, kms: EnvelopeCertificate, other: bytes) -> None:
        super().__init__(other)
        self._kms = kms

    def hash(self, hash_func: HashFunc) -> bytes:
        """See EnvelopeCertificate."""
        return self._kms.hash(hash_func)


class Forger(SignatureKey):
    """Signs with a key of its own, and sends the certificate of another."""

    def __init__(self, victim: SignatureKey, own: tls.Issued) -> None:
        super().__init__([own.certificate.public_bytes(Encoding.DER)], cast(rsa.RSAPrivateKey, own.key))
        self.chain = victim.chain


def test_a_bad_signature_certificate_and_envelope_look_the_same(server: Server) -> None:
    party = Party.of(Credential.load(server.enrol("sip:pk-wrong@example.com", "client", "--pk")))
    (good, *_) = party.keys
    assert isinstance(good, SigningKey)
    ca = tls.load_ca(server.home / "tls/ca.pem", server.home / "tls/ca.key")
    other = tls.issue_signer(ca, party.identity.decode())
    certificate = other.certificate.public_bytes(Encoding.DER)
    bad = (
        replace(good, signer=Forger(good.signer, other)),
        replace(good, signer=SignatureKey([certificate], cast(rsa.RSAPrivateKey, other.key))),
        replace(good, kms=Misdirected(good.kms, certificate)),
    )
    endpoint = ClientEndpoint(Credential.load(server.enrol("sip:pk-wrong@example.com")))
    tp_data = rules.tp_data(
        kms=party.kms_identity,
        initiator=party.identity,
        responders=[CALLEE.encode()],
        end=int(party.sources.now()) + 600,
    )
    desired = TicketPolicy(*DERIVED_TICKET, good.suite.prf, rules.FORKED_MODE_1, tp_data)
    seen = []
    for key in bad:
        with pytest.raises(Refused) as refused:
            endpoint.request_ticket(TicketRequest(party, desired, key=key).message.raw)
        assert refused.value.mikey_error is not None
        error = Message.decode(refused.value.mikey_error)
        seen.append((refused.value.reason, str(refused.value), error.error_numbers))
    assert seen[0][0] == "AUTHENTICATION_FAILED"
    assert seen == [seen[0]] * 3
    request = TicketRequest(party, desired, key=good)
    request.complete(endpoint.request_ticket(request.message.raw))
    endpoint.close()

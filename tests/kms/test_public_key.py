"""Participants that sign (RFC 6043 4.2.1.3, 4.2.3.3): their calls, and what the KMS refuses them."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from kms.client import Credential, CredentialError, Participant, Refused
from kms.engine import public_key
from kms.engine.certificates import MAX_CHAIN
from kms.engine.directory import DirectoryError, Role
from kms.engine.pke_budget import BUDGET, LOCK_SECONDS, PkeBudget
from kms.focus import Focus
from kms.mikey import policy as rules
from kms.mikey.errors import ProtocolError
from kms.mikey.message import Message
from kms.mikey.payloads import Cert, Chash, Idr, Payload, Pke, Sign, T, TicketPolicy, V
from kms.mikey.registry import CertType, DataType, ErrorNo, HashFunc, IdRole, KeyType
from kms.mikey.ticket_data import DERIVED_TICKET
from kms.party.party import Party
from kms.party.requesting import TicketRequest
from tests.kms.callers import focus, participant
from tests.kms.local_kms import KMS_IDENTITY, LocalEndpoint, LocalKms
from tests.kms.pki import Ca, PkKms, der, pem, private_pem, rsa_key

ALICE, BOB, MALLORY = "sip:alice@example.com", "sip:bob@example.com", "sip:mallory@example.com"
FOCUS = "sip:focus@example.com"


@pytest.fixture
def kms(tmp_path: Path) -> PkKms:
    return PkKms(tmp_path)


def call(caller: Participant, callee: Participant | Focus, name: str, suite: int = 256) -> None:
    """A whole call; both sides end up with the same keys and know each other."""
    offer = caller.offer(caller.request_ticket([name], suite=suite), name)
    if isinstance(callee, Focus):
        joining = callee.receive(offer.message)
        assert joining.caller == caller.identity
        answer = joining.answer(callee.group_keys(["audio"]))
    else:
        incoming = callee.receive(offer.message)
        assert incoming.caller == caller.identity
        answer = incoming.answer()
    assert answer.message is not None
    session = offer.complete(answer.message)
    assert session.peer == name
    assert session.peer_authenticated
    assert [k.libsrtp_key for k in session.srtp] == [k.libsrtp_key for k in answer.session.srtp]


# -- calls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", [256, 128])
def test_two_participants_that_sign(kms: PkKms, suite: int) -> None:
    call(participant(kms, kms.enrol_signer(ALICE)), participant(kms, kms.enrol_signer(BOB)), BOB, suite)


def test_a_signer_calls_a_focus_with_psk_and_the_other_way_round(kms: PkKms) -> None:
    call(participant(kms, kms.enrol_signer(ALICE)), focus(kms), FOCUS)
    call(participant(kms, MALLORY), focus(kms, kms.enrol_signer(BOB, role=Role.FOCUS)), BOB)


def test_what_a_signer_sends(kms: PkKms) -> None:
    credential = kms.enrol_signer(ALICE)
    endpoint = LocalEndpoint(kms, credential)
    with Participant(credential, endpoint=endpoint, sources=kms.engine._context.sources) as alice:
        alice.request_ticket([BOB])
    message = Message.decode(endpoint.sent[0])
    assert message.hdr.data_type == DataType.REQUEST_INIT_PK
    assert message.get(Chash).hash_func == HashFunc.SHA_256
    assert [p.data for p in message.find_all(Cert)] == [der(_own(kms))]
    assert len(rsa_key("kms").decrypt(message.get(Pke).data, PKCS1v15())) == 32
    assert isinstance(message.payloads[-1], Sign)
    assert message.idr(IdRole.PSK) is None


def _own(kms: LocalKms, identity: str = ALICE) -> x509.Certificate:
    user = kms.directory.find(identity.encode())
    assert user is not None
    assert user.certificate is not None
    return x509.load_der_x509_certificate(user.certificate)


def test_a_chain_of_certificates(tmp_path: Path) -> None:
    kms = PkKms(tmp_path)
    above = [Ca(kms.clock.now, f"CA {n}") for n in range(1)]
    for n in range(MAX_CHAIN - 2):
        above.append(Ca(kms.clock.now, f"intermediate {n}", above[-1]))
    longer = Ca(kms.clock.now, "one too many", above[-1])
    (tmp_path / "second").mkdir()
    kms = PkKms(tmp_path / "second", [above[0].certificate])
    chain = [ca.certificate for ca in reversed(above[1:])]
    own = above[-1].issue([ALICE], rsa_key(ALICE).public_key())
    call(participant(kms, kms.enrol_signer(ALICE, own, chain)), focus(kms), FOCUS)
    for bad in ([], chain[1:], chain[::-1], [*chain, *chain]):
        assert refusal(kms, kms.credential(ALICE, own, bad)) == UNTRUSTED
    own = longer.issue([BOB], rsa_key(BOB).public_key())
    too_long = kms.enrol_signer(BOB, own, [longer.certificate, *chain, above[0].certificate])
    assert refusal(kms, too_long) == UNTRUSTED


def test_certificates_come_from_the_directory_when_left_out(kms: PkKms) -> None:
    alice = kms.enrol_signer(ALICE)
    granted = ask(kms, alice, lambda p: None if isinstance(p, Cert) else p)
    assert granted.hdr.data_type == DataType.REQUEST_RESP
    stranger = kms.credential(MALLORY, kms.ca.issue([MALLORY], rsa_key(MALLORY).public_key()))
    assert refusal(kms, stranger, lambda p: None if isinstance(p, Cert) else p) == UNTRUSTED


def test_the_identity_comes_from_the_certificate_when_left_out(kms: PkKms) -> None:
    alice = kms.enrol_signer(ALICE)

    def without(p: Payload) -> Payload | None:
        return None if isinstance(p, Idr) and p.role == IdRole.INITIATOR else p

    assert ask(kms, alice, without).hdr.data_type == DataType.REQUEST_RESP
    assert refusal(kms, alice, lambda p: None if isinstance(p, Cert) else without(p)) == UNTRUSTED


def test_an_alias_of_a_signer(kms: PkKms) -> None:
    alias = "sip:helpdesk@example.com"
    own = kms.ca.issue([ALICE], rsa_key(ALICE).public_key())
    alice = kms.enrol_signer(ALICE, own, aliases=[alias])
    assert ask(kms, alice, _named(alias), alias).hdr.data_type == DataType.REQUEST_RESP
    assert refusal(kms, alice, _named(BOB), identity=BOB)[0] == "NOT_AUTHORIZED"


def test_either_hash_may_sign_in_either_suite(kms: PkKms) -> None:
    """The hash is not signalled (AMBIGUITIES A-16)."""
    alice = kms.enrol_signer(ALICE)
    for algorithm in (hashes.SHA1(), hashes.SHA256()):
        assert ask(kms, alice, hash_algorithm=algorithm).hdr.data_type == DataType.REQUEST_RESP
    assert refusal(kms, alice, hash_algorithm=hashes.SHA512()) == UNTRUSTED


@pytest.mark.parametrize("length", [16, 24, 32])
def test_envelope_keys_of_other_lengths(kms: PkKms, length: int) -> None:
    change = _pke(rsa_key("kms").public_key().encrypt(bytes(length), PKCS1v15()))
    assert ask(kms, kms.enrol_signer(ALICE), change).hdr.data_type == DataType.REQUEST_RESP


# -- refusals ----------------------------------------------------------------------------------------------------------

Seen = tuple[str, str, tuple[int, ...]]
UNTRUSTED: Seen = (
    "AUTHENTICATION_FAILED",
    "the signature or certificate of the sender is not valid",
    (ErrorNo.AUTH_FAILURE,),
)


def seen(refused: Refused) -> Seen:
    """All that a sender sees of a refusal, but for the time in the Error message."""
    assert refused.mikey_error is not None
    error = Message.decode(refused.mikey_error)
    assert error.find(V) is None
    assert error.find(Sign) is None
    return refused.reason, str(refused).rpartition(": ")[2], error.error_numbers


def refusal(kms: PkKms, credential: Credential, change: "Change | None" = None, **options: Any) -> Seen:
    """What the KMS answers to a REQUEST_INIT_PK that it must refuse."""
    with pytest.raises(Refused) as refused:
        ask(kms, credential, change or (lambda p: p), **options)
    return seen(refused.value)


Change = Callable[[Payload], Payload | None]


def ask(
    kms: PkKms,
    credential: Credential,
    change: Change = lambda p: p,
    identity: str | None = None,
    *,
    hash_algorithm: hashes.HashAlgorithm | None = None,
    spoil: Callable[[bytes], bytes] = lambda raw: raw,
) -> Message:
    """Send a REQUEST_INIT_PK with its payloads changed, signed anew by the credential's key. Raises Refused."""
    party = Party.of(credential, kms.engine._context.sources)
    original = TicketRequest(party, policy_of(party)).message
    kept = [p for p in map(change, original.payloads) if p is not None]
    unsigned = Message.build(original.hdr, kept)
    covered = unsigned.coverage((identity or credential.identity).encode(), KMS_IDENTITY.encode())
    key = rsa_key(credential.identity)
    raw = unsigned.with_signature(key.sign(covered, PKCS1v15(), hash_algorithm or hashes.SHA256())).raw
    return Message.decode(LocalEndpoint(kms, credential).request_ticket(spoil(raw)))


def policy_of(party: Party) -> TicketPolicy:
    """A Ticket Policy to ask for."""
    tp_data = rules.tp_data(
        kms=party.kms_identity,
        initiator=party.identity,
        responders=[BOB.encode()],
        end=int(party.sources.now()) + 600,
    )
    return TicketPolicy(*DERIVED_TICKET, party.keys[0].suite.prf, rules.FORKED_MODE_1, tp_data)


def _named(identity: str) -> Change:
    def change(p: Payload) -> Payload:
        if isinstance(p, Idr) and p.role == IdRole.INITIATOR:
            return replace(p, data=identity.encode())
        return p

    return change


def _pke(data: bytes) -> Change:
    return lambda p: Pke(data) if isinstance(p, Pke) else p


def _certs(*certificates: bytes, cert_type: int = CertType.X509V3) -> Change:
    """Replace the one CERT; an empty `certificates` stands for leaving it as it is."""
    return lambda p: Cert(cert_type, certificates[0]) if isinstance(p, Cert) else p


def test_certificates_that_are_not_trusted(kms: PkKms) -> None:
    """Each has the one answer, and the RSA key of the KMS is not used for any."""
    key = rsa_key(ALICE).public_key()
    now = kms.clock.now
    other = Ca(now, "other CA")
    lookalike = Ca(now)  # the name of the CA, another key
    bad = {
        "expired": kms.ca.issue([ALICE], key, start=-7200, end=-3600),
        "not yet valid": kms.ca.issue([ALICE], key, start=3600, end=7200),
        "of another CA": other.issue([ALICE], key),
        "of a CA with the same name": lookalike.issue([ALICE], key),
        "without subjectAltName": kms.ca.issue([], key),
        "of somebody else": kms.ca.issue([BOB], key),
        "not for signatures": kms.ca.issue([ALICE], key, use="key_encipherment"),
    }
    for what, certificate in bad.items():
        alice = kms.enrol_signer(ALICE, certificate)
        assert refusal(kms, alice) == UNTRUSTED, what
        kms.directory.revoke(ALICE.encode())
    assert kms.ops.unwraps == 0
    good = kms.enrol_signer(ALICE)
    assert ask(kms, good).hdr.data_type == DataType.REQUEST_RESP
    assert kms.ops.unwraps == 1


def test_certificates_that_are_none(kms: PkKms) -> None:
    alice = kms.enrol_signer(ALICE)
    own = der(_own(kms))
    elliptic = der(kms.ca.issue([ALICE], ec.generate_private_key(ec.SECP256R1()).public_key()))
    weak = der(kms.ca.issue([ALICE], rsa_key("weak", 1024).public_key()))
    for certificate in (b"", b"not DER", own[:-1], own + b"\0", bytes(1000), elliptic, weak):
        assert refusal(kms, alice, _certs(certificate)) == UNTRUSTED
    for cert_type in (CertType.X509V3_URL, CertType.X509V3_SIGN, 77):
        assert refusal(kms, alice, _certs(own, cert_type=cert_type)) == UNTRUSTED
    assert kms.ops.unwraps == 0


def test_a_certificate_that_nobody_is_enrolled_with(kms: PkKms) -> None:
    """From a trusted CA, for an identity that is not enrolled, has a PSK, or is enrolled with another certificate."""
    kms.enrol(BOB)
    kms.enrol_signer(ALICE)
    for name in (MALLORY, BOB):
        stranger = kms.credential(name, kms.ca.issue([name], rsa_key(name).public_key()))
        assert refusal(kms, stranger) == UNTRUSTED
    newer = kms.ca.issue([ALICE], rsa_key(ALICE).public_key())
    assert refusal(kms, kms.credential(ALICE, newer)) == UNTRUSTED
    assert kms.ops.unwraps == 0


def test_revocation_is_the_directorys(kms: PkKms) -> None:
    old = kms.enrol_signer(ALICE)
    assert ask(kms, old).hdr.data_type == DataType.REQUEST_RESP
    kms.directory.revoke(ALICE.encode())
    assert refusal(kms, old) == UNTRUSTED
    assert refusal(kms, old, lambda p: None if isinstance(p, Cert) else p) == UNTRUSTED
    new = kms.enrol_signer(ALICE)
    assert refusal(kms, old) == UNTRUSTED
    assert ask(kms, new).hdr.data_type == DataType.REQUEST_RESP


def test_a_signer_cannot_pose_as_another(kms: PkKms) -> None:
    """Neither with its own certificate and the other's name, nor with the other's certificate."""
    kms.enrol_signer(ALICE)
    mallory = kms.enrol_signer(MALLORY)
    assert refusal(kms, mallory, _named(ALICE), identity=ALICE)[0] == "NOT_AUTHORIZED"
    stolen = _certs(der(_own(kms)))
    assert refusal(kms, mallory, stolen) == UNTRUSTED

    def posing(p: Payload) -> Payload | None:
        renamed = _named(ALICE)(p)
        return None if renamed is None else stolen(renamed)

    assert refusal(kms, mallory, posing, identity=ALICE) == UNTRUSTED


def test_over_the_connection_of_another(kms: PkKms) -> None:
    alice, mallory = kms.enrol_signer(ALICE), kms.enrol_signer(MALLORY)
    party = Party.of(alice, kms.engine._context.sources)
    message = TicketRequest(party, policy_of(party)).message
    with pytest.raises(Refused) as refused:
        LocalEndpoint(kms, mallory).request_ticket(message.raw)
    assert refused.value.reason == "TLS_IDENTITY_MISMATCH"


def test_envelopes_that_do_not_open(kms: PkKms) -> None:
    """Refused like a bad signature, whatever is wrong with them."""
    alice = kms.enrol_signer(ALICE)
    own, other = rsa_key("kms").public_key(), rsa_key("other").public_key()
    wrapped = [own.encrypt(bytes(n), PKCS1v15()) for n in (0, 1, 15, 33, 64)]
    wrapped += [b"", b"\1", bytes(256), b"\xff" * 256, bytes(257), other.encrypt(bytes(32), PKCS1v15())]
    for data in wrapped:
        assert refusal(kms, alice, _pke(data)) == UNTRUSTED
    assert kms.ops.unwraps == len(wrapped)
    assert ask(kms, alice).hdr.data_type == DataType.REQUEST_RESP


def test_a_subscriber_cannot_go_on_trying_envelopes(kms: PkKms) -> None:
    """Bleichenbacher's attack needs thousands of answers: its sender gets BUDGET, then a day without any."""
    alice, mallory = kms.enrol_signer(ALICE), kms.enrol_signer(MALLORY)
    good = rsa_key("kms").public_key().encrypt(bytes(32), PKCS1v15())
    for _ in range(BUDGET):
        assert refusal(kms, mallory, _pke(bytes(256))) == UNTRUSTED
    asked = kms.ops.unwraps
    assert refusal(kms, mallory, _pke(good)) == UNTRUSTED
    assert kms.ops.unwraps == asked, "the RSA key is not even used"
    assert ask(kms, alice).hdr.data_type == DataType.REQUEST_RESP, "nobody else suffers"


def test_the_budget_comes_back_after_a_quiet_day() -> None:
    budget = PkeBudget()
    for i in range(BUDGET):
        assert not budget.exhausted(b"certificate", float(i))
        budget.spend(b"certificate", float(i))
    last = BUDGET - 1
    assert budget.exhausted(b"certificate", last + LOCK_SECONDS)
    assert not budget.exhausted(b"another", last)
    assert not budget.exhausted(b"certificate", last + LOCK_SECONDS + 1)


def test_signatures(kms: PkKms) -> None:
    alice = kms.enrol_signer(ALICE)
    for spoil in (
        lambda raw: raw[:-1] + bytes((raw[-1] ^ 1,)),
        lambda raw: raw[:-256] + bytes(256),
        lambda raw: raw[:-256] + b"\xff" * 256,
    ):
        assert refusal(kms, alice, spoil=spoil) == UNTRUSTED
    short = Sign(0, bytes(16))
    original = TicketRequest(Party.of(alice, kms.engine._context.sources), policy_of(Party.of(alice))).message
    for sign in (short, Sign(1, bytes(256)), Sign(0, b"")):
        changed = Message.build(original.hdr, [*original.payloads[:-1], sign])
        with pytest.raises(Refused) as refused:
            LocalEndpoint(kms, alice).request_ticket(changed.raw)
        assert refused.value.reason == "AUTHENTICATION_FAILED"
    assert kms.ops.unwraps == 0


def test_no_bit_of_a_message_can_be_changed(kms: PkKms) -> None:
    alice = kms.enrol_signer(ALICE)
    party = Party.of(alice, kms.engine._context.sources)
    raw = TicketRequest(party, policy_of(party)).message.raw
    endpoint = LocalEndpoint(kms, alice)
    chosen = random.Random(6043)
    for position in sorted(chosen.sample(range(len(raw) * 8), 400)):
        changed = bytearray(raw)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(Refused):
            endpoint.request_ticket(bytes(changed))
    assert kms.ops.unwraps == 0
    assert endpoint.request_ticket(raw)


def test_chash_of_another_certificate(kms: PkKms) -> None:
    """With its own answer: it says that the sender's copy of the KMS's certificate is old."""
    alice = kms.enrol_signer(ALICE)
    for chash in (Chash(HashFunc.SHA_256, bytes(32)), Chash(HashFunc.MD5, bytes(16))):
        reason, _, numbers = refusal(kms, alice, lambda p, c=chash: c if isinstance(p, Chash) else p)  # type: ignore[misc]
        assert (reason, numbers) == ("WRONG_KMS", (ErrorNo.INVALID_CERT,))
    assert ask(kms, alice, lambda p: None if isinstance(p, Chash) else p).find(T) is not None
    with_sha1 = Chash(HashFunc.SHA_1, kms.certificate.fingerprint(hashes.SHA1()))
    assert ask(kms, alice, lambda p: with_sha1 if isinstance(p, Chash) else p).find(T) is not None


def test_without_rsa_key_the_messages_are_refused(kms: PkKms, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    old = LocalKms(tmp_path / "old")
    party = Party.of(kms.enrol_signer(ALICE), old.engine._context.sources)
    with pytest.raises(Refused, match="use the PSK messages") as refused:
        LocalEndpoint(old, kms.credential(ALICE, _own(kms))).request_ticket(
            TicketRequest(party, policy_of(party)).message.raw
        )
    assert refused.value.reason == "UNEXPECTED_MESSAGE"


def test_the_answer_is_for_the_envelope_key_alone(kms: PkKms) -> None:
    alice = kms.enrol_signer(ALICE)
    party = Party.of(alice, kms.engine._context.sources)
    request, again = (TicketRequest(party, policy_of(party)) for _ in range(2))
    answer = LocalEndpoint(kms, alice).request_ticket(request.message.raw)
    changed = bytearray(answer)
    changed[-1] ^= 1
    for wrong in (bytes(changed), LocalEndpoint(kms, alice).request_ticket(again.message.raw)):
        with pytest.raises(ProtocolError, match=r"MAC|HDR"):
            request.complete(wrong)
    assert request.complete(answer).session_keys[0].key_type == KeyType.TGK


# -- enrolment ---------------------------------------------------------------------------------------------------------


def _refused_enrolment(kms: PkKms, certificates: Sequence[x509.Certificate], role: Role = Role.CLIENT) -> str:
    with pytest.raises(DirectoryError) as refused:
        public_key.check_enrolment(
            kms.engine._context, ALICE.encode(), role, [der(certificate) for certificate in certificates]
        )
    return str(refused.value)


def test_enrolment_says_what_is_wrong_with_a_certificate(kms: PkKms) -> None:
    key, ca = rsa_key(ALICE).public_key(), kms.ca
    good = ca.issue([BOB, ALICE], key)
    assert public_key.check_enrolment(kms.engine._context, ALICE.encode(), Role.FOCUS, [der(good)]) == der(
        good
    )
    assert public_key.check_enrolment(kms.engine._context, ALICE.encode(), Role.GATEWAY, []) is None
    elliptic = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert "only clients and foci" in _refused_enrolment(kms, [good], Role.GATEWAY)
    assert f"names {BOB} in subjectAltName" in _refused_enrolment(kms, [ca.issue([BOB], key)])
    assert "has no subjectAltName" in _refused_enrolment(kms, [ca.issue([], key)])
    assert "2048 to 8192 bits" in _refused_enrolment(kms, [ca.issue([ALICE], elliptic)])
    assert "2048 to 8192 bits" in _refused_enrolment(
        kms, [ca.issue([ALICE], rsa_key("weak", 1024).public_key())]
    )
    assert "is not trusted" in _refused_enrolment(kms, [ca.issue([ALICE], key, start=-9, end=-1)])
    assert "is not trusted" in _refused_enrolment(kms, [Ca(kms.clock.now, "other").issue([ALICE], key)])
    assert "not for signatures" in _refused_enrolment(kms, [ca.issue([ALICE], key, use="key_encipherment")])
    assert "1 to 4 are expected" in _refused_enrolment(kms, [good] * 5)
    assert "order of a chain" in _refused_enrolment(kms, [good, good])


def test_the_enrolment_file_of_a_signer(kms: PkKms, tmp_path: Path) -> None:
    data = {
        "identity": ALICE,
        "kms_identity": KMS_IDENTITY,
        "target": "localhost:0",
        "role": "client",
        "suite": 128,
        "cert": pem(kms.ca.issue([ALICE], rsa_key(ALICE).public_key())),
        "key": private_pem(rsa_key(ALICE)),
        "kms_cert": pem(kms.certificate),
        **dict.fromkeys(("ca_cert", "tls_cert", "tls_key"), "-----BEGIN X-----"),
    }
    parsed = Credential.parse(json.dumps(data))
    assert parsed.psks == ()
    assert [key.suite.bits for key in Party.of(parsed).keys] == [128, 256]
    assert "PRIVATE" not in repr(parsed)
    assert "PRIVATE" not in repr(Party.of(parsed))

    file, key_file = tmp_path / "alice.json", tmp_path / "alice.key"
    file.write_text(json.dumps({name: value for name, value in data.items() if name != "key"}))
    key_file.write_text(str(data["key"]))
    for path in (file, key_file):
        path.chmod(0o600)
    with pytest.raises(CredentialError, match="give its file as `key`"):
        Credential.load(file)
    assert Credential.load(file, key=key_file) == parsed
    key_file.chmod(0o644)
    with pytest.raises(CredentialError, match=r"alice\.key: holds a private key but has the mode 0644"):
        Credential.load(file, key=key_file)

    for change, text in (
        ({"psk": "00" * 32}, "both a psk and a cert"),
        ({"suite": 192}, "suite is neither"),
        ({"cert": "no"}, "cert is not PEM text"),
        ({"kms_cert": None}, "kms_cert is missing"),
    ):
        with pytest.raises(CredentialError, match=text):
            Credential.parse(json.dumps({**data, **change}))
    for change, text in (
        ({"key": private_pem(rsa_key(BOB))}, "the private key is not the certificate's"),
        ({"key": "-----BEGIN X-----"}, "not an unencrypted private key"),
        ({"cert": "-----BEGIN X-----"}, "not a certificate in PEM"),
        ({"kms_cert": pem(kms.ca.certificate)}, "kms_cert of .* no RSA key"),
    ):
        with pytest.raises(CredentialError, match=text):
            Party.of(Credential.parse(json.dumps({**data, **change})))
    psk = {**data, "psk": "00" * 32, "psk_id": "00"}
    del psk["cert"]
    with pytest.raises(CredentialError, match="enrolment by PSK"):
        Credential.parse(json.dumps(psk), key="-----BEGIN X-----")

"""The SDKs' gRPC connections over real mutual TLS: messages pass whole, statuses become exceptions."""

import datetime
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from kms.client import Participant, Refused, TimedOut, Unavailable
from kms.client.endpoint import ClientEndpoint
from kms.client.v1 import client_pb2, client_pb2_grpc
from kms.crypto.sources import Sources
from kms.engine.directory import Role
from kms.focus import Focus, IncomingCall
from kms.focus.endpoint import FocusEndpoint
from kms.focus.v1 import focus_pb2, focus_pb2_grpc
from kms.party.credential import Credential, CredentialError
from kms.sdk.errors import KmsError, KmsFault, of_status
from tests.kms.callers import ALICE, FOCUS
from tests.kms.local_kms import LocalEndpoint, LocalKms


class Authority:
    """A TLS authority for the test."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
        builder = self._builder(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), True
        )
        self.pem = builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM).decode()

    def issue(self, name: x509.GeneralName) -> tuple[str, str]:
        """A certificate and its key, in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(x509.Name([]), key).add_extension(x509.SubjectAlternativeName([name]), True)
        certificate = builder.sign(self._key, SHA256()).public_bytes(Encoding.PEM).decode()
        return certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )


def _status(error: KmsError) -> status_pb2.Status:
    """A refusal as the frontend sends it."""
    assert isinstance(error, Refused)
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    details: list[Any] = [error_details_pb2.ErrorInfo(reason=error.reason, domain="kms")]
    if error.mikey_error:
        details.append(client_pb2.MikeyErrorMessage(mikey_message=error.mikey_error))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


class Services(client_pb2_grpc.ClientServiceServicer, focus_pb2_grpc.FocusServiceServicer):
    """Both services, over a LocalKms; `fail` makes the next call fail with that code."""

    def __init__(self, kms: LocalKms, credentials: dict[str, Credential]) -> None:
        self._kms, self._credentials = kms, credentials
        self.fail: list[grpc.StatusCode] = []

    def _endpoint(self, context: Any) -> LocalEndpoint:
        if self.fail:
            context.abort(self.fail.pop(0), "a fault")
        names = context.auth_context()["x509_subject_alternative_name"]
        return LocalEndpoint(self._kms, self._credentials[names[0].decode()])

    def RequestTicket(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(request, context, "request_ticket")

    def ResolveTicket(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(request, context, "resolve_ticket")

    def _answer(self, request: Any, context: Any, method: str) -> Any:
        try:
            answer = getattr(self._endpoint(context), method)(request.mikey_message)
        except Refused as refused:
            context.abort_with_status(rpc_status.to_status(_status(refused)))
        module = (
            focus_pb2
            if isinstance(request, focus_pb2.RequestTicketRequest | focus_pb2.ResolveTicketRequest)
            else client_pb2
        )
        name = "RequestTicketResponse" if method == "request_ticket" else "ResolveTicketResponse"
        return getattr(module, name)(mikey_message=answer)

    def BatchResolveTickets(self, request: Any, context: Any) -> Any:  # noqa: N802
        answers = self._endpoint(context).resolve_tickets([r.mikey_message for r in request.requests])
        results = [
            focus_pb2.BatchResolveTicketsResult(error=_status(a))
            if isinstance(a, KmsError)
            else focus_pb2.BatchResolveTicketsResult(mikey_message=a)
            for a in answers
        ]
        return focus_pb2.BatchResolveTicketsResponse(results=results)


class Served:
    """A server with what the tests need of it."""

    def __init__(self, folder: Path) -> None:
        self._authority = Authority()
        self._credentials: dict[str, Credential] = {}
        # one worker: the engine and its directory belong to one thread
        self._workers = ThreadPoolExecutor(1)
        self.kms = self._workers.submit(LocalKms, folder).result()
        self.services = Services(self.kms, self._credentials)
        self._server = grpc.server(self._workers)
        client_pb2_grpc.add_ClientServiceServicer_to_server(self.services, self._server)
        focus_pb2_grpc.add_FocusServiceServicer_to_server(self.services, self._server)
        certificate, key = self._authority.issue(x509.DNSName("localhost"))
        tls = grpc.ssl_server_credentials(
            [(key.encode(), certificate.encode())], self._authority.pem.encode(), require_client_auth=True
        )
        self.target = f"localhost:{self._server.add_secure_port('localhost:0', tls)}"
        self._server.start()

    def enrol(self, identity: str, role: Role) -> Credential:
        certificate, key = self._authority.issue(x509.UniformResourceIdentifier(identity))
        bare = self._workers.submit(self.kms.enrol, identity, role).result()
        credential = replace(
            bare, target=self.target, ca_cert=self._authority.pem, tls_cert=certificate, tls_key=key
        )
        self._credentials[identity] = credential
        return credential

    def stop(self) -> None:
        self._server.stop(None).wait()
        self._workers.shutdown()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path)
    yield server
    server.stop()


@pytest.fixture
def alice(served: Served) -> Iterator[Participant]:
    credential = served.enrol(ALICE, Role.CLIENT)
    with Participant(credential, sources=Sources(clock=served.kms.clock)) as participant:
        yield participant


def test_a_call_over_both_services(served: Served, alice: Participant) -> None:
    credential = served.enrol(FOCUS, Role.FOCUS)
    with Focus(credential, sources=Sources(clock=served.kms.clock)) as focus:
        group = focus.group_keys()
        offer = alice.offer(alice.request_ticket([FOCUS]), FOCUS)
        call = focus.receive(offer.sdp)
        assert call.caller == ALICE
        assert offer.complete(call.answer(group).sdp or "").peer == FOCUS
        good = alice.offer(alice.request_ticket([FOCUS]), FOCUS)
        ticket = alice.request_ticket([FOCUS])
        stolen = alice.offer(replace(ticket, mpkr=ticket.mpki), FOCUS)
        first, second = focus.receive_batch([good.message, stolen.message])
        assert isinstance(first, IncomingCall)
        assert isinstance(second, Refused)
        assert second.reason == "INITIATOR_NOT_AUTHENTIC"
        assert second.mikey_error


def test_a_refusal(served: Served, alice: Participant) -> None:
    wrong = served.enrol("sip:wrong@example.com", Role.CLIENT)
    wrong = replace(wrong, psks=tuple(replace(k, psk=bytes(32)) for k in wrong.psks))
    with (
        Participant(wrong, sources=Sources(clock=served.kms.clock)) as participant,
        pytest.raises(Refused) as refused,
    ):
        participant.request_ticket([FOCUS])
    assert refused.value.reason == "AUTHENTICATION_FAILED"
    assert refused.value.code is grpc.StatusCode.UNAUTHENTICATED
    assert refused.value.mikey_error


def test_unavailable_is_retried_and_a_fault_is_not(served: Served, alice: Participant) -> None:
    served.services.fail = [grpc.StatusCode.UNAVAILABLE] * 2
    assert alice.request_ticket([FOCUS]).session_keys
    served.services.fail = [grpc.StatusCode.INTERNAL] * 2
    with pytest.raises(KmsFault):
        alice.request_ticket([FOCUS])
    assert len(served.services.fail) == 1


def test_no_server(served: Served, alice: Participant) -> None:
    served.stop()
    with pytest.raises(Unavailable):
        alice.request_ticket([FOCUS])


def test_a_deadline(served: Served, alice: Participant) -> None:
    endpoint = ClientEndpoint(served.enrol("sip:late@example.com", Role.CLIENT), timeout=0.0)
    with pytest.raises(TimedOut, match="within 0 s"):
        endpoint.request_ticket(b"x")
    endpoint.close()


def test_a_server_of_another_authority(served: Served) -> None:
    credential = replace(served.enrol("sip:other@example.com", Role.CLIENT), ca_cert=Authority().pem)
    endpoint = ClientEndpoint(credential)
    with pytest.raises(Unavailable):
        endpoint.request_ticket(b"x")
    endpoint.close()


def test_a_key_that_is_no_key(served: Served) -> None:
    credential = replace(served.enrol("sip:broken@example.com", Role.CLIENT), tls_key="-----BEGIN nothing")
    endpoint = FocusEndpoint(credential)
    with pytest.raises((Unavailable, CredentialError)) as error:
        endpoint.resolve_tickets([b"x"])
    assert "BEGIN nothing" not in str(error.value)
    endpoint.close()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (14, Unavailable),
        (13, KmsFault),
        (2, KmsFault),
        (4, TimedOut),
        (7, Refused),
        (8, Refused),
        (99, KmsFault),
    ],
)
def test_statuses(code: int, expected: type[KmsError]) -> None:
    assert type(of_status(status_pb2.Status(code=code, message="text"))) is expected


def test_a_busy_kms_says_when() -> None:
    status = status_pb2.Status(code=8, message="busy")
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(datetime.timedelta(seconds=1.5))
    packed = AnyMessage()
    packed.Pack(retry)
    status.details.append(packed)
    error = of_status(status)
    assert isinstance(error, Unavailable)
    assert error.retry_after == 1.5

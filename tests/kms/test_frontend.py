"""The frontend over real TLS, in front of real engine processes that break on command."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from kms.client.v1 import client_pb2, client_pb2_grpc
from kms.engine.v1.link_pb2 import CalledService, Operation
from kms.focus.v1 import focus_pb2, focus_pb2_grpc
from tests.kms.fault_engine import SECRET
from tests.kms.serving import ALICE, WAIT_SECONDS, Authority, Serving, make_home


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    home = tmp_path_factory.mktemp("home")
    with Serving(home, make_home(home, engines=2)) as running:
        yield running


@pytest.fixture(scope="module")
def channel(serving: Serving) -> Iterator[grpc.Channel]:
    with serving.channel() as channel:
        yield channel


@pytest.fixture
def client(channel: grpc.Channel) -> client_pb2_grpc.ClientServiceStub:
    return client_pb2_grpc.ClientServiceStub(channel)


@pytest.fixture
def focus(channel: grpc.Channel) -> focus_pb2_grpc.FocusServiceStub:
    return focus_pb2_grpc.FocusServiceStub(channel)


def request_ticket(client: client_pb2_grpc.ClientServiceStub, message: bytes) -> dict[str, Any]:
    response = client.RequestTicket(
        client_pb2.RequestTicketRequest(mikey_message=message), timeout=WAIT_SECONDS, wait_for_ready=True
    )
    answer: dict[str, Any] = json.loads(response.mikey_message)
    return answer


def refused(client: client_pb2_grpc.ClientServiceStub, message: bytes) -> status_pb2.Status:
    with pytest.raises(grpc.RpcError) as caught:
        request_ticket(client, message)
    return status_of(caught.value)


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    # What a failed call raises is its Call too; the type stubs do not say so.
    status = rpc_status.from_call(cast(grpc.Call, error))
    assert status is not None
    return status


def details(status: status_pb2.Status) -> dict[str, Any]:
    known = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.RetryInfo,
        client_pb2.MikeyErrorMessage,
        focus_pb2.MikeyErrorMessage,
    )
    found = {}
    for packed in status.details:
        for kind in known:
            if packed.Is(kind.DESCRIPTOR):
                found[kind.DESCRIPTOR.full_name] = kind.FromString(packed.value)
    return found


def reason(status: status_pb2.Status) -> str:
    info = details(status)["google.rpc.ErrorInfo"]
    assert info.domain == "kms"
    return str(info.reason)


def test_a_message_and_the_tls_identity_reach_an_engine(
    client: client_pb2_grpc.ClientServiceStub, focus: focus_pb2_grpc.FocusServiceStub
) -> None:
    answer = request_ticket(client, b"a message")
    assert bytes.fromhex(answer["message"]) == b"a message"
    assert answer["identities"] == [ALICE]
    resolve = client_pb2.ResolveTicketRequest(mikey_message=b"resolve")
    calls = [
        (answer, CalledService.CALLED_SERVICE_CLIENT, Operation.OPERATION_REQUEST_TICKET),
        (
            json.loads(client.ResolveTicket(resolve, timeout=WAIT_SECONDS).mikey_message),
            CalledService.CALLED_SERVICE_CLIENT,
            Operation.OPERATION_RESOLVE_TICKET,
        ),
        (
            json.loads(
                focus.RequestTicket(
                    focus_pb2.RequestTicketRequest(mikey_message=b"of a focus"), timeout=WAIT_SECONDS
                ).mikey_message
            ),
            CalledService.CALLED_SERVICE_FOCUS,
            Operation.OPERATION_REQUEST_TICKET,
        ),
        (
            json.loads(
                focus.ResolveTicket(
                    focus_pb2.ResolveTicketRequest(mikey_message=b"resolve of a focus"), timeout=WAIT_SECONDS
                ).mikey_message
            ),
            CalledService.CALLED_SERVICE_FOCUS,
            Operation.OPERATION_RESOLVE_TICKET,
        ),
    ]
    for answered, service, operation in calls:
        assert (answered["service"], answered["operation"]) == (service, operation)


def test_a_client_without_a_certificate_of_the_ca_gets_no_connection(serving: Serving) -> None:
    server_only = grpc.ssl_channel_credentials(serving.authority.certificate)
    with grpc.secure_channel(serving.grpc_address, server_only) as channel:
        assert unavailable(channel)
    with serving.channel(authority=Authority()) as channel:
        assert unavailable(channel)
    with grpc.insecure_channel(serving.grpc_address) as channel:
        assert unavailable(channel)


def unavailable(channel: grpc.Channel) -> bool:
    with pytest.raises(grpc.RpcError) as caught:
        health(channel).Check(health_pb2.HealthCheckRequest(), timeout=WAIT_SECONDS)
    return cast(grpc.Call, caught.value).code() is grpc.StatusCode.UNAVAILABLE


def health(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


def test_a_certificate_without_a_uri_names_nobody(serving: Serving) -> None:
    with serving.channel(identity=None) as channel:
        status = refused(client_pb2_grpc.ClientServiceStub(channel), b"anonymous")
    assert (status.code, reason(status)) == (code_pb2.PERMISSION_DENIED, "TLS_IDENTITY_MISSING")


def test_limits(client: client_pb2_grpc.ClientServiceStub) -> None:
    status = refused(client, b"")
    assert (status.code, reason(status)) == (code_pb2.INVALID_ARGUMENT, "MESSAGE_EMPTY")
    status = refused(client, bytes(65537))
    assert (status.code, reason(status)) == (code_pb2.INVALID_ARGUMENT, "MESSAGE_TOO_LARGE")
    assert request_ticket(client, bytes(65536))["message"] == bytes(65536).hex()


def test_a_refusal_has_reason_and_the_error_message_of_its_package(
    client: client_pb2_grpc.ClientServiceStub, focus: focus_pb2_grpc.FocusServiceStub
) -> None:
    status = refused(client, b"refuse:client")
    assert (status.code, status.message) == (code_pb2.UNAUTHENTICATED, "not authentic")
    assert reason(status) == "AUTHENTICATION_FAILED"
    assert details(status)["kms.client.v1.MikeyErrorMessage"].mikey_message == b"mikey error"
    batch = focus_pb2.BatchResolveTicketsRequest(
        requests=[focus_pb2.ResolveTicketRequest(mikey_message=b"refuse:focus")]
    )
    (result,) = focus.BatchResolveTickets(batch, timeout=WAIT_SECONDS).results
    assert details(result.error)["kms.focus.v1.MikeyErrorMessage"].mikey_message == b"mikey error"


def test_an_answered_message_is_refused_from_then_on(client: client_pb2_grpc.ClientServiceStub) -> None:
    request_ticket(client, b"once")
    status = refused(client, b"once")
    assert (status.code, reason(status)) == (code_pb2.ALREADY_EXISTS, "REPLAYED")


def test_a_message_is_refused_while_it_is_being_answered(
    client: client_pb2_grpc.ClientServiceStub, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    message = b"hold:" + bytes(gate)
    pending = client.RequestTicket.future(
        client_pb2.RequestTicketRequest(mikey_message=message), timeout=WAIT_SECONDS
    )
    try:
        wait_for(gate.with_suffix(".held"))
        assert reason(refused(client, message)) == "REPLAYED"
    finally:
        gate.touch()
    assert json.loads(pending.result().mikey_message)["message"] == message.hex()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_refused_message_may_be_sent_again(client: client_pb2_grpc.ClientServiceStub) -> None:
    assert reason(refused(client, b"refuse:again")) == "AUTHENTICATION_FAILED"
    assert reason(refused(client, b"refuse:again")) == "AUTHENTICATION_FAILED"


def test_a_bug_costs_one_answer_and_its_text_goes_nowhere(
    serving: Serving, client: client_pb2_grpc.ClientServiceStub
) -> None:
    status = refused(client, b"bug:" + SECRET.encode())
    assert (status.code, reason(status)) == (code_pb2.INTERNAL, "ENGINE_FAULT")
    assert SECRET not in str(status)
    faults = serving.wait_log(lambda line: line["event"] == "fault while handling a message")
    assert faults[0]["error"] == "ValueError"
    assert SECRET not in "".join(serving.lines)


def test_a_batch_with_bad_messages_among_good_ones(focus: focus_pb2_grpc.FocusServiceStub) -> None:
    messages = [b"batch %d" % number for number in range(256)]
    messages[3] = b"refuse:in a batch"
    messages[40] = b""
    messages[41] = bytes(65537)
    messages[100] = b"bug:in a batch"
    messages[200] = messages[201]
    batch = focus_pb2.BatchResolveTicketsRequest(
        requests=[focus_pb2.ResolveTicketRequest(mikey_message=each) for each in messages]
    )
    results = focus.BatchResolveTickets(batch, timeout=WAIT_SECONDS).results
    errors = {
        at: reason(each.error) for at, each in enumerate(results) if each.WhichOneof("result") == "error"
    }
    assert errors == {
        3: "AUTHENTICATION_FAILED",
        40: "MESSAGE_EMPTY",
        41: "MESSAGE_TOO_LARGE",
        100: "ENGINE_FAULT",
        201: "REPLAYED",
    }
    for at, each in enumerate(results):
        if at not in errors:
            assert json.loads(each.mikey_message)["message"] == messages[at].hex()


def test_a_batch_has_a_limit_and_may_be_empty(focus: focus_pb2_grpc.FocusServiceStub) -> None:
    request = focus_pb2.ResolveTicketRequest(mikey_message=b"one too many")
    with pytest.raises(grpc.RpcError) as caught:
        focus.BatchResolveTickets(focus_pb2.BatchResolveTicketsRequest(requests=[request] * 257))
    status = status_of(caught.value)
    assert (status.code, reason(status)) == (code_pb2.INVALID_ARGUMENT, "BATCH_TOO_LARGE")
    assert not focus.BatchResolveTickets(focus_pb2.BatchResolveTicketsRequest()).results


def test_a_full_batch_of_the_largest_messages_fits(focus: focus_pb2_grpc.FocusServiceStub) -> None:
    request = focus_pb2.ResolveTicketRequest(mikey_message=b"refuse:" + bytes(65536 - 7))
    batch = focus_pb2.BatchResolveTicketsRequest(requests=[request] * 256)
    results = focus.BatchResolveTickets(batch, timeout=WAIT_SECONDS).results
    assert len(results) == 256
    assert {reason(each.error) for each in results} <= {"AUTHENTICATION_FAILED", "REPLAYED"}


def test_health_and_reflection(channel: grpc.Channel) -> None:
    for service in ("", "kms.client.v1.ClientService", "kms.focus.v1.FocusService"):
        answer = health(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=WAIT_SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    stub: Any = cast(Any, reflection_pb2_grpc).ServerReflectionStub(channel)
    (listed,) = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=WAIT_SECONDS
    )
    names = {service.name for service in listed.list_services_response.service}
    assert {"kms.client.v1.ClientService", "kms.focus.v1.FocusService", "grpc.health.v1.Health"} <= names


def test_metrics_count_calls_and_refusals_and_name_nobody(
    serving: Serving, client: client_pb2_grpc.ClientServiceStub
) -> None:
    name = (
        "kms_frontend_requests_total"
        '{code="UNAUTHENTICATED",method="RequestTicket",service="kms.client.v1.ClientService"}'
    )
    refusals = 'kms_frontend_refusals_total{reason="AUTHENTICATION_FAILED"}'
    before = serving.metrics()
    refused(client, b"refuse:counted")
    after = serving.metrics()
    assert after[name] == before.get(name, 0) + 1
    assert after[refusals] == before.get(refusals, 0) + 1
    assert after['kms_frontend_engines{state="linked"}'] == 2
    assert any(sample.startswith("kms_build_info{") for sample in after)
    assert not any("example.com" in sample for sample in after)


def test_an_unknown_method_leaves_no_trace_in_the_metrics(serving: Serving, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError):
        cast(Any, channel).unary_unary("/kms.client.v1.ClientService/NoSuchMethod")(b"", timeout=WAIT_SECONDS)
    assert not any("NoSuchMethod" in sample for sample in serving.metrics())

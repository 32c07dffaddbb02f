"""The gRPC services. Every method: who calls, answer the messages, a response or a refusal."""

from collections.abc import Mapping, Sequence
from typing import cast

import grpc

from kms.client.v1 import client_pb2, client_pb2_grpc
from kms.engine.v1.link_pb2 import CalledService, Operation
from kms.focus.v1 import focus_pb2, focus_pb2_grpc
from kms.frontend.answering import Answering, Call
from kms.frontend.errors import Refused, refusal, status_of
from kms.frontend.metrics import Metrics

MAX_BATCH = 256

CLIENT = CalledService.CALLED_SERVICE_CLIENT
FOCUS = CalledService.CALLED_SERVICE_FOCUS
REQUEST_TICKET = Operation.OPERATION_REQUEST_TICKET
RESOLVE_TICKET = Operation.OPERATION_RESOLVE_TICKET


class ClientService(client_pb2_grpc.ClientServiceServicer):
    """kms.client.v1.ClientService: participants."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    def RequestTicket(  # noqa: N802
        self, request: client_pb2.RequestTicketRequest, context: grpc.ServicerContext
    ) -> client_pb2.RequestTicketResponse:
        answer = _answer_one(self._answering, CLIENT, REQUEST_TICKET, context, request.mikey_message)
        return client_pb2.RequestTicketResponse(mikey_message=answer)

    def ResolveTicket(  # noqa: N802
        self, request: client_pb2.ResolveTicketRequest, context: grpc.ServicerContext
    ) -> client_pb2.ResolveTicketResponse:
        answer = _answer_one(self._answering, CLIENT, RESOLVE_TICKET, context, request.mikey_message)
        return client_pb2.ResolveTicketResponse(mikey_message=answer)


class FocusService(focus_pb2_grpc.FocusServiceServicer):
    """kms.focus.v1.FocusService: conference foci."""

    def __init__(self, answering: Answering, metrics: Metrics) -> None:
        self._answering = answering
        self._metrics = metrics

    def RequestTicket(  # noqa: N802
        self, request: focus_pb2.RequestTicketRequest, context: grpc.ServicerContext
    ) -> focus_pb2.RequestTicketResponse:
        answer = _answer_one(self._answering, FOCUS, REQUEST_TICKET, context, request.mikey_message)
        return focus_pb2.RequestTicketResponse(mikey_message=answer)

    def ResolveTicket(  # noqa: N802
        self, request: focus_pb2.ResolveTicketRequest, context: grpc.ServicerContext
    ) -> focus_pb2.ResolveTicketResponse:
        answer = _answer_one(self._answering, FOCUS, RESOLVE_TICKET, context, request.mikey_message)
        return focus_pb2.ResolveTicketResponse(mikey_message=answer)

    def BatchResolveTickets(  # noqa: N802
        self, request: focus_pb2.BatchResolveTicketsRequest, context: grpc.ServicerContext
    ) -> focus_pb2.BatchResolveTicketsResponse:
        if len(request.requests) > MAX_BATCH:
            raise Refused(refusal("BATCH_TOO_LARGE"))
        call = Call.start(FOCUS, RESOLVE_TICKET, _tls_identities(context), context.time_remaining())
        outcomes = self._answering.answer(call, [each.mikey_message for each in request.requests])
        response = focus_pb2.BatchResolveTicketsResponse()
        for outcome in outcomes:
            result = response.results.add()
            if outcome.WhichOneof("outcome") == "mikey_message":
                result.mikey_message = outcome.mikey_message
            else:
                self._metrics.refusals.labels(outcome.refusal.reason).inc()
                result.error.CopyFrom(status_of(outcome.refusal, FOCUS))
        return response


def _answer_one(
    answering: Answering,
    called_service: CalledService.ValueType,
    operation: Operation.ValueType,
    context: grpc.ServicerContext,
    message: bytes,
) -> bytes:
    """The response to the one message of a call. Raises Refused."""
    call = Call.start(called_service, operation, _tls_identities(context), context.time_remaining())
    (outcome,) = answering.answer(call, [message])
    if outcome.WhichOneof("outcome") == "refusal":
        raise Refused(outcome.refusal)
    return outcome.mikey_message


def _tls_identities(context: grpc.ServicerContext) -> Sequence[str]:
    """The URIs of the client certificate that TLS has verified. Raises Refused if it has none."""
    # The type stubs have the values wrong: each is a list of bytes.
    peer = cast(Mapping[str, Sequence[bytes]], context.auth_context())
    uris = [uri.decode("ascii") for uri in peer.get("peer_uri", ()) if uri.isascii()]
    if not uris:
        raise Refused(refusal("TLS_IDENTITY_MISSING"))
    return uris

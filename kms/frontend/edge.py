"""The edge of every unary call: its refusal becomes a status, its fault too, and both are counted."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, cast

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from kms import logs
from kms.client.v1 import client_pb2
from kms.engine.v1.link_pb2 import CalledService
from kms.focus.v1 import focus_pb2
from kms.frontend.arrivals import Arrivals
from kms.frontend.errors import Refused, refusal, status_of
from kms.frontend.metrics import Metrics

CLIENT_SERVICE = client_pb2.DESCRIPTOR.services_by_name["ClientService"].full_name
FOCUS_SERVICE = focus_pb2.DESCRIPTOR.services_by_name["FocusService"].full_name

_CALLED_SERVICE = {
    CLIENT_SERVICE: CalledService.CALLED_SERVICE_CLIENT,
    FOCUS_SERVICE: CalledService.CALLED_SERVICE_FOCUS,
}

_log = structlog.get_logger()

# Generic in the type stubs only.
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behavior = Callable[[Any, grpc.ServicerContext], Any]
Decode = Callable[[bytes], Any] | None


class Edge(grpc.ServerInterceptor):
    """Wraps the unary methods that exist; calls of unknown methods leave no trace in the metrics' labels."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._arrivals = Arrivals()
        self._handlers: dict[str, MethodHandler] = {}

    def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], MethodHandler | None]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "MethodHandler | None":
        known = self._handlers.get(handler_call_details.method)
        if known is not None:
            return known
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        # As a stream of one request, on the wire the same: so that it is received here, in bounded time.
        wrapped: MethodHandler = grpc.stream_unary_rpc_method_handler(
            self._wrap(handler_call_details.method, handler.unary_unary, handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
        self._handlers[handler_call_details.method] = wrapped
        return wrapped

    def _wrap(self, full_method: str, behavior: Behavior, decode: Decode) -> Behavior:
        service, method = full_method.strip("/").split("/")
        called_service = _CALLED_SERVICE.get(service, CalledService.CALLED_SERVICE_UNSPECIFIED)
        metrics = self._metrics
        duration = metrics.duration.labels(service, method)

        def call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Any:
            started = time.perf_counter()
            try:
                try:
                    raw = self._arrivals.receive(requests, context)
                    started = time.perf_counter()
                    return behavior(_decoded(decode, raw), context)
                except grpc.RpcError:
                    # The call ended before its request was here; grpc knows.
                    context.set_code(grpc.StatusCode.CANCELLED)
                    raise
                except Refused as error:
                    refused = error.refusal
                except Exception as error:  # noqa: BLE001 - its text must not reach the caller, as grpc would have it
                    _log.error("fault while answering a call", method=full_method, **logs.where(error))
                    refused = refusal("FRONTEND_FAULT")
                metrics.refusals.labels(refused.reason).inc()
                # Raises: grpc ends the call here.
                context.abort_with_status(rpc_status.to_status(status_of(refused, called_service)))
            finally:
                duration.observe(time.perf_counter() - started)
                # code() is missing from the type stubs; None means that nothing went wrong.
                code: grpc.StatusCode = cast(Any, context).code() or grpc.StatusCode.OK
                metrics.requests.labels(service, method, code.name).inc()

        return call


def _decoded(decode: Decode, raw: bytes) -> Any:
    try:
        return decode(raw) if decode else raw
    except DecodeError:
        raise Refused(refusal("REQUEST_MALFORMED")) from None

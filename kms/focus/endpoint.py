"""FocusService as a BatchEndpoint."""

from collections.abc import Sequence

from kms.focus.v1 import focus_pb2, focus_pb2_grpc
from kms.party.credential import Credential
from kms.sdk.endpoint import Connection
from kms.sdk.errors import KmsError, KmsFault, of_status


class FocusEndpoint:
    """A KMS's FocusService over gRPC with mutual TLS."""

    def __init__(self, credential: Credential, *, timeout: float = 5.0) -> None:
        """`timeout` is in seconds, for each call. Raises CredentialError."""
        self._connection = Connection(credential, timeout=timeout)
        self._stub = focus_pb2_grpc.FocusServiceStub(self._connection.channel)

    def request_ticket(self, message: bytes) -> bytes:
        """See Endpoint."""
        request = focus_pb2.RequestTicketRequest(mikey_message=message)
        return self._connection.call(self._stub.RequestTicket, request).mikey_message

    def resolve_ticket(self, message: bytes) -> bytes:
        """See Endpoint."""
        request = focus_pb2.ResolveTicketRequest(mikey_message=message)
        return self._connection.call(self._stub.ResolveTicket, request).mikey_message

    def resolve_tickets(self, messages: Sequence[bytes]) -> list[bytes | KmsError]:
        """See BatchEndpoint."""
        request = focus_pb2.BatchResolveTicketsRequest(
            requests=[focus_pb2.ResolveTicketRequest(mikey_message=message) for message in messages]
        )
        results = self._connection.call(self._stub.BatchResolveTickets, request).results
        if len(results) != len(messages):
            raise KmsFault(f"the KMS answered {len(results)} of {len(messages)} messages of a batch")
        return [
            r.mikey_message if r.WhichOneof("result") == "mikey_message" else of_status(r.error)
            for r in results
        ]

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

"""ClientService as an Endpoint."""

from kms.client.v1 import client_pb2, client_pb2_grpc
from kms.party.credential import Credential
from kms.sdk.endpoint import Connection


class ClientEndpoint:
    """A KMS's ClientService over gRPC with mutual TLS."""

    def __init__(self, credential: Credential, *, timeout: float = 5.0) -> None:
        """`timeout` is in seconds, for each call. Raises CredentialError."""
        self._connection = Connection(credential, timeout=timeout)
        self._stub = client_pb2_grpc.ClientServiceStub(self._connection.channel)

    def request_ticket(self, message: bytes) -> bytes:
        """See Endpoint."""
        request = client_pb2.RequestTicketRequest(mikey_message=message)
        return self._connection.call(self._stub.RequestTicket, request).mikey_message

    def resolve_ticket(self, message: bytes) -> bytes:
        """See Endpoint."""
        request = client_pb2.ResolveTicketRequest(mikey_message=message)
        return self._connection.call(self._stub.ResolveTicket, request).mikey_message

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

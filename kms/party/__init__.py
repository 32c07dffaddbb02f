"""The Initiator and the Responder of RFC 6043 with their keys, without network: what both SDKs share."""

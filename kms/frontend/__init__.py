"""The network-facing process: gRPC over mutual TLS, replay reservation, the pool of engines, metrics.

It has no PIN, no PKCS#11 and no MIKEY key; MIKEY messages pass through it as bytes.
"""

import os

# Before grpc is imported anywhere: it writes a line of its own format for every failed TLS handshake.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

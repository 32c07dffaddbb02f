"""The supervisor: starts frontends and engines by exec, links them, replaces what dies. No network, no token."""

from kms.supervisor.serve import serve

__all__ = ["serve"]

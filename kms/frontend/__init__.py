"""Network-facing process: gRPC over mTLS, replay reservations and quotas. Has no PIN and no token."""

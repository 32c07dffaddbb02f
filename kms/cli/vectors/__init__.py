"""`kms vectors`: conformance vectors, played by the real code in every role, and written (docs/vectors.md)."""

"""The engine: parses, authenticates, decides and answers MIKEY messages with keys that stay in the token."""

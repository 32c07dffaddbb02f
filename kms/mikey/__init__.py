"""MIKEY-TICKET as a protocol: codec, labels, policies, exchange rules. Sans-IO, sans-key, standard library only."""

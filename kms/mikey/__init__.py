"""MIKEY-TICKET as a protocol: codec, labels, policies and exchange rules. Sans-IO and sans-key; standard library only."""

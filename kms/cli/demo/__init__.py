"""`kms demo`: a conference on a KMS of its own, with real SRTP, and attacks on it.

`kms.cli.stage` sets the KMS up and runs it; `play` is the conference, `media` the SRTP, `attacks` what must fail,
`show` the output.
"""

from kms.cli.demo.command import demo_command

__all__ = ["demo_command"]

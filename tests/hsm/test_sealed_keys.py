"""A KEMAC that does not open is the sender's fault and never one of the token."""

import pytest

from kms.crypto.interface import KeyOperations, Use
from kms.crypto.protection import unseal
from kms.mikey.errors import ProtocolError
from kms.mikey.payloads import Kemac
from kms.mikey.registry import EncrAlg, ErrorNo


@pytest.mark.parametrize("encr_data", [b"", bytes(23), bytes(24), bytes(33), bytes(64)])
def test_a_key_wrap_that_does_not_open_is_refused(ops: KeyOperations, encr_data: bytes) -> None:
    with ops.scope():
        key = ops.load(bytes(16), Use.DECRYPT)
        with pytest.raises(ProtocolError, match="KEMAC cannot be decrypted") as refusal:
            unseal(ops, key, EncrAlg.AES_KW_128, bytes(8), Kemac(EncrAlg.AES_KW_128, encr_data))
    assert refusal.value.error_no is ErrorNo.INVALID_EA

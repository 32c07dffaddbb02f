"""What the participant SDK and the focus SDK share above kms.party: the connection to the KMS, calls and streams."""

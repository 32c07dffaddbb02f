"""Generated stubs of kms.client.v1: made by `./dev proto`, never edited."""

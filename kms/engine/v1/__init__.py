"""Generated stubs of kms.engine.v1: made by `./dev proto`, never edited."""

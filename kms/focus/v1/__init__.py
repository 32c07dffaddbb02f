"""Generated stubs of kms.focus.v1: made by `./dev proto`, never edited."""

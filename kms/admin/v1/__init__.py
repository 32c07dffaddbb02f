"""Generated stubs of kms.admin.v1: made by `./dev proto`, never edited."""

"""The `kms` command: what operators type. `main` names the commands; one module holds each."""

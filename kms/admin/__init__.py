"""The messages of the local admin socket, which the `kms` command and the engines share."""

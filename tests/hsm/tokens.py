"""The tokens under test and their PINs."""

TOKENS = ("softhsm", "nss", "opencryptoki")
# opencryptoki takes PINs of 4 to 8 bytes.
PIN = b"user-pin"
SO_PIN = b"so-pin-1"

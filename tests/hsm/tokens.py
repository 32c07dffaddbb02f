"""The tokens under test and their PINs."""

PIN = b"user pin 123456"
SO_PIN = b"so pin 654321"
TOKENS = ("softhsm", "nss")

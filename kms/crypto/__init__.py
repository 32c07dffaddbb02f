"""The key operations that MIKEY-TICKET needs: their interface, and the software implementation that the SDKs use."""

"""What both ends agree on: bytes to values and back, without keys."""

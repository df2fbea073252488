"""The server: keeps what it cannot read."""

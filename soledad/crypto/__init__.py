"""What only key holders do: bytes to bytes."""

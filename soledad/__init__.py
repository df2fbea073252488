"""Synchronization Of Locally Encrypted Documents Among Devices."""

"""Copying between the two stores of a device, the local one and the server: what to do, and doing it."""

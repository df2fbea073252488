"""Tests of what a device does with the server by itself."""

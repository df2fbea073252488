"""Tests of what goes between a device and its server."""

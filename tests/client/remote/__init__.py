"""Tests of what speaks with the server."""

"""Tests of what both ends agree on."""

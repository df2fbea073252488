"""Tests of `soledad.model`."""

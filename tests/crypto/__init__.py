"""Tests of what key holders do."""

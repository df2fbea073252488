"""Tests of the copying between the two stores of a device."""

"""The tests; the folders mirror those of soledad."""

from tests.limits import load_profile

load_profile()

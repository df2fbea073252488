"""
How much is tried: little and the same each time in ``make test``, much and at random in ``make test-long``.

A test with a bound of its own takes it from here, so that one variable of the environment raises all::

    @settings(max_examples=examples(100))
    @given(st.binary())
    def test_any_content(self, content: bytes) -> None: ...

    for attempt in range(rounds(50)): ...

The long run takes about half an hour on two quiet cores, and no test of it more than five minutes.  So whatever grows
with the square of its rounds is begun anew after some.  ``make test-long TESTS=tests.client.sync.test_model`` runs one.

The Hypothesis profile is in force as soon as anything of the package ``tests`` is imported.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

#: Whether the long run was asked for: ``SOLEDAD_TEST_LONG=1``.
LONG = os.environ.get("SOLEDAD_TEST_LONG") == "1"

#: How many times longer the long run tries.
FACTOR = 20


def examples(usual: int) -> int:
    """Return how many examples Hypothesis tries where a quick run tries ``usual``."""
    return usual * FACTOR if LONG else usual


def rounds(usual: int) -> int:
    """Return how often a loop that kills, closes or cancels goes round where a quick run does ``usual``."""
    return usual * FACTOR if LONG else usual


def seconds(usual: float) -> float:
    """Return how long (seconds) a test may take before it is given up, where a quick run gives up at ``usual``."""
    return usual * FACTOR if LONG else usual


def load_profile() -> None:
    """
    Set what every ``@given`` starts from.

    Nothing is timed: other work on the machine must not fail a test.  The quick run tries the same
    examples each time; the long one new ones, and prints what reproduces a failure.
    """
    settings.register_profile(
        "soledad",
        derandomize=not LONG,
        deadline=None,
        max_examples=examples(100),
        print_blob=LONG,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("soledad")

"""What a failure means, and when to try again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad import errors as e
from soledad.client.sync.retry import LATE, SOON, Backoff, Remedy, pause_after, reason_of, remedy
from soledad.model.transfer import Direction

R, UP, DOWN, GO = Remedy, Direction.UPLOAD, Direction.DOWNLOAD, Direction.DELETE

#: Error, and what follows on the way up, on the way down, and for a deletion.
CASES: tuple[tuple[e.SoledadError, Remedy, Remedy, Remedy], ...] = (
    (e.ConnectionFailed(), R.AGAIN, R.AGAIN, R.AGAIN),
    (e.TransferTimeout(), R.AGAIN, R.AGAIN, R.AGAIN),
    (e.ServerFailed(503), R.AGAIN, R.AGAIN, R.AGAIN),
    (e.Unauthorized(), R.STOP, R.STOP, R.STOP),
    (e.Forbidden(), R.STOP, R.STOP, R.STOP),
    (e.InsecureServer(), R.STOP, R.STOP, R.STOP),
    (e.KeyringChanged(), R.SEND_NO_MORE, R.SEND_NO_MORE, R.SEND_NO_MORE),
    (e.KeyringRolledBack(1, 2), R.SEND_NO_MORE, R.SEND_NO_MORE, R.SEND_NO_MORE),
    (e.MalformedKeyring("magic"), R.SEND_NO_MORE, R.SEND_NO_MORE, R.SEND_NO_MORE),
    (e.QuotaExceeded(), R.LATER, R.LATER, R.LATER),
    (e.StorageFull(), R.LATER, R.LATER, R.LATER),
    (e.StorageFailed(), R.LATER, R.LATER, R.LATER),
    (e.BlobNotFound("a", "n"), R.AGAIN, R.AWAIT, R.AGAIN),
    (e.BlobExists("a", "n"), R.GIVE_UP, R.AGAIN, R.AGAIN),
    (e.BlobBusy("a", "n"), R.AGAIN, R.AGAIN, R.AGAIN),
    (e.TooLarge(), R.GIVE_UP, R.AGAIN, R.AGAIN),
    (e.WrongOffset(), R.AGAIN, R.AGAIN, R.AGAIN),
    (e.AuthenticationFailed(), R.AGAIN, R.VERIFY, R.AGAIN),
    (e.MalformedContainer("size"), R.AGAIN, R.VERIFY, R.AGAIN),
    (e.UnexpectedAnswer(), R.AGAIN, R.VERIFY, R.AGAIN),
    (e.UnsatisfiableRange(), R.AGAIN, R.VERIFY, R.AGAIN),
    (e.UnknownKey("00"), R.LATER, R.LATER, R.LATER),
)


class RemedyTests(SynchronousTestCase):
    """Source: docs/spec/blob-sync.rst, "Failures"."""

    def test_table(self) -> None:
        """Each failure, each way."""
        for error, up, down, deletion in CASES:
            for direction, expected in ((UP, up), (DOWN, down), (GO, deletion)):
                self.assertIs(remedy(error, direction), expected, f"{error!r} {direction}")

    def test_pauses(self) -> None:
        """What takes somebody to change something waits for longer."""
        self.assertEqual(pause_after(e.ConnectionFailed(), UP, 0, 1.0), SOON.first)
        for error in (e.QuotaExceeded(), e.KeyringChanged()):
            self.assertEqual(pause_after(error, UP, 0, 1.0), LATE.first)

    def test_reason(self) -> None:
        """What is kept names the error, and is not long."""
        self.assertIn("QuotaExceeded", reason_of(e.QuotaExceeded(5, 3)))
        self.assertLessEqual(len(reason_of(e.ConnectionFailed("x" * 10_000))), 500)


class BackoffTests(SynchronousTestCase):
    """Pauses."""

    def test_doubles(self) -> None:
        """Twice as long each time, up to the longest."""
        backoff = Backoff(2.0, 60.0)
        self.assertEqual([backoff.pause(attempts, 1.0) for attempts in range(7)], [2, 4, 8, 16, 32, 60, 60])

    @given(st.integers(0, 10**6), st.floats(0, 1))
    def test_bounds(self, attempts: int, chance: float) -> None:
        """Chance has half of it, whatever the number of attempts."""
        whole = SOON.pause(attempts, 1.0)
        self.assertTrue(whole / 2 <= SOON.pause(attempts, chance) <= whole <= SOON.longest)

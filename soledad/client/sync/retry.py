"""
What a failure of a transfer means for it, and when to try again: plain functions; the clock is somebody else's.

Source: docs/spec/blob-sync.rst, "Failures".
"""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from soledad.errors import (
    BlobExists,
    BlobNotFound,
    CryptoError,
    Forbidden,
    InsecureServer,
    KeyringError,
    NoServer,
    QuotaExceeded,
    SoledadError,
    StorageFailed,
    StorageFull,
    TooLarge,
    Unauthorized,
    UnexpectedAnswer,
    UnknownKey,
    UnsatisfiableRange,
    UsageError,
)
from soledad.model.transfer import Direction

#: Verifications that may fail before a download is given up.
REJECTIONS = 3
#: Failures of a connection, one after the other, after which the others are not tried any more.
IN_A_ROW = 3


class Remedy(Enum):
    """What to do about a failure."""

    #: Try again soon.
    AGAIN = "AGAIN"
    #: Try again when something may have changed: there is no room, or a key is missing.
    LATER = "LATER"
    #: Wait for it to come to the server.
    AWAIT = "AWAIT"
    #: It failed verification: a few more times.
    VERIFY = "VERIFY"
    #: The server takes it no more.
    GIVE_UP = "GIVE_UP"
    #: Nothing else that is to be sent would go better, what is to come may: tell the application after that.
    SEND_NO_MORE = "SEND_NO_MORE"
    #: Nothing else would go better: tell the application.
    STOP = "STOP"


_STOP = (Unauthorized, Forbidden, InsecureServer, NoServer)
_LATER = (QuotaExceeded, StorageFull, StorageFailed, UnknownKey)


def remedy(error: SoledadError, direction: Direction) -> Remedy:
    """Say what to do about an error."""
    if isinstance(error, _STOP):
        return Remedy.STOP
    if isinstance(error, KeyringError):
        # Other devices could not read it.
        return Remedy.SEND_NO_MORE
    if isinstance(error, _LATER):
        return Remedy.LATER
    if direction is Direction.DOWNLOAD:
        return _of_download(error)
    if isinstance(error, BlobExists | TooLarge | UsageError) and direction is Direction.UPLOAD:
        return Remedy.GIVE_UP
    return Remedy.AGAIN


def _of_download(error: SoledadError) -> Remedy:
    if isinstance(error, BlobNotFound):
        return Remedy.AWAIT
    if isinstance(error, CryptoError | UnexpectedAnswer | UnsatisfiableRange):
        return Remedy.VERIFY
    return Remedy.AGAIN


@frozen
class Backoff:
    """Pauses (seconds) that double, up to the longest."""

    first: float
    longest: float

    def pause(self, attempts: int, chance: float) -> float:
        """
        Return how long to wait.

        :param attempts: how often it was tried before.
        :param chance: from 0 to 1: half of the pause is left to it, so that devices do not come all at once.
        """
        pause = min(self.longest, self.first * 2.0 ** min(attempts, 30))
        return pause * (0.5 + chance / 2)


#: After what may be over at any moment, and after what takes somebody to change something.
SOON = Backoff(2.0, 15 * 60.0)
LATE = Backoff(60.0, 60 * 60.0)


def pause_after(error: SoledadError, direction: Direction, attempts: int, chance: float) -> float:
    """Return how long (seconds) a transfer that failed is to wait."""
    backoff = LATE if remedy(error, direction) in (Remedy.LATER, Remedy.SEND_NO_MORE) else SOON
    return backoff.pause(attempts, chance)


def reason_of(error: BaseException | None) -> str:
    """Return what a row keeps of an error."""
    return f"{type(error).__name__}: {error}"[:500]

"""
What a device finds when a server does not tell the truth, and what it does then.

Source: docs/spec/documents-sync.rst, "What is found".
"""

from __future__ import annotations

from enum import Enum, IntEnum

from attrs import frozen

from soledad.model.ids import DocId, RecordName


class IncidentKind(IntEnum):
    """What was found; the numbers are those of checkpoints."""

    #: A record that is older than the one that was there before, or denies it.
    RECORD_BACK = 1
    #: A record that does not open under its name: altered, invented, or of another place.
    RECORD_FORGED = 2
    #: An older state of everything, or none where there was one.
    STATE_BACK = 3
    #: The records are not those of the checkpoint: some are withheld, dropped, added, or of another time.
    STATE_DIFFERS = 4
    #: Another history: it was shown to other devices as this one was shown here.
    HISTORY_SPLIT = 5
    #: What this device had stored there is not in the state that is shown.
    COMMITS_MISSING = 6
    #: The statement of what the state is does not open.
    CHECKPOINT_FORGED = 7
    #: The keyring on the server is older than the one that the checkpoint names.
    KEYRING_BACK = 8
    #: Somebody said that the server was restored from a backup; this is no accusation.
    RESTARTED = 9


class TamperPolicy(Enum):
    """What to do when the server was found not to tell the truth.  Local reads and writes always work."""

    #: Report it, and go on: what is missing there is sent again.
    WARN = "warn"
    #: Report it, take what is genuine, and send nothing until the server shows its true state again.
    READ_ONLY = "read-only"
    #: Report it, and neither take nor send anything.
    REFUSE = "refuse"


@frozen
class Incident:
    """Something that a device has found."""

    kind: IncidentKind
    #: Seconds since 1970, by the clock of the device that found it.
    time: int
    #: The replica id of the store that found it.
    device: str
    #: The record that it is about, if it is about one; other devices are not told.
    name: RecordName | None = None
    #: The document, as far as it is known here.
    doc_id: DocId | None = None


class Reason(Enum):
    """Why a document takes no part in a sync."""

    #: The server's record of it is older than the one that was there before.
    OLDER = "older"
    #: The server's record does not open: it was altered, or is of another place.
    FORGED = "forged"
    #: The server's record is sealed under a key that this keyring does not have yet.
    UNKNOWN_KEY = "unknown-key"
    #: It is too large to be sent.
    TOO_BIG = "too-big"


#: What is found when a record is set aside for a reason; the others are no fault of the server.
FOUND = {Reason.OLDER: IncidentKind.RECORD_BACK, Reason.FORGED: IncidentKind.RECORD_FORGED}


@frozen
class Problem:
    """A record that is set aside: it is not taken, and nothing is sent in its place."""

    reason: Reason
    name: RecordName
    #: The document, as far as it is known here.
    doc_id: DocId | None = None
    #: Of the record that is set aside.
    hash: bytes = b""


@frozen
class News:
    """When a store of this user has last been heard of."""

    #: Its replica id.
    device: str
    #: Seconds since 1970, by its own clock: when it made its last commit.
    time: int
    #: How many commits it has made.
    count: int
    #: Whether it is this one.
    is_this: bool = False

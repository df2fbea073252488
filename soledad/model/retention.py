"""
How long the bytes of what nothing refers to are kept, and what becomes of them then: the rules.

Source: docs/spec/store.rst, "Collecting".
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from attrs import field, frozen

from soledad.model.attachment import Pointer
from soledad.model.blob import SyncStatus
from soledad.model.ids import BlobId

#: Seconds that a condemned blob is kept.
GRACE = 30 * 24 * 3600.0
#: Seconds that count as over between two runs of the collector, at most: a clock that jumps deletes nothing.
LONGEST = 24 * 3600.0

#: Statuses of what the server has for all that is known.
ON_SERVER = frozenset({SyncStatus.SYNCED, SyncStatus.REMOTE, SyncStatus.PENDING_DOWNLOAD, SyncStatus.FAILED_DOWNLOAD})


def counted(last: float | None, now: float) -> float:
    """
    Return how many seconds count as over.

    :param last: what the clock showed at the last run; `None`: there was none.
    :param now: what it shows.
    """
    return 0.0 if last is None else min(max(now - last, 0.0), LONGEST)


@frozen
class Condemned:
    """An attachment that nothing refers to, as its row tells."""

    #: The number of its row.
    id: int
    blob_id: BlobId
    status: SyncStatus
    #: Whether nobody but this device answers for what the server has of it.
    ours: bool


@frozen
class Referring:
    """What the documents of this device say of some blobs."""

    #: For each blob that a version refers to, a pointer to it.
    pointers: Sequence[Pointer] = ()
    #: Those that a version written here refers to no more.
    dropped: Set[BlobId] = frozenset()


@frozen
class Plan:
    """What is to be done with condemned blobs whose time is over; those in none of the lists are let be."""

    #: They are referred to after all.
    revived: list[Pointer] = field(factory=list)
    #: They go here, and are to be deleted on the server.
    deleted: list[BlobId] = field(factory=list)
    #: They go here; on the server they are another device's affair, or never were.
    forgotten: list[BlobId] = field(factory=list)

    @property
    def collected(self) -> list[BlobId]:
        """All that go."""
        return self.deleted + self.forgotten


def plan(due: Sequence[Condemned], referring: Referring, held: Set[BlobId], online: bool) -> Plan:
    """
    Decide about condemned blobs whose grace period is over.

    :param held: what objects in memory point at: a document that is yet to be saved may be among them.
    :param online: whether this store has a server; one without deletes there only what it knows to be there.
    """
    made, pointers = Plan(), {pointer.blob_id: pointer for pointer in referring.pointers}
    for one in due:
        if one.blob_id in pointers:
            made.revived.append(pointers[one.blob_id])
        elif one.blob_id in held:
            continue
        elif _answers_for(one, referring) and (online or one.status in ON_SERVER):
            made.deleted.append(one.blob_id)
        else:
            made.forgotten.append(one.blob_id)
    return made


def _answers_for(one: Condemned, referring: Referring) -> bool:
    return one.ours or one.blob_id in referring.dropped

"""What the queue of transfers says of a blob, and what a list of the server's means for one."""

from __future__ import annotations

from collections.abc import Set
from enum import Enum

from attrs import frozen

from soledad.model.blob import BlobInfo, BlobKey, Priority, Sealed, SyncEvent, SyncStatus
from soledad.model.ids import ATTACHMENTS


class Direction(Enum):
    """What a transfer does."""

    UPLOAD = "UPLOAD"
    DOWNLOAD = "DOWNLOAD"
    DELETE = "DELETE"


#: What the queue does about a blob of each status; the others are not in it.
DIRECTIONS = {
    SyncStatus.PENDING_UPLOAD: Direction.UPLOAD,
    SyncStatus.PENDING_DOWNLOAD: Direction.DOWNLOAD,
    SyncStatus.AWAITED: Direction.DOWNLOAD,
    SyncStatus.PENDING_DELETE: Direction.DELETE,
}


@frozen
class Queued:
    """A blob as the queue has it."""

    key: BlobKey
    status: SyncStatus
    priority: Priority
    sealed: Sealed
    #: The tag of the container on the server, as far as it is known.
    etag: str | None = None
    #: The name of an upload that the server keeps.
    upload: str | None = None
    #: The name of the file with what has come so far.
    partial: str | None = None
    #: How often it was tried in vain since it last went well, and how often it failed verification.
    attempts: int = 0
    rejections: int = 0
    #: The commitment of what has to be deleted on the server first.
    replaces: bytes | None = None

    @property
    def direction(self) -> Direction | None:
        """What is to be done, if anything is."""
        return DIRECTIONS.get(self.status)


class Finding(Enum):
    """What an entry of a list means for the blob of the same id on this device."""

    #: Nothing: it is as it was.
    NOTHING = "NOTHING"
    #: There is a blob that this device did not know.
    NEW = "NEW"
    #: The server has this very blob.
    CONFIRMED = "CONFIRMED"
    #: The server has something under its id; only its header tells whether it is this blob.
    UNCERTAIN = "UNCERTAIN"
    #: The server does not have it, and nobody who has the keys said that it is to go.
    MISSED = "MISSED"
    #: The user deleted it.
    GONE = "GONE"
    #: The user deleted it, and something else is there now.
    REPLACED = "REPLACED"


_ABSENT = frozenset({SyncStatus.REMOTE, SyncStatus.AWAITED, SyncStatus.PENDING_DOWNLOAD, SyncStatus.FAILED_DOWNLOAD})
#: Statuses in which it does not matter what the server has: it is to stay here only, or to go.
_INDIFFERENT = frozenset({SyncStatus.LOCAL_ONLY, SyncStatus.UNREFERENCED})


def find(row: Queued | None, entry: BlobInfo, deleted: Set[bytes]) -> Finding:
    """
    Compare an entry with what this device has; the server alone makes nothing go.

    :param deleted: the commitments that the entry's tombstone names; empty, if keys did not open it.
    """
    if entry.namespace == ATTACHMENTS:
        return _find_attachment(row, entry)
    if row is None:
        return Finding.NOTHING if entry.deleted else Finding.NEW
    if row.status in _INDIFFERENT:
        return Finding.NOTHING
    return _find_deleted(row, deleted) if entry.deleted else _find_live(row, entry, deleted)


def _find_attachment(row: Queued | None, entry: BlobInfo) -> Finding:
    """Documents say which attachments there are, and which are to go: a list says only what the server has."""
    if row is None or row.status in _INDIFFERENT or row.status is SyncStatus.PENDING_DELETE:
        return Finding.NOTHING
    if entry.deleted:
        return Finding.MISSED
    # What has not gone there yet is compared when it does.
    return Finding.NOTHING if row.status is SyncStatus.PENDING_UPLOAD else Finding.CONFIRMED


def _find_deleted(row: Queued, deleted: Set[bytes]) -> Finding:
    if row.status is SyncStatus.PENDING_DELETE:
        return Finding.GONE
    if row.replaces is not None and row.replaces in deleted:
        return Finding.MISSED
    is_named = row.sealed.commitment in deleted if row.sealed.is_known else bool(deleted)
    return Finding.GONE if is_named else Finding.MISSED


def _find_live(row: Queued, entry: BlobInfo, deleted: Set[bytes]) -> Finding:
    if row.etag == entry.etag:
        return Finding.CONFIRMED
    if row.status in _ABSENT:
        # There are no bytes to lose here.
        return Finding.REPLACED if row.etag is not None or not row.sealed.is_known else Finding.UNCERTAIN
    if row.status is not SyncStatus.SYNCED:
        # What has not gone there yet is compared when it does, and what is to be deleted, then.
        return Finding.REPLACED if row.sealed.commitment in deleted else Finding.NOTHING
    return Finding.REPLACED if row.sealed.commitment in deleted else Finding.UNCERTAIN


#: What happens to a blob by what was found.
EVENTS = {
    Finding.CONFIRMED: SyncEvent.CONFIRMED,
    Finding.MISSED: SyncEvent.MISSED,
    Finding.REPLACED: SyncEvent.REPLACED,
}

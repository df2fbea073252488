"""
What a blob is: its place, a range of it, the marks it bears, and how its copies stand to each other.

Source of the status table: docs/spec/blob-status.rst.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from attrs import frozen

from soledad.errors import InvalidRange
from soledad.model.ids import BlobId, Namespace


@frozen
class ByteRange:
    """``length`` bytes from ``start`` on; without a length, all that follow."""

    start: int = 0
    length: int | None = None

    def within(self, size: int) -> tuple[int, int]:
        """
        Return start and stop (not included) in something of ``size`` bytes.

        A range that ends behind the end is cut there; one that begins behind the end is an error.

        :raise InvalidRange: negative numbers, or a start behind the end.
        """
        if self.start < 0 or (self.length is not None and self.length < 0) or self.start > size:
            raise InvalidRange(self.start, self.length, size)
        stop = size if self.length is None else min(size, self.start + self.length)
        return self.start, stop


#: All of it.
WHOLE = ByteRange()


@frozen
class BlobKey:
    """What a blob is known by."""

    namespace: Namespace
    blob_id: BlobId


@frozen
class Sealed:
    """A container, without its bytes."""

    #: Bytes of the data in it, and of itself.
    length: int
    size: int
    #: Its first bytes, if they are known.
    header: bytes | None
    #: What authenticates every byte of it.
    commitment: bytes

    @classmethod
    def unseen(cls, size: int) -> Sealed:
        """Return what is known of a container that only a list told of."""
        return cls(-1, size, None, b"")

    @property
    def is_known(self) -> bool:
        """Whether it is known which bytes are the right ones; else the keys have to say so."""
        return bool(self.commitment)


class Flag(Enum):
    """A mark that the server keeps on a blob, for deliveries that wait to be processed."""

    PENDING = "PENDING"
    PROCESSING = "PROCESSING"
    PROCESSED = "PROCESSED"
    FAILED = "FAILED"


class Priority(IntEnum):
    """What goes first when several blobs wait."""

    LOW = 1
    MEDIUM = 2
    HIGH = 3
    URGENT = 4


@frozen
class BlobInfo:
    """What the server tells of a blob, without its bytes."""

    blob_id: BlobId
    namespace: Namespace
    #: Stored bytes.
    length: int
    #: SHA-256 of the stored bytes, in hex.
    etag: str
    flags: tuple[Flag, ...] = ()
    #: The user's change number at its last change.
    changed: int = 0
    deleted: bool = False
    #: The sealed tombstone that a deletion left, if one came with it.
    tombstone: bytes | None = None


class SyncStatus(Enum):
    """Where the bytes of a blob are, as far as this device knows, and what is to be done about it."""

    #: Put, but its document was not saved: here only, and not queued.
    UNREFERENCED = "UNREFERENCED"
    #: Here, and to stay here.
    LOCAL_ONLY = "LOCAL_ONLY"
    #: Here, and to go to the server.
    PENDING_UPLOAD = "PENDING_UPLOAD"
    #: Here and on the server.
    SYNCED = "SYNCED"
    #: Known to be on the server, no bytes here.
    REMOTE = "REMOTE"
    #: Referred to, no bytes here, not known to be on the server.
    AWAITED = "AWAITED"
    #: On the server, and to come here.
    PENDING_DOWNLOAD = "PENDING_DOWNLOAD"
    #: To be deleted on the server.
    PENDING_DELETE = "PENDING_DELETE"
    #: Here; the server would not take it, and trying again by itself is over.
    FAILED_UPLOAD = "FAILED_UPLOAD"
    #: What the server has failed verification too often.
    FAILED_DOWNLOAD = "FAILED_DOWNLOAD"

    @property
    def is_local(self) -> bool:
        """Tell whether the whole container is on this device."""
        return self in _LOCAL


@frozen
class KnownBlob:
    """What this device knows of a blob."""

    key: BlobKey
    status: SyncStatus
    sealed: Sealed


_LOCAL = frozenset(
    {
        SyncStatus.UNREFERENCED,
        SyncStatus.LOCAL_ONLY,
        SyncStatus.PENDING_UPLOAD,
        SyncStatus.SYNCED,
        SyncStatus.FAILED_UPLOAD,
    }
)


def is_taken(status: SyncStatus, sealed: Sealed) -> bool:
    """
    Tell whether nothing else may be put under the id of a blob that has a row.

    A blob that is nowhere to be found keeps its id, as another device may have it; but for one that nobody who has the
    keys ever told of, only a list.
    """
    if status is SyncStatus.AWAITED:
        return sealed.is_known
    return status is not SyncStatus.PENDING_DELETE


class SyncEvent(Enum):
    """What happens to a blob."""

    #: A saved document (or the application) wants it kept and sent.
    REFERENCED = "REFERENCED"
    #: The application wants it on this device only.
    KEPT_LOCAL = "KEPT_LOCAL"
    #: The server has it, whole: an upload ended well, or it said so.
    CONFIRMED = "CONFIRMED"
    #: The server does not have it.
    MISSED = "MISSED"
    #: The server takes it no more, for a reason that repeating does not mend.
    REFUSED = "REFUSED"
    #: Its bytes are wanted here.
    WANTED = "WANTED"
    #: Its bytes came, were verified, and are durable here.
    ARRIVED = "ARRIVED"
    #: What came failed verification for the last time.
    REJECTED = "REJECTED"
    #: Its bytes here are dropped; the server has them.
    EVICTED = "EVICTED"
    #: Its bytes here are gone, and nobody meant it: the file is missing.
    LOST = "LOST"
    #: It is to be deleted on the server, and here.
    DELETED = "DELETED"
    #: The application or the engine starts over after a failure.
    RETRIED = "RETRIED"
    #: The application puts something under its id, which was free again (`is_taken`).
    PUT = "PUT"
    #: Its bytes are wanted here no more.
    UNWANTED = "UNWANTED"
    #: The user deleted it, and something else is on the server under its id.
    REPLACED = "REPLACED"


_S, _E = SyncStatus, SyncEvent

#: (status, event) -> status.  A pair that is missing is a bug of the caller, not a no-op.
TRANSITIONS: dict[tuple[SyncStatus, SyncEvent], SyncStatus] = {
    (_S.UNREFERENCED, _E.REFERENCED): _S.PENDING_UPLOAD,
    (_S.UNREFERENCED, _E.KEPT_LOCAL): _S.LOCAL_ONLY,
    (_S.UNREFERENCED, _E.CONFIRMED): _S.SYNCED,
    (_S.UNREFERENCED, _E.MISSED): _S.UNREFERENCED,
    (_S.UNREFERENCED, _E.REFUSED): _S.UNREFERENCED,
    (_S.UNREFERENCED, _E.LOST): _S.AWAITED,
    (_S.UNREFERENCED, _E.DELETED): _S.PENDING_DELETE,
    (_S.LOCAL_ONLY, _E.REFERENCED): _S.LOCAL_ONLY,
    (_S.LOCAL_ONLY, _E.KEPT_LOCAL): _S.LOCAL_ONLY,
    # It stays here for ever, whatever the server has: until the application says otherwise.
    (_S.LOCAL_ONLY, _E.CONFIRMED): _S.LOCAL_ONLY,
    (_S.LOCAL_ONLY, _E.MISSED): _S.LOCAL_ONLY,
    (_S.LOCAL_ONLY, _E.RETRIED): _S.PENDING_UPLOAD,
    (_S.LOCAL_ONLY, _E.LOST): _S.AWAITED,
    (_S.LOCAL_ONLY, _E.DELETED): _S.PENDING_DELETE,
    (_S.PENDING_UPLOAD, _E.REFERENCED): _S.PENDING_UPLOAD,
    (_S.PENDING_UPLOAD, _E.KEPT_LOCAL): _S.LOCAL_ONLY,
    (_S.PENDING_UPLOAD, _E.CONFIRMED): _S.SYNCED,
    (_S.PENDING_UPLOAD, _E.MISSED): _S.PENDING_UPLOAD,
    (_S.PENDING_UPLOAD, _E.REFUSED): _S.FAILED_UPLOAD,
    (_S.PENDING_UPLOAD, _E.LOST): _S.AWAITED,
    (_S.PENDING_UPLOAD, _E.DELETED): _S.PENDING_DELETE,
    (_S.PENDING_UPLOAD, _E.REPLACED): _S.REMOTE,
    (_S.SYNCED, _E.REFERENCED): _S.SYNCED,
    (_S.SYNCED, _E.KEPT_LOCAL): _S.LOCAL_ONLY,
    (_S.SYNCED, _E.CONFIRMED): _S.SYNCED,
    # The server lost it: it goes there again.
    (_S.SYNCED, _E.MISSED): _S.PENDING_UPLOAD,
    (_S.SYNCED, _E.EVICTED): _S.REMOTE,
    (_S.SYNCED, _E.LOST): _S.REMOTE,
    (_S.SYNCED, _E.DELETED): _S.PENDING_DELETE,
    (_S.SYNCED, _E.REPLACED): _S.REMOTE,
    (_S.REMOTE, _E.REFERENCED): _S.REMOTE,
    (_S.REMOTE, _E.CONFIRMED): _S.REMOTE,
    (_S.REMOTE, _E.MISSED): _S.AWAITED,
    (_S.REMOTE, _E.WANTED): _S.PENDING_DOWNLOAD,
    (_S.REMOTE, _E.ARRIVED): _S.SYNCED,
    (_S.REMOTE, _E.REJECTED): _S.FAILED_DOWNLOAD,
    (_S.REMOTE, _E.DELETED): _S.PENDING_DELETE,
    (_S.REMOTE, _E.REPLACED): _S.REMOTE,
    (_S.REMOTE, _E.UNWANTED): _S.REMOTE,
    (_S.AWAITED, _E.REFERENCED): _S.AWAITED,
    (_S.AWAITED, _E.CONFIRMED): _S.REMOTE,
    (_S.AWAITED, _E.MISSED): _S.AWAITED,
    (_S.AWAITED, _E.WANTED): _S.AWAITED,
    (_S.AWAITED, _E.ARRIVED): _S.SYNCED,
    (_S.AWAITED, _E.REJECTED): _S.FAILED_DOWNLOAD,
    (_S.AWAITED, _E.DELETED): _S.PENDING_DELETE,
    (_S.AWAITED, _E.REPLACED): _S.REMOTE,
    (_S.AWAITED, _E.UNWANTED): _S.AWAITED,
    # Only a list ever told of it, and the server does not have it after all.
    (_S.AWAITED, _E.PUT): _S.PENDING_UPLOAD,
    (_S.PENDING_DOWNLOAD, _E.REFERENCED): _S.PENDING_DOWNLOAD,
    (_S.PENDING_DOWNLOAD, _E.CONFIRMED): _S.PENDING_DOWNLOAD,
    (_S.PENDING_DOWNLOAD, _E.MISSED): _S.AWAITED,
    (_S.PENDING_DOWNLOAD, _E.WANTED): _S.PENDING_DOWNLOAD,
    (_S.PENDING_DOWNLOAD, _E.ARRIVED): _S.SYNCED,
    (_S.PENDING_DOWNLOAD, _E.REJECTED): _S.FAILED_DOWNLOAD,
    (_S.PENDING_DOWNLOAD, _E.DELETED): _S.PENDING_DELETE,
    (_S.PENDING_DOWNLOAD, _E.REPLACED): _S.REMOTE,
    (_S.PENDING_DOWNLOAD, _E.UNWANTED): _S.REMOTE,
    # A reference revives it; whether its bytes are anywhere still is to be seen.
    (_S.PENDING_DELETE, _E.REFERENCED): _S.AWAITED,
    (_S.PENDING_DELETE, _E.MISSED): _S.PENDING_DELETE,
    (_S.PENDING_DELETE, _E.CONFIRMED): _S.PENDING_DELETE,
    (_S.PENDING_DELETE, _E.DELETED): _S.PENDING_DELETE,
    (_S.PENDING_DELETE, _E.REPLACED): _S.REMOTE,
    # What was deleted still has to be deleted there, before the new one can go there.
    (_S.PENDING_DELETE, _E.PUT): _S.PENDING_UPLOAD,
    (_S.FAILED_UPLOAD, _E.REFERENCED): _S.FAILED_UPLOAD,
    (_S.FAILED_UPLOAD, _E.KEPT_LOCAL): _S.LOCAL_ONLY,
    (_S.FAILED_UPLOAD, _E.CONFIRMED): _S.SYNCED,
    (_S.FAILED_UPLOAD, _E.MISSED): _S.FAILED_UPLOAD,
    (_S.FAILED_UPLOAD, _E.REFUSED): _S.FAILED_UPLOAD,
    (_S.FAILED_UPLOAD, _E.RETRIED): _S.PENDING_UPLOAD,
    (_S.FAILED_UPLOAD, _E.LOST): _S.AWAITED,
    (_S.FAILED_UPLOAD, _E.DELETED): _S.PENDING_DELETE,
    (_S.FAILED_UPLOAD, _E.REPLACED): _S.REMOTE,
    (_S.FAILED_DOWNLOAD, _E.REFERENCED): _S.FAILED_DOWNLOAD,
    (_S.FAILED_DOWNLOAD, _E.CONFIRMED): _S.FAILED_DOWNLOAD,
    (_S.FAILED_DOWNLOAD, _E.MISSED): _S.AWAITED,
    (_S.FAILED_DOWNLOAD, _E.ARRIVED): _S.SYNCED,
    (_S.FAILED_DOWNLOAD, _E.REJECTED): _S.FAILED_DOWNLOAD,
    (_S.FAILED_DOWNLOAD, _E.RETRIED): _S.PENDING_DOWNLOAD,
    (_S.FAILED_DOWNLOAD, _E.DELETED): _S.PENDING_DELETE,
    (_S.FAILED_DOWNLOAD, _E.REPLACED): _S.REMOTE,
    (_S.FAILED_DOWNLOAD, _E.UNWANTED): _S.REMOTE,
}


def after(status: SyncStatus, event: SyncEvent) -> SyncStatus:
    """
    Return the status that follows ``status`` when ``event`` happens.

    :raise KeyError: the two do not go together; the caller should have known.
    """
    return TRANSITIONS[status, event]

"""What a document knows of its attachments: pointers to blobs, and where the bytes are."""

from __future__ import annotations

from enum import IntFlag

from attrs import frozen

from soledad.model.blob import SyncStatus
from soledad.model.ids import BlobId


class AttachmentStates(IntFlag):
    """Where the bytes of an attachment are, as far as this device knows."""

    #: Nothing is attached.
    NONE = 0
    #: On this device.
    LOCAL = 1
    #: On the server.
    REMOTE = 2
    #: On both.
    SYNCED = LOCAL | REMOTE
    #: Attached on another device; its bytes were not seen anywhere yet.  Stands alone.
    AWAITED = 4


#: The same class under its other name.
AttachmentState = AttachmentStates


@frozen
class Pointer:
    """What a document's record says of one attachment."""

    blob_id: BlobId
    #: Bytes of data, before padding and sealing.
    length: int
    content_type: str | None
    #: The commitment of the container: it authenticates every byte of the blob.
    commitment: bytes

    def __deepcopy__(self, memo: object) -> Pointer:
        """Return itself: copies of documents share their pointers, and each is known as long as any of them lives."""
        return self


_STATES = {
    SyncStatus.SYNCED: AttachmentStates.SYNCED,
    SyncStatus.REMOTE: AttachmentStates.REMOTE,
    SyncStatus.PENDING_DOWNLOAD: AttachmentStates.REMOTE,
    SyncStatus.FAILED_DOWNLOAD: AttachmentStates.REMOTE,
    SyncStatus.AWAITED: AttachmentStates.AWAITED,
}


def state_of(status: SyncStatus | None) -> AttachmentStates:
    """Return the state of an attachment whose blob has ``status`` (`None`: this device knows no such blob)."""
    if status is None:
        return AttachmentStates.AWAITED
    return (
        AttachmentStates.LOCAL
        if status.is_local and status is not SyncStatus.SYNCED
        else _STATES.get(status, AttachmentStates.AWAITED)
    )

"""Synchronization Of Locally Encrypted Documents Among Devices."""

from soledad.client.api import Soledad
from soledad.client.blob_store import BlobStore, StoredBlob
from soledad.client.document import Document
from soledad.client.transfers import Transfer, TransferState
from soledad.errors import SoledadError
from soledad.model.attachment import AttachmentState, AttachmentStates, Pointer
from soledad.model.blob import BlobInfo, Flag, Priority, SyncStatus
from soledad.model.index import ANY, Exact, Prefix, padded

__all__ = [
    "ANY",
    "AttachmentState",
    "AttachmentStates",
    "BlobInfo",
    "BlobStore",
    "Document",
    "Exact",
    "Flag",
    "Pointer",
    "Prefix",
    "Priority",
    "Soledad",
    "SoledadError",
    "StoredBlob",
    "SyncStatus",
    "Transfer",
    "TransferState",
    "padded",
]

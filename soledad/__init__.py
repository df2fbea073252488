"""Synchronization Of Locally Encrypted Documents Among Devices."""

from soledad.client.api import Soledad
from soledad.client.blob_store import BlobStore, StoredBlob
from soledad.client.document import Document
from soledad.client.transfers import Transfer, TransferState
from soledad.errors import SoledadError
from soledad.model.attachment import AttachmentState, AttachmentStates, Pointer
from soledad.model.blob import BlobInfo, Flag, Priority, SyncStatus
from soledad.model.index import ANY, Exact, Prefix, padded
from soledad.model.tampering import Incident, IncidentKind, News, Problem, Reason, TamperPolicy

__all__ = [
    "ANY",
    "AttachmentState",
    "AttachmentStates",
    "BlobInfo",
    "BlobStore",
    "Document",
    "Exact",
    "Flag",
    "Incident",
    "IncidentKind",
    "News",
    "Pointer",
    "Prefix",
    "Priority",
    "Problem",
    "Reason",
    "Soledad",
    "SoledadError",
    "StoredBlob",
    "SyncStatus",
    "TamperPolicy",
    "Transfer",
    "TransferState",
    "padded",
]

"""Synchronization Of Locally Encrypted Documents Among Devices."""

from soledad.client.api import Soledad
from soledad.client.document import Document
from soledad.errors import SoledadError
from soledad.model.attachment import AttachmentState, AttachmentStates, Pointer
from soledad.model.index import ANY, Exact, Prefix, padded

__all__ = [
    "ANY",
    "AttachmentState",
    "AttachmentStates",
    "Document",
    "Exact",
    "Pointer",
    "Prefix",
    "Soledad",
    "SoledadError",
    "padded",
]

"""Synchronization Of Locally Encrypted Documents Among Devices."""

from soledad.client.api import Soledad
from soledad.client.document import Document
from soledad.errors import SoledadError
from soledad.model.attachment import AttachmentState, AttachmentStates, Pointer

__all__ = ["AttachmentState", "AttachmentStates", "Document", "Pointer", "Soledad", "SoledadError"]

"""Synchronization Of Locally Encrypted Documents Among Devices."""

from soledad.client.api import Soledad
from soledad.client.document import Document
from soledad.errors import SoledadError
from soledad.model.attachment import AttachmentState, AttachmentStates, Pointer
from soledad.model.index import ANY, Exact, Prefix, padded
from soledad.model.tampering import Incident, IncidentKind, News, Problem, Reason, TamperPolicy

__all__ = [
    "ANY",
    "AttachmentState",
    "AttachmentStates",
    "Document",
    "Exact",
    "Incident",
    "IncidentKind",
    "News",
    "Pointer",
    "Prefix",
    "Problem",
    "Reason",
    "Soledad",
    "SoledadError",
    "TamperPolicy",
    "padded",
]

"""What a stored document is, and what writing one comes to."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from soledad.model.attachment import Pointer
from soledad.model.ids import BlobId, DocId

#: The newest generation, its transaction id, and each changed document at its latest change.
Changes = tuple[int, str, list[tuple[DocId, int, str]]]


@frozen
class Stored:
    """A document as the store has it, or is to have it."""

    doc_id: DocId
    #: The stored revision; to be written: the one that it was made from, empty for none.
    rev: str
    #: JSON text; `None` for a tombstone.
    content: str | None = field(default=None, repr=False)
    attachments: Mapping[str, Pointer] = field(factory=dict)
    #: Whether the store has other versions of it.
    has_conflicts: bool = False


@frozen
class Written:
    """What a write came to."""

    rev: str
    #: Blobs that nothing refers to since.
    dropped: frozenset[BlobId] = frozenset()
    #: The change's number in the log.
    generation: int = 0
    #: The indexes that the document was in before, or is in now.
    indexes: frozenset[str] = frozenset()
    #: Whether there are other versions still.
    has_conflicts: bool = False

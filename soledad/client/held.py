"""What objects in memory point at: a document that is yet to be saved keeps its attachments."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakValueDictionary

from attrs import define, field

from soledad.model.attachment import Pointer
from soledad.model.ids import BlobId


@define(eq=False)
class Held:
    """
    The pointers of this session, as long as anything has them: documents, their copies, writes under way.

    Documents that are linked to an attachment share its pointer.
    """

    #: By identity: of two that are equal, one may live longer.
    _pointers: WeakValueDictionary[int, Pointer] = field(factory=WeakValueDictionary, init=False)

    def hold(self, pointers: Iterable[Pointer]) -> None:
        """Note that these have come into documents."""
        for pointer in pointers:
            self._pointers[id(pointer)] = pointer

    def blob_ids(self) -> set[BlobId]:
        """Return what is pointed at."""
        return {pointer.blob_id for pointer in self._pointers.values()}

"""
The documents of one store, as objects: saves what they hold, and makes them from what is stored.

The rules are in `soledad.client.local.documents`, which runs them in the database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from functools import partial
from os import urandom

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from soledad.client.document import Document, Home
from soledad.client.held import Held
from soledad.client.interfaces import IDocuments, ILocalBlobs
from soledad.client.observers import Observers
from soledad.deferreds import Serial, completed, in_turn
from soledad.errors import InvalidContent, StorageError
from soledad.model.attachment import Pointer
from soledad.model.conflict import Applied, Versions
from soledad.model.content import Content
from soledad.model.document import Changes, Snapshot, Stored, Written
from soledad.model.ids import BlobId, DocId, doc_id, random_doc_id

_log = Logger()


@define(eq=False)
class Documents:
    """What `Soledad` does with documents; it says what each is for."""

    _local: IDocuments
    _blobs: ILocalBlobs
    _home: Home
    observers: Observers
    _held: Held
    #: Taking versions from elsewhere, and collecting what no version refers to: one after the other.
    applying: Serial
    #: Bytes that the text of a document may have; `None`: any number.
    size_limit: int | None = None

    async def create(self, doc: Document) -> Document:
        """Save a new document."""
        await self.put(doc)
        return doc

    async def put(self, doc: Document) -> str:
        """Save what a document holds now."""
        (rev,) = await self.put_all([doc])
        return rev

    async def put_all(self, docs: Sequence[Document]) -> list[str]:
        """Save what several documents hold now, all or none."""
        ids, snapshots = _ids_to_put(docs), [doc.snapshot() for doc in docs]
        return await in_turn((doc.saving for doc in docs), partial(self._put_all, docs, ids, snapshots))

    async def delete(self, doc: Document) -> str:
        """Leave a tombstone."""
        return await in_turn([doc.saving], partial(self._delete, doc))

    async def get_conflicts(self, wanted: str) -> list[Document]:
        """Return the current version and the alternatives of a document in conflict."""
        return [self.load(one) for one in await self._local.get_conflicts(doc_id(wanted))]

    async def resolve(self, doc: Document, revs: Iterable[str]) -> str:
        """Let what a document holds now settle some of its versions."""
        (wanted_id,), snapshot, settled = _ids_to_put([doc]), doc.snapshot(), list(revs)
        return await in_turn([doc.saving], partial(self._resolve, doc, wanted_id, snapshot, settled))

    async def apply_all(self, incoming: Sequence[Versions]) -> list[Applied]:
        """
        Join the versions of documents that another store has with those of this one, all or none; for the sync.

        :return: what became of each, when it is durable and the blobs they refer to are known.
        """
        return await self.apply_by(lambda: self._local.apply_all(incoming))

    async def apply_by(self, write: Callable[[], Awaitable[list[Applied]]]) -> list[Applied]:
        """Let ``write()`` apply versions, and tell who has to know; see `apply_all`."""
        return await self.applying.run(partial(self._apply_by, write))

    async def _apply_by(self, write: Callable[[], Awaitable[list[Applied]]]) -> list[Applied]:
        applied = await write()
        for one in applied:
            if one.copied:
                _log.warn("One revision of {doc_id} has two contents: a store was copied", doc_id=one.versions.doc_id)
        changed = [one for one in applied if one.written is not None]
        await self._changed(
            [one.versions.doc_id for one in changed],
            [one.written for one in changed if one.written is not None],
            [version for one in changed for version in one.versions],
        )
        return applied

    def get(self, wanted: str, include_deleted: bool) -> Deferred[Document | None]:
        """Return one document."""
        return self._local.get(doc_id(wanted)).addCallback(self._found, include_deleted)

    def _found(self, stored: Stored | None, include_deleted: bool) -> Document | None:
        if stored is None or (stored.content is None and not include_deleted):
            return None
        return self.load(stored)

    async def get_many(self, wanted: Iterable[str], include_deleted: bool) -> list[Document]:
        """Return documents in the order asked, without those that are missing."""
        stored = await self._local.get_many([doc_id(one) for one in wanted])
        return [self.load(one) for one in stored if include_deleted or one.content is not None]

    async def get_all(self, include_deleted: bool) -> tuple[int, list[Document]]:
        """Return the generation and all documents."""
        generation, stored = await self._local.get_all(include_deleted)
        return generation, [self.load(one) for one in stored]

    async def whats_changed(self, generation: int) -> Changes:
        """Return what changed after a generation."""
        return await self._local.whats_changed(generation)

    async def _put_all(
        self, docs: Sequence[Document], ids: Sequence[DocId], snapshots: Sequence[Snapshot]
    ) -> list[str]:
        # The revisions are those that the objects have now: earlier writes of them have ended.
        written = await self._local.put_all(ids, [doc.rev or "" for doc in docs], snapshots, self.size_limit)
        for doc, snapshot, outcome in zip(docs, snapshots, written, strict=True):
            doc.settle(outcome.rev, outcome.content, snapshot.attachments, self._home)
        await self._changed(ids, written, snapshots)
        return [outcome.rev for outcome in written]

    async def _delete(self, doc: Document) -> str:
        wanted = doc_id(doc.doc_id)
        outcome = await self._local.delete(wanted, doc.rev or "")
        doc.make_tombstone()
        doc.settle(outcome.rev, None, {}, self._home)
        await self._changed([wanted], [outcome], [])
        return outcome.rev

    async def _resolve(self, doc: Document, wanted_id: DocId, snapshot: Snapshot, revs: Collection[str]) -> str:
        outcome = await self._local.resolve(wanted_id, doc.rev or "", snapshot, revs, self.size_limit)
        doc.settle(outcome.rev, outcome.content, snapshot.attachments, self._home, outcome.has_conflicts)
        await self._changed([wanted_id], [outcome], [snapshot])
        return outcome.rev

    async def _changed(
        self, ids: Iterable[DocId], written: Sequence[Written], versions: Iterable[Stored | Snapshot]
    ) -> None:
        """Tell observers what was written, and the blobs what the versions that are stored since refer to."""
        self.observers.changed(zip(ids, written, strict=True))
        pointers = [pointer for version in versions if version.attachments for pointer in version.attachments.values()]
        await self._refer(pointers, {blob_id for outcome in written for blob_id in outcome.dropped})

    async def _refer(self, pointers: Sequence[Pointer], dropped: Collection[BlobId]) -> None:
        if not pointers and not dropped:
            return
        try:
            await completed(self._blobs.refer(pointers, dropped))
        except StorageError:
            # The documents are saved, and stay so; the next opening tells the blobs.
            _log.failure("References to blobs could not be noted")

    def load(self, stored: Stored) -> Document:
        """Return the object for a stored document."""
        if stored.attachments:
            self._held.hold(stored.attachments.values())
        return Document.load(stored, self._home)


def new_document(content: Content | None, json: str | None, wanted_id: str | None) -> Document:
    """
    Make a document to be saved.

    :raise InvalidContent: there is no content.
    """
    if content is None and json is None:
        raise InvalidContent("None is the content of a deleted document")
    made = random_doc_id(urandom(16)) if wanted_id is None else wanted_id
    return Document(made, json=json, content=content)


def _ids_to_put(docs: Sequence[Document]) -> list[DocId]:
    """Return the ids of documents; those that have none get one."""
    entropy = urandom(16 * len(docs))
    return [_id_to_put(doc, entropy[16 * number : 16 * number + 16]) for number, doc in enumerate(docs)]


def _id_to_put(doc: Document, entropy: bytes) -> DocId:
    if doc.doc_id is not None:
        return doc_id(doc.doc_id)
    doc.doc_id = random_doc_id(entropy)
    return doc.doc_id

"""
The tie between documents and their blobs: what a name in a document means, and where its bytes are.

These are the answers to what `Document` asks of its store; `Document` says what each is for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from os import urandom
from typing import TypeVar

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import IBodyProducer

from soledad.client.blob import Blob
from soledad.client.blobs import Blobs, Source
from soledad.client.document import Document, ProgressCallback
from soledad.client.held import Held
from soledad.client.interfaces import IDocuments
from soledad.client.keeping import Keeping
from soledad.client.operations import Operations, local_operation, network_operation
from soledad.client.reading import SealedFile
from soledad.deferreds import Worker
from soledad.errors import (
    AttachmentNotAvailable,
    BlobNotFound,
    DetachedDocument,
    DocumentAlreadyDeleted,
    InvalidIdentifier,
    NoAttachment,
    TransferError,
)
from soledad.model.attachment import AttachmentStates, Pointer, state_of
from soledad.model.blob import BlobKey, ByteRange
from soledad.model.ids import ATTACHMENTS, attachment_name, random_blob_id
from soledad.model.transfer import Direction
from soledad.streams import Progress

T = TypeVar("T")

#: The longest content type, in characters.
_CONTENT_TYPE_LENGTH = 255


@define(eq=False)
class Attachments:
    """The attachments of one store's documents; the `Home` that they know."""

    operations: Operations
    _blobs: Blobs
    _worker: Worker
    _documents: IDocuments
    _held: Held
    _keeping: Keeping
    #: Whether there is a server to ask.
    _online: bool

    def put_attachment(
        self, doc: Document, fd: Source, name: str, content_type: str | None, progress: ProgressCallback | None
    ) -> Deferred[None]:
        """See `Document.put_attachment`."""

        async def put() -> None:
            attachment_name(name)
            _check_content_type(content_type)
            await doc.attaching.run(lambda: self._put(doc, fd, name, content_type, Progress(self._worker, progress)))

        # A producer may have no end; a file has one, so what was begun with it is finished.
        return self.operations.start(put, finishes=not IBodyProducer.providedBy(fd))

    async def _put(
        self, doc: Document, source: Source, name: str, content_type: str | None, progress: Progress
    ) -> None:
        _must_live(doc)
        blob = await self._blobs.put(BlobKey(ATTACHMENTS, random_blob_id(urandom(16))), source, progress)
        # It may have been deleted in the meantime.
        _must_live(doc)
        pointer = Pointer(blob.key.blob_id, blob.length, content_type, blob.commitment)
        self._held.hold([pointer])
        doc.attach(name, pointer)
        progress.finished()

    @network_operation
    async def get_attachment(self, doc: Document, name: str) -> SealedFile | None:
        """See `Document.get_attachment`."""
        blob = _blob(doc, name)
        if blob is None:
            return None
        with self._keeping.using(blob.key):
            try:
                return await self._blobs.open(blob)
            except BlobNotFound:
                progress = Progress(self._worker, None)
                await self._fetched(doc, name, lambda: self._blobs.move(Direction.DOWNLOAD, blob, progress))
            return await self._blobs.open(blob)

    @network_operation
    async def read_attachment(self, doc: Document, name: str, start: int, length: int | None) -> bytes:
        """See `Document.read_attachment`."""
        blob = _must_have(doc, name)
        with self._keeping.using(blob.key):
            return await self._fetched(doc, name, lambda: self._blobs.read(blob, ByteRange(start, length)))

    @network_operation
    async def write_attachment_to(
        self, doc: Document, consumer: IConsumer, name: str, start: int, length: int | None
    ) -> None:
        """See `Document.write_attachment_to`."""
        blob = _must_have(doc, name)
        with self._keeping.using(blob.key):
            await self._fetched(doc, name, lambda: self._blobs.write_to(blob, consumer, ByteRange(start, length)))

    @network_operation
    async def upload_attachment(self, doc: Document, name: str, progress: ProgressCallback | None) -> AttachmentStates:
        """See `Document.upload_attachment`."""
        return await self._move(Direction.UPLOAD, doc, name, progress)

    @network_operation
    async def download_attachment(
        self, doc: Document, name: str, progress: ProgressCallback | None
    ) -> AttachmentStates:
        """See `Document.download_attachment`."""
        return await self._move(Direction.DOWNLOAD, doc, name, progress)

    async def _move(
        self, direction: Direction, doc: Document, name: str, progress: ProgressCallback | None
    ) -> AttachmentStates:
        blob = _blob(doc, name)
        if blob is None:
            return AttachmentStates.NONE
        report = Progress(self._worker, progress)
        status = await self._fetched(doc, name, lambda: self._blobs.move(direction, blob, report))
        report.finished()
        return state_of(status)

    @local_operation
    async def delete_attachment(self, doc: Document, name: str) -> None:
        """See `Document.delete_attachment`."""

        async def delete() -> None:
            _must_have(doc, name)
            doc.attach(name, None)

        await doc.attaching.run(delete)

    @local_operation
    async def link_attachment(self, doc: Document, other: Document, name: str, other_name: str | None) -> None:
        """See `Document.link_attachment`."""
        attachment_name(name)
        source = name if other_name is None else other_name

        async def link() -> None:
            if other.home is not doc.home:
                raise DetachedDocument(other.doc_id)
            _must_live(doc)
            if source not in other.attachments:
                raise NoAttachment(other.doc_id or "", source)
            doc.attach(name, other.attachments[source])

        await doc.attaching.run(link)

    @network_operation
    async def get_attachment_state(self, doc: Document, name: str, refresh: bool) -> AttachmentStates:
        """See `Document.get_attachment_state`."""
        blob = _blob(doc, name)
        if blob is None:
            return AttachmentStates.NONE
        if refresh:
            return state_of(await self._blobs.ask(blob))
        state = state_of(await self._blobs.status(blob))
        if state is AttachmentStates.AWAITED and self._online:
            # No news is no reason to fail: this works offline.
            with suppress(TransferError):
                state = state_of(await self._blobs.ask(blob))
        return state

    @local_operation
    async def pin_attachment(self, doc: Document, name: str, pinned: bool) -> AttachmentStates:
        """See `Document.pin_attachment` and `Document.unpin_attachment`."""
        key = _must_have(doc, name).key
        change = self._keeping.pin if pinned else self._keeping.unpin
        return state_of(await self._fetched(doc, name, lambda: change(key)))

    @network_operation
    async def evict_attachment(self, doc: Document, name: str) -> AttachmentStates:
        """See `Document.evict_attachment`."""
        key = _must_have(doc, name).key
        return state_of(await self._fetched(doc, name, lambda: self._keeping.evict(key)))

    @local_operation
    async def is_stale(self, doc: Document) -> bool:
        """See `Document.is_stale`."""
        return doc.doc_id is not None and await self._documents.get_rev(doc.doc_id) != doc.rev

    async def _fetched(self, doc: Document, name: str, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may need the server; what it does not have is an attachment to wait for."""
        try:
            return await work()
        except BlobNotFound as error:
            raise AttachmentNotAvailable(doc.doc_id or "", name) from error


def _blob(doc: Document, name: str) -> Blob | None:
    """Return what a document has under a name."""
    pointer = doc.attachments.get(name)
    if pointer is None:
        return None
    return Blob(BlobKey(ATTACHMENTS, pointer.blob_id), pointer.length, pointer.commitment)


def _must_live(doc: Document) -> None:
    """:raise DocumentAlreadyDeleted: a tombstone has no attachments."""
    if doc.is_tombstone():
        raise DocumentAlreadyDeleted(doc.doc_id or "")


def _must_have(doc: Document, name: str) -> Blob:
    """:raise NoAttachment: nothing is attached under the name."""
    blob = _blob(doc, name)
    if blob is None:
        raise NoAttachment(doc.doc_id or "", name)
    return blob


def _check_content_type(content_type: str | None) -> None:
    """:raise InvalidIdentifier: it is no text that a record can hold."""
    if content_type is None:
        return
    if not isinstance(content_type, str) or len(content_type) > _CONTENT_TYPE_LENGTH or not content_type.isascii():
        raise InvalidIdentifier("content type", str(content_type)[:80])

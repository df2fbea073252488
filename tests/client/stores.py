"""What tests of the client share: a store whose calls have ended when they return, and sources of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

from soledad import Document, Soledad
from soledad.client.local.blobs import BlobRow, get
from soledad.client.local.database import Cursor
from soledad.deferreds import unawaited
from soledad.model.blob import BlobKey
from soledad.model.ids import ATTACHMENTS
from soledad.testing import make_store

T = TypeVar("T")


class SoledadTestCase(SynchronousTestCase):
    """A store of its own for each test."""

    def setUp(self) -> None:
        """Open it."""
        self.folder = Path(self.mktemp())
        self.store = make_store(self, data_dir=self.folder)

    def now(self, work: Deferred[T]) -> T:
        """Return a result that is there already."""
        return self.successResultOf(work)

    def fails(self, work: Deferred[Any], *errors: type[BaseException]) -> BaseException:
        """Return the error that a call has failed with already."""
        error: BaseException = self.failureResultOf(work, *errors).value
        return error

    def create(self, content: dict[str, Any] | None = None, doc_id: str | None = None) -> Document:
        """Create a document."""
        return self.now(self.store.create_doc({} if content is None else content, doc_id))

    def get(self, doc_id: str | None, include_deleted: bool = False) -> Document:
        """Get a document that is there."""
        doc = self.now(self.store.get_doc(str(doc_id), include_deleted))
        assert doc is not None
        return doc

    def blob_row(self, doc: Document, name: str = "default") -> BlobRow | None:
        """Return the row of an attachment's blob."""
        key = BlobKey(ATTACHMENTS, doc.attachments[name].blob_id)
        return self.store._local.blobs.database.read_now(get, key)

    def blob_files(self) -> list[Path]:
        """Return the sealed files."""
        return sorted((self.folder / f"{self.store.uuid}_blobs").iterdir())

    def blob_count(self) -> int:
        """Return how many blobs have rows."""
        return self.store._local.blobs.database.read_now(count_blobs)

    def reopen(self) -> Soledad:
        """Close the store and open it again."""
        self.now(self.store.close())
        self.store = make_store(self, data_dir=self.folder)
        return self.store


def count_blobs(cursor: Cursor) -> int:
    """Return how many blobs have rows."""
    return int(cursor.execute("SELECT count(*) FROM blob").fetchone()[0])


def limit_pages(cursor: Cursor, more: int) -> None:
    """Let a database grow by so many pages at most: what a full disk is to it."""
    (count,) = cursor.execute("PRAGMA page_count").fetchone()
    cursor.execute(f"PRAGMA max_page_count = {count + more}")


@implementer(IBodyProducer)
@define(eq=False)
class PiecesProducer:
    """Writes pieces, and ends as it is told: well, with an error, or never."""

    pieces: list[bytes]
    length: Any = UNKNOWN_LENGTH
    error: Exception | None = None
    ends: bool = True
    stopped: int = field(default=0, init=False)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Write all, at once."""
        for piece in self.pieces:
            consumer.write(piece)
        done: Deferred[None] = succeed(None) if self.ends else Deferred()
        if self.error is not None:
            error = self.error

            def fail(ignored: object) -> None:
                raise error

            unawaited(done.addCallback(fail))
        return done

    def pauseProducing(self) -> None:
        """Everything is written already."""

    def resumeProducing(self) -> None:
        """Everything is written already."""

    def stopProducing(self) -> None:
        """Count how often it was stopped."""
        self.stopped += 1

"""Devices of one user, in place: stores with one server and one clock, and what they do to each other."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad import Soledad
from soledad.client.local import documents, references
from soledad.client.local.database import Cursor
from soledad.client.local.transfers import BlobQueue
from soledad.errors import BlobNotFound
from soledad.model.blob import BlobKey, SyncStatus
from soledad.model.conflict import Versions
from soledad.model.ids import ATTACHMENTS, BlobId
from soledad.model.retention import LONGEST
from soledad.model.transfer import Direction
from soledad.testing import MemoryServer, make_store
from soledad.wire.routes import ListRoute

T = TypeVar("T")

#: Containers up to this many bytes are rows, as there are no large ones in these tests.
INLINE = 1500


class HomesTestCase(SynchronousTestCase):
    """A user with two devices."""

    def setUp(self) -> None:
        """Have a server, and two stores."""
        self.clock = Clock()
        self.server = MemoryServer()
        self.folders = {name: Path(self.mktemp()) for name in "ab"}
        self.stores = {"a": self.opened("a")}
        # A new device of the same user has the same keys.
        self.folders["b"].mkdir()
        shutil.copy(self.folders["a"] / "user.keyring", self.folders["b"])
        self.stores["b"] = self.opened("b")

    def opened(self, name: str) -> Soledad:
        """Open a device's store."""
        store = make_store(self, self.server, data_dir=self.folders[name], clock=self.clock)
        store._local.blobs.files._inline_limit = INLINE
        return store

    @property
    def store(self) -> Soledad:
        """The first device's store."""
        return self.stores["a"]

    def now(self, work: Deferred[T]) -> T:
        """Return a result that is there already."""
        return self.successResultOf(work)

    def attached(self, data: bytes = b"data", doc_id: str = "doc", upload: bool = True) -> BlobId:
        """Save a document with an attachment on the first device; return the attachment's blob."""
        doc = self.now(self.store.create_doc({}, doc_id))
        self.now(doc.put_attachment(data))
        self.now(self.store.put_doc(doc))
        if upload:
            self.now(doc.upload_attachment())
        return doc.attachments["default"].blob_id

    def linked(self) -> BlobId:
        """Have two documents that point at one blob, on the first device."""
        blob_id = self.attached()
        (doc,), other = self.now(self.store.get_docs(["doc"])), self.now(self.store.create_doc({}, "other"))
        self.now(other.link_attachment(doc))
        self.now(self.store.put_doc(other))
        return blob_id

    def delete(self, doc_id: str = "doc", name: str = "a") -> None:
        """Delete a document on a device."""
        store = self.stores[name]
        doc = self.now(store.get_doc(doc_id))
        assert doc is not None
        self.now(store.delete_doc(doc))

    def exchange(self) -> None:
        """Let both devices have what either has of all documents."""
        for name, other in ("ab", "ba", "ab"):
            coming = self.stores[name]._local.documents.database.read_now(all_versions)
            self.now(Deferred.fromCoroutine(self.stores[other]._documents.apply_all(coming)))

    def collect(self, name: str = "a") -> None:
        """Let a device's collector run, and what it queued be carried out."""
        self.now(Deferred.fromCoroutine(self.stores[name]._collector.run()))
        carry_out_deletions(self, self.stores[name])

    def pass_days(self, days: int, names: str = "ab") -> None:
        """Let time pass; the collectors run each day."""
        for _ in range(days):
            self.clock.rightNow += LONGEST
            for name in names:
                self.collect(name)

    def status(self, blob_id: BlobId, name: str = "a") -> SyncStatus | None:
        """Return what a device knows of a blob."""
        known = self.now(self.stores[name]._local.blobs.get(BlobKey(ATTACHMENTS, blob_id)))
        return None if known is None else known.status

    def on_server(self) -> set[BlobId]:
        """Return the attachments that the server has."""
        return on_server(self, self.store)

    def files(self, name: str = "a") -> set[str]:
        """Return the names of a device's files."""
        return self.stores[name]._local.blobs.files.names()

    def dropped(self, name: str = "a") -> list[BlobId]:
        """Return the blobs that a device answers for."""
        database = self.stores[name]._local.documents.database
        return database.read_now(references.all_dropped, BlobId(""), 1000)


def all_versions(cursor: Cursor) -> list[Versions]:
    """Return all versions of all documents."""
    _, stored = documents.get_all(cursor, True)
    found = [documents.get_versions(cursor, one.doc_id) for one in stored]
    return [versions for versions in found if versions is not None]


def carry_out_deletions(test: SynchronousTestCase, store: Soledad) -> None:
    """Delete on the server what waits for that."""
    queue = BlobQueue(store._local.blobs)
    for one in test.successResultOf(queue.due(None, 1e12, 1000)):
        if one.direction is Direction.DELETE:
            assert store._server is not None
            deleting: Deferred[Any] = store._server.blobs.delete_blob(one.key.blob_id, one.key.namespace)
            test.successResultOf(deleting.addErrback(lambda failure: failure.trap(BlobNotFound)))
            test.successResultOf(queue.forget(one.key, one.sealed.commitment))


def on_server(test: SynchronousTestCase, store: Soledad) -> set[BlobId]:
    """Return the attachments that the server has."""
    assert store._server is not None
    page = test.successResultOf(store._server.blobs.list_blobs(ListRoute(store.uuid, ATTACHMENTS)))
    return {info.blob_id for info in page.blobs if not info.deleted}

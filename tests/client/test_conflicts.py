"""Tests of conflicts as applications meet them, in place: calls have ended when they return."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from soledad import Document
from soledad.errors import (
    ConflictedDoc,
    DocumentTooBig,
    InvalidContent,
    InvalidDocId,
    InvalidIdentifier,
    RevisionConflict,
)
from soledad.model.attachment import AttachmentStates
from soledad.model.conflict import Applied, Versions
from soledad.model.document import Stored
from soledad.model.ids import DocId
from soledad.testing import make_store


class StoreTestCase(SynchronousTestCase):
    """A store."""

    def setUp(self) -> None:
        """Make it."""
        self.store = make_store(self)

    def create(self, doc_id: str | None = None, **content: Any) -> Document:
        """Save a new document."""
        return self.successResultOf(self.store.create_doc(content, doc_id))

    def put(self, doc: Document) -> str:
        """Save a document."""
        return self.successResultOf(self.store.put_doc(doc))

    def get(self, doc_id: str = "doc") -> Document:
        """Return a document that is there, deleted or not."""
        doc = self.successResultOf(self.store.get_doc(doc_id, include_deleted=True))
        assert doc is not None
        return doc

    def apply(self, *versions: Stored) -> Applied:
        """Apply versions from elsewhere, as the sync does."""
        coming = self.store._documents.apply_all([Versions(versions[0], versions[1:])])
        (applied,) = self.successResultOf(Deferred.fromCoroutine(coming))
        return applied

    def conflict(self, content: str | None = '{"from": "there"}') -> Document:
        """Have a document in conflict; return this side's object."""
        doc = self.create("doc", origin="here")
        self.apply(Stored(DocId("doc"), "b:1", content))
        return doc


class ConflictTests(StoreTestCase):
    """Conflicts as applications meet them."""

    def conflicts(self, doc_id: str = "doc") -> list[Document]:
        """Return the versions of a document in conflict."""
        return self.successResultOf(self.store.get_doc_conflicts(doc_id))

    def test_listed(self) -> None:
        """The other side's version is current; ours waits beside it; each knows of the conflict."""
        ours = self.conflict()
        found = self.conflicts()
        self.assertEqual([doc.rev for doc in found], ["b:1", ours.rev])
        self.assertEqual([doc.content for doc in found], [{"from": "there"}, {"origin": "here"}])
        self.assertEqual([doc.has_conflicts for doc in found], [True, True])
        self.assertEqual(self.get(), found[0])

    def test_none(self) -> None:
        """Without a conflict, or such a document, the list is empty; an id that is none is refused."""
        self.create("doc")
        self.assertEqual(self.conflicts(), [])
        self.assertEqual(self.conflicts("missing"), [])
        self.failureResultOf(self.store.get_doc_conflicts("no id"), InvalidDocId)

    def test_every_getter(self) -> None:
        """A document from any getter tells whether it is in conflict."""
        self.conflict('{"from": "there"}')
        self.successResultOf(self.store.create_doc({"from": "there"}, "other"))
        self.successResultOf(self.store.create_index("by from", "from"))
        self.successResultOf(self.store.create_text_index("text", "from"))
        expected = {"doc": True, "other": False}
        works: list[Deferred[Any]] = [
            self.store.get_docs(["doc", "other"]),
            self.store.get_all_docs(),
            self.store.get_from_index("by from", "there"),
            self.store.get_range_from_index("by from"),
            self.store.search("text", "there"),
        ]
        for work in works:
            found = self.successResultOf(work)
            docs = found[1] if isinstance(found, tuple) else found
            self.assertEqual({doc.doc_id: doc.has_conflicts for doc in docs}, expected)

    def test_refused(self) -> None:
        """Neither saving nor deleting is possible in a conflict, and both leave the object as it is."""
        self.conflict()
        doc = self.get()
        doc.content = {"changed": True}
        self.failureResultOf(self.store.put_doc(doc), ConflictedDoc)
        self.failureResultOf(self.store.delete_doc(doc), ConflictedDoc)
        self.failureResultOf(self.store.create_doc({}, "doc"), ConflictedDoc)
        self.assertEqual((doc.rev, doc.content), ("b:1", {"changed": True}))

    def test_resolve(self) -> None:
        """A version that was changed settles all; it can be saved again, and no conflict is left."""
        self.conflict()
        theirs, ours = self.conflicts()
        ours.content = {**(ours.content or {}), **(theirs.content or {})}
        assert theirs.rev is not None
        assert ours.rev is not None
        replica = ours.rev.partition(":")[0]
        rev = self.successResultOf(self.store.resolve_doc(ours, [theirs.rev, ours.rev]))
        self.assertEqual(set(rev.split("|")), {"b:1", f"{replica}:2"})
        self.assertEqual((ours.rev, ours.has_conflicts), (rev, False))
        self.assertEqual(self.get(), ours)
        self.assertEqual(self.get().content, {"origin": "here", "from": "there"})
        self.assertEqual(self.conflicts(), [])
        self.assertFalse(self.successResultOf(ours.is_dirty()))
        self.put(ours)

    def test_resolve_in_part(self) -> None:
        """What is not listed stays in conflict, and the object knows it."""
        self.conflict()
        theirs, ours = self.conflicts()
        self.successResultOf(self.store.resolve_doc(theirs, [str(theirs.rev)]))
        self.assertTrue(theirs.has_conflicts)
        self.assertEqual([doc.content for doc in self.conflicts()], [{"from": "there"}, {"origin": "here"}])
        self.assertEqual(self.conflicts()[1].rev, ours.rev)

    def test_resolve_with_a_tombstone(self) -> None:
        """Resolving for a deletion deletes, and any object with the id will do."""
        self.conflict(None)
        theirs, ours = self.conflicts()
        self.assertTrue(theirs.is_tombstone())
        gone = Document("doc", json=None)
        self.successResultOf(self.store.resolve_doc(gone, [str(theirs.rev), str(ours.rev)]))
        self.assertIsNone(self.successResultOf(self.store.get_doc("doc")))
        self.assertTrue(self.get().is_tombstone())

    def test_resolve_refused(self) -> None:
        """What cannot be resolved changes neither store nor object."""
        self.conflict()
        theirs, ours = self.conflicts()
        before = self.successResultOf(self.store.whats_changed())
        revs = [str(theirs.rev), str(ours.rev)]
        self.failureResultOf(self.store.resolve_doc(ours, revs[1:]), RevisionConflict)
        self.failureResultOf(self.store.resolve_doc(ours, [*revs, "nonsense"]), InvalidIdentifier)
        ours.content = {"bad": {1, 2}}
        self.failureResultOf(self.store.resolve_doc(ours, revs), InvalidContent)
        ours.content = {"big": "x" * 100}
        self.store.doc_size_limit = 100
        self.failureResultOf(self.store.resolve_doc(ours, revs), DocumentTooBig)
        self.assertEqual((ours.rev, ours.has_conflicts), (revs[1], True))
        self.assertEqual(self.successResultOf(self.store.whats_changed()), before)

    def test_resolved_elsewhere(self) -> None:
        """A resolution that arrives ends the conflict here; ours comes too late."""
        self.conflict()
        theirs, ours = self.conflicts()
        self.apply(Stored(DocId("doc"), f"b:2|{ours.rev}", '{"from": "both"}'))
        self.failureResultOf(self.store.resolve_doc(ours, [str(theirs.rev), str(ours.rev)]), RevisionConflict)
        self.assertEqual((self.get().content, self.get().has_conflicts), ({"from": "both"}, False))

    def test_attachments(self) -> None:
        """Attachments of every version can be read, and linked into what settles the conflict."""
        ours = self.create("doc")
        self.successResultOf(ours.put_attachment(b"here", "picture"))
        self.put(ours)
        there = self.create("there")
        self.successResultOf(there.put_attachment(b"there", "picture"))
        self.put(there)
        self.apply(Stored(DocId("doc"), "b:1", "{}", dict(there.attachments)))
        theirs, ours = self.conflicts()
        self.assertEqual(self.successResultOf(ours.read_attachment("picture")), b"here")
        self.successResultOf(theirs.link_attachment(ours, "ours", "picture"))
        self.successResultOf(self.store.resolve_doc(theirs, [str(theirs.rev), str(ours.rev)]))
        for name, data in (("picture", b"there"), ("ours", b"here")):
            self.assertEqual(self.successResultOf(self.get().read_attachment(name)), data)

    def test_awaited(self) -> None:
        """What a version from elsewhere points at is known at once, also while it is no more than an alternative."""
        there = make_store(self, data_dir=self.mktemp())
        other = self.successResultOf(there.create_doc({}, "doc"))
        self.successResultOf(other.put_attachment(b"there"))
        self.create("doc", origin="here")
        pointers = dict(other.attachments)
        self.apply(Stored(DocId("doc"), "c:1", '{"a": 1}'), Stored(DocId("doc"), "b:1", "{}", pointers))
        blob_ids = {pointer.blob_id for pointer in pointers.values()}
        query = "SELECT blob_id, status FROM blob WHERE condemned IS NULL"
        known = self.store._local.blobs.database.read_now(lambda cursor: cursor.execute(query).fetchall())
        self.assertEqual({blob_id for blob_id, _ in known}, blob_ids)
        for doc in self.conflicts():
            state = self.successResultOf(doc.get_attachment_state())
            self.assertEqual(state, AttachmentStates.AWAITED if doc.rev == "b:1" else AttachmentStates.NONE)

    def test_kept(self) -> None:
        """Conflicts, and the blobs of all versions, are there when the store is opened again."""
        folder = self.mktemp()
        self.store = make_store(self, data_dir=folder)
        ours = self.create("doc")
        self.successResultOf(ours.put_attachment(b"here"))
        self.put(ours)
        self.apply(Stored(DocId("doc"), "b:1", '{"a": 1}'))
        before = self.conflicts()
        self.successResultOf(self.store.close())
        self.store = make_store(self, data_dir=folder)
        self.assertEqual(self.conflicts(), before)
        self.assertEqual(self.successResultOf(self.conflicts()[1].read_attachment()), b"here")

    def test_copied_store(self) -> None:
        """That one revision has two contents is logged, without either."""
        events: list[Any] = []
        log: Any = events.append
        globalLogPublisher.addObserver(log)
        self.addCleanup(globalLogPublisher.removeObserver, log)
        self.apply(Stored(DocId("doc"), "b:1", '{"a": "secret"}'))
        self.assertTrue(self.apply(Stored(DocId("doc"), "b:1", '{"a": "secret, too"}')).copied)
        (event,) = [event for event in events if event.get("doc_id") == "doc"]
        self.assertEqual(event["log_level"], LogLevel.warn)
        self.assertNotIn("secret", str(event))

    def test_all_or_none(self) -> None:
        """When a document that comes cannot be read, none of those with it is stored."""
        self.create("doc")
        incoming = [Versions(Stored(DocId("new"), "b:1", "{}")), Versions(Stored(DocId("doc"), "b:1", "nonsense"))]
        self.failureResultOf(Deferred.fromCoroutine(self.store._documents.apply_all(incoming)))
        self.assertIsNone(self.successResultOf(self.store.get_doc("new")))

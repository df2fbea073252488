"""Tests of saving and getting documents through the store's public methods."""

from __future__ import annotations

import os
from typing import Any

from soledad import Document
from soledad.errors import (
    DocumentAlreadyDeleted,
    DocumentDoesNotExist,
    DocumentTooBig,
    InvalidContent,
    InvalidDocId,
    InvalidJSON,
    RevisionConflict,
    StorageFull,
    StoreClosed,
)
from soledad.model.attachment import AttachmentStates
from soledad.model.content import MAX_DEPTH
from tests.client.stores import SoledadTestCase, limit_pages
from tests.workers import HeldWorker

BAD_IDS: list[Any] = ["", "a/b", "a b", "a\n", "a\0", "ä", "a*", "../a", None, 1, b"a"]


class CreateTests(SoledadTestCase):
    """New documents."""

    def test_made_up_id(self) -> None:
        """Without an id, one is made up; the object is clean and knows its store."""
        doc = self.create({"a": 1})
        self.assertRegex(str(doc.doc_id), r"\AD-[0-9a-f]{32}\Z")
        self.assertRegex(str(doc.rev), r"\A[0-9a-f]{32}:1\Z")
        self.assertFalse(self.now(doc.is_dirty()))
        self.assertEqual(self.get(doc.doc_id), doc)

    def test_given_id(self) -> None:
        """An id may have all the characters that ids may have, and be long."""
        for doc_id in ("a", "A.%_-9", ".", "..", "%2F", "x" * 5000):
            self.assertEqual(self.create(doc_id=doc_id).doc_id, doc_id)
            self.assertEqual(self.get(doc_id).doc_id, doc_id)

    def test_bad_ids(self) -> None:
        """What is no id is refused wherever one is taken, and nothing is stored."""
        for bad in BAD_IDS:
            if bad is not None:
                self.fails(self.store.create_doc({}, bad), InvalidDocId)
            self.fails(self.store.get_doc(bad), InvalidDocId)
            self.fails(self.store.get_docs(["a", bad]), InvalidDocId)
        doc = Document()
        for bad in BAD_IDS:
            doc.doc_id = bad
            if bad is not None:
                self.fails(self.store.put_doc(doc), InvalidDocId)
            self.fails(self.store.delete_doc(doc), InvalidDocId)
        self.assertEqual(self.now(self.store.get_all_docs()), (0, []))

    def test_id_taken(self) -> None:
        """An id is taken once; what is there stays."""
        self.create({"first": 1}, "a")
        self.fails(self.store.create_doc({}, "a"), RevisionConflict)
        self.assertEqual(self.get("a").content, {"first": 1})

    def test_over_a_tombstone(self) -> None:
        """A deleted document's id can be used again, and goes on from its revision."""
        self.now(self.store.delete_doc(self.create(doc_id="a")))
        doc = self.create({"new": 1}, "a")
        self.assertTrue(str(doc.rev).endswith(":3"))
        self.assertEqual(self.get("a").content, {"new": 1})

    def test_from_json(self) -> None:
        """Text is kept byte for byte, here and after opening again."""
        text = '{ "b" :1.0,\t"a":"\\u00e4\\/",  "b":2 }\n'
        doc = self.now(self.store.create_doc_from_json(text, "a"))
        self.assertEqual(doc.get_json(), text)
        self.assertEqual(self.get("a").get_json(), text)
        self.reopen()
        again = self.get("a")
        self.assertEqual(again.content, {"a": "ä/", "b": 2})
        again.attach("x", None)
        self.now(self.store.put_doc(again))
        self.assertEqual(self.get("a").get_json(), text)

    def test_not_json(self) -> None:
        """What is no JSON object is refused, and nothing is stored."""
        deep: dict[str, Any] = {}
        for _ in range(MAX_DEPTH):
            deep = {"a": deep}
        wrong: list[Any] = [None, [], "x", {"a": float("nan")}, {1: 2}, {"a": "\ud800"}, {"a": b""}, deep]
        for content in wrong:
            self.fails(self.store.create_doc(content), InvalidContent)
        for text in ("", "[]", "null", "{"):
            self.fails(self.store.create_doc_from_json(text), InvalidJSON)
        # These are objects, but hold what can be written in no other place.
        for text in ('{"a": 1e999}', '{"a": "\\ud800"}'):
            self.fails(self.store.create_doc_from_json(text), InvalidContent)
        self.assertEqual(self.now(self.store.get_all_docs()), (0, []))

    def test_any_content(self) -> None:
        """Unusual content is content all the same."""
        for content in (
            {"": ""},
            {"a\0b": "\0"},
            {"a": 2**70, "b": -0.0},
            {"_id": 1, "doc_id": 2},
            {"a": "\U0001f600"},
        ):
            self.assertEqual(self.get(self.create(content).doc_id).content, content)


class PutTests(SoledadTestCase):
    """Saving again."""

    def test_revisions(self) -> None:
        """Each put gives the next revision, to the caller and to the object."""
        doc = self.create()
        for count in (2, 3):
            rev = self.now(self.store.put_doc(doc))
            self.assertEqual(doc.rev, rev)
            self.assertTrue(rev.endswith(f":{count}"))

    def test_conflict(self) -> None:
        """An object that is behind is refused, and stays as it was; so does the store."""
        doc = self.create(doc_id="a")
        stale = self.get("a")
        self.now(self.store.put_doc(doc))
        rev = stale.rev
        stale.content = {"lost": 1}
        error = self.fails(self.store.put_doc(stale), RevisionConflict)
        self.assertEqual((error.given, error.stored), (rev, doc.rev))  # type: ignore[attr-defined]
        self.assertEqual((stale.rev, stale.content), (rev, {"lost": 1}))
        self.assertTrue(self.now(stale.is_dirty()))
        self.assertEqual(self.get("a").content, {})

    def test_conflicts_of_new_objects(self) -> None:
        """A revision for what is not there, and none for what is, are conflicts."""
        self.create(doc_id="a")
        self.fails(self.store.put_doc(Document("a")), RevisionConflict)
        self.fails(self.store.put_doc(Document("b", "r:1")), RevisionConflict)

    def test_new_object(self) -> None:
        """An object that was made by itself is saved like any other, with an id if it has none."""
        doc = Document(content={"a": 1})
        self.now(self.store.put_doc(doc))
        self.assertEqual(self.get(doc.doc_id), doc)

    def test_snapshot(self) -> None:
        """What is saved is what the object held when it was called."""
        worker = hold_writes(self)
        doc = Document("a", content={"a": 1})
        saving = self.store.put_doc(doc)
        assert doc.content is not None
        doc.content["a"] = 2
        worker.drain()
        self.now(saving)
        self.assertEqual(self.get("a").content, {"a": 1})
        self.assertTrue(self.now(doc.is_dirty()))

    def test_snapshot_is_deep(self) -> None:
        """So it is where indexes look, at any depth."""
        self.now(self.store.create_index("i", "a.b"))
        worker = hold_writes(self)
        docs = [Document(f"d{number}", content={"a": [{"b": ["x"]}]}) for number in range(3)]
        saving = self.store.put_docs(docs)
        for doc in docs:
            assert doc.content is not None
            doc.content["a"][0]["b"][0] = "y"
            doc.content["a"].append({"b": "z"})
        worker.drain()
        self.now(saving)
        self.assertEqual(self.get("d1").content, {"a": [{"b": ["x"]}]})
        self.assertEqual(self.now(self.store.get_index_keys("i")), [("x",)])
        saving = self.store.put_docs(docs)
        worker.drain()
        self.now(saving)
        self.assertEqual(self.now(self.store.get_index_keys("i")), [("y",), ("z",)])

    def test_one_object_many_puts(self) -> None:
        """Puts of one object are carried out in their order, each on the revision before it."""
        worker = hold_writes(self)
        doc = Document("a")
        saving = []
        for number in range(5):
            doc.content = {"n": number}
            saving.append(self.store.put_doc(doc))
        self.assertIsNone(doc.rev)
        worker.drain()
        self.assertEqual([self.now(one).rpartition(":")[2] for one in saving], list("12345"))
        self.assertEqual(self.get("a").content, {"n": 4})
        self.assertEqual(self.now(self.store.whats_changed())[0], 5)

    def test_one_put_refused(self) -> None:
        """Of several puts of one object one may be refused; the next goes on from what is stored."""
        worker = hold_writes(self)
        self.store.doc_size_limit = 20
        doc = Document("a")
        saving = []
        for text in ("x", "x" * 20, "y"):
            doc.content = {"a": text}
            saving.append(self.store.put_doc(doc))
        worker.drain()
        self.now(saving[0])
        self.fails(saving[1], DocumentTooBig)
        self.assertTrue(self.now(saving[2]).endswith(":2"))

    def test_put_and_delete(self) -> None:
        """Deleting waits for its turn too."""
        worker = hold_writes(self)
        doc = Document("a")
        saving, deleting, again = self.store.put_doc(doc), self.store.delete_doc(doc), None
        worker.drain()
        self.now(saving)
        self.assertTrue(self.now(deleting).endswith(":2"))
        self.assertTrue(doc.is_tombstone())
        doc.content = {"back": 1}
        again = self.store.put_doc(doc)
        worker.drain()
        self.assertTrue(self.now(again).endswith(":3"))
        self.assertEqual(self.get("a").content, {"back": 1})

    def test_failed_commit(self) -> None:
        """When nothing can be committed, all calls fail, no object changes, and nothing is lost."""
        docs = [self.create({"n": number}) for number in range(3)]
        revs = [doc.rev for doc in docs]
        database = self.store._local.documents.database
        database.write_now(limit_pages, 0)
        for doc in docs:
            doc.content = {"big": os.urandom(20_000).hex()}
        worker = hold_writes(self)
        saving = [self.store.put_doc(doc) for doc in docs]
        worker.drain()
        for one in saving:
            self.fails(one, StorageFull)
        self.assertEqual([doc.rev for doc in docs], revs)
        self.assertTrue(all(self.now(doc.is_dirty()) for doc in docs))
        database.write_now(limit_pages, 1000)
        self.assertEqual([self.get(doc.doc_id).content for doc in docs], [{"n": 0}, {"n": 1}, {"n": 2}])
        saving = [self.store.put_doc(doc) for doc in docs]
        worker.drain()
        for one in saving:
            self.now(one)

    def test_read_while_closing(self) -> None:
        """Closing waits for what is being read; what was asked for is there still, and nothing more can be."""
        self.create(doc_id="a")
        worker = HeldWorker()
        self.patch(self.store._local.documents.database._reads, "_worker", worker)
        reading, closing = self.store.get_doc("a"), self.store.close()
        self.fails(self.store.get_doc("a"), StoreClosed)
        self.assertNoResult(closing)
        worker.drain()
        found = self.now(reading)
        assert found is not None
        self.assertEqual(found.doc_id, "a")
        self.now(closing)

    def test_refused_in_a_group(self) -> None:
        """A refusal concerns its own call, whatever shares its commit."""
        worker = hold_writes(self)
        docs = [Document("a"), Document("b", "r:1"), Document("c")]
        saving = [self.store.put_doc(doc) for doc in docs]
        worker.drain()
        self.now(saving[0])
        self.fails(saving[1], RevisionConflict)
        self.now(saving[2])
        self.assertEqual([doc.doc_id for doc in self.now(self.store.get_all_docs())[1]], ["a", "c"])


class PutManyTests(SoledadTestCase):
    """All or nothing."""

    def test_all(self) -> None:
        """All are saved, and all objects know it."""
        docs = [Document(content={"n": number}) for number in range(3)]
        self.assertEqual(self.now(self.store.put_docs(docs)), [doc.rev for doc in docs])
        self.assertEqual(self.now(self.store.get_docs([str(doc.doc_id) for doc in docs])), docs)
        self.assertEqual(self.now(self.store.put_docs([])), [])

    def test_or_nothing(self) -> None:
        """If one is refused, for whatever reason, none is saved and no object changes."""
        self.store.doc_size_limit = 100
        bad = [Document("b", "r:1"), Document("c", content={"a": "x" * 100}), Document("d", content={"a": b""})]
        for wrong in bad:
            good = [Document("good"), Document("also-good")]
            self.fails(self.store.put_docs([good[0], wrong, good[1]]))
            self.assertEqual([doc.rev for doc in good], [None, None])
        self.assertEqual(self.now(self.store.get_all_docs()), (0, []))

    def test_or_nothing_of_many(self) -> None:
        """Nor when it is the last of many."""
        self.now(self.store.create_index("n", "number(n, 3)"))
        taken = self.now(self.store.create_doc({"n": 0}, "taken"))
        docs = [Document(content={"n": number}) for number in range(250)]
        self.fails(self.store.put_docs([*docs, Document("taken")]), RevisionConflict)
        self.assertEqual([doc.rev for doc in docs], [None] * 250)
        self.assertEqual(self.now(self.store.get_all_docs()), (1, [taken]))
        self.assertEqual(self.now(self.store.get_count_from_index("n", "*")), 1)
        self.now(self.store.put_docs(docs))
        self.assertEqual(self.now(self.store.get_count_from_index("n", "*")), 251)

    def test_generator(self) -> None:
        """Any iterable will do."""
        self.now(self.store.put_docs(Document() for _ in range(2)))  # type: ignore[arg-type]
        self.assertEqual(self.now(self.store.get_all_docs())[0], 2)


class DeleteTests(SoledadTestCase):
    """Tombstones."""

    def test_delete(self) -> None:
        """The object is a tombstone, and so is what is stored; it is got when it is asked for."""
        doc = self.create({"a": 1}, "a")
        self.now(doc.put_attachment(b"data"))
        self.now(self.store.put_doc(doc))
        rev = self.now(self.store.delete_doc(doc))
        self.assertEqual((doc.rev, doc.content, dict(doc.attachments)), (rev, None, {}))
        self.assertIsNone(self.now(self.store.get_doc("a")))
        self.assertEqual(self.get("a", include_deleted=True), doc)
        self.assertTrue(self.get("a", include_deleted=True).is_tombstone())

    def test_refused(self) -> None:
        """Each reason has its error."""
        self.fails(self.store.delete_doc(Document("missing")), DocumentDoesNotExist)
        doc = self.create(doc_id="a")
        stale = self.get("a")
        self.now(self.store.put_doc(doc))
        self.fails(self.store.delete_doc(stale), RevisionConflict)
        self.assertFalse(stale.is_tombstone())
        self.now(self.store.delete_doc(doc))
        self.fails(self.store.delete_doc(doc), DocumentAlreadyDeleted)

    def test_put_again(self) -> None:
        """The object can be used to put the document again, and so can one that has no revision."""
        doc = self.create(doc_id="a")
        self.now(self.store.delete_doc(doc))
        doc.content = {"back": 1}
        self.assertTrue(self.now(self.store.put_doc(doc)).endswith(":3"))
        self.now(self.store.delete_doc(doc))
        self.assertTrue(self.now(self.store.put_doc(Document("a"))).endswith(":5"))

    def test_put_a_tombstone(self) -> None:
        """Putting a tombstone deletes too."""
        doc = self.create(doc_id="a")
        doc.make_tombstone()
        self.now(self.store.put_doc(doc))
        self.assertIsNone(self.now(self.store.get_doc("a")))


class GetTests(SoledadTestCase):
    """What can be got, and that it knows its store."""

    def test_missing(self) -> None:
        """There is nothing where nothing is."""
        self.assertIsNone(self.now(self.store.get_doc("a")))
        self.assertIsNone(self.now(self.store.get_doc("a", include_deleted=True)))

    def test_order(self) -> None:
        """Several come in the order asked, without the missing, and without the deleted unless they are asked for."""
        for doc_id in "abc":
            doc = self.create(doc_id=doc_id)
        self.now(self.store.delete_doc(doc))
        asked = ["c", "b", "missing", "a"]
        self.assertEqual([doc.doc_id for doc in self.now(self.store.get_docs(asked))], ["b", "a"])
        self.assertEqual([doc.doc_id for doc in self.now(self.store.get_docs(asked, True))], ["c", "b", "a"])
        self.assertEqual(self.now(self.store.get_docs(iter(()))), [])

    def test_all(self) -> None:
        """All come ordered by id, with the generation."""
        for doc_id in "bca":
            doc = self.create(doc_id=doc_id)
        self.now(self.store.delete_doc(doc))
        generation, docs = self.now(self.store.get_all_docs())
        self.assertEqual((generation, [doc.doc_id for doc in docs]), (4, ["b", "c"]))
        self.assertEqual(len(self.now(self.store.get_all_docs(include_deleted=True))[1]), 3)

    def test_knows_its_store(self) -> None:
        """A document from any getter can be asked for its attachments."""
        doc = self.create(doc_id="a")
        self.now(doc.put_attachment(b"data"))
        self.now(self.store.put_doc(doc))
        got = [
            self.get("a"),
            self.now(self.store.get_docs(["a"]))[0],
            self.now(self.store.get_all_docs())[1][0],
            self.now(self.store.create_doc_from_json("{}")),
            self.create(),
        ]
        states = [self.now(one.get_attachment_state()) for one in got]
        self.assertEqual(states, [AttachmentStates.LOCAL] * 3 + [AttachmentStates.NONE] * 2)

    def test_apart(self) -> None:
        """Two objects of one document do not share their content."""
        self.create({"a": [1]}, "a")
        one, other = self.get("a"), self.get("a")
        assert one.content is not None
        one.content["a"].append(2)
        self.assertEqual(other.content, {"a": [1]})

    def test_whats_changed(self) -> None:
        """The log tells what changed since, each document once, with the newest generation and its id."""
        self.assertEqual(self.now(self.store.whats_changed()), (0, "", []))
        doc = self.create(doc_id="a")
        self.create(doc_id="b")
        self.now(self.store.put_doc(doc))
        generation, transaction, changes = self.now(self.store.whats_changed(1))
        self.assertEqual(generation, 3)
        self.assertEqual([change[:2] for change in changes], [("b", 2), ("a", 3)])
        self.assertEqual(changes[-1][2], transaction)
        self.assertEqual(self.now(self.store.whats_changed(3)), (3, transaction, []))


class SizeTests(SoledadTestCase):
    """The limit of a document's size, and what is looked at first."""

    def test_limit(self) -> None:
        """The text's bytes count; the limit itself is allowed; without one, any size is."""
        self.assertIsNone(self.store.doc_size_limit)
        text = '{"a":"ä"}'
        self.store.doc_size_limit = len(text.encode()) - 1
        self.fails(self.store.create_doc_from_json(text), DocumentTooBig)
        self.store.doc_size_limit += 1
        doc = self.now(self.store.create_doc_from_json(text))
        self.store.doc_size_limit = 0
        self.now(self.store.delete_doc(doc))
        self.store.doc_size_limit = None
        self.create({"a": "x" * 1_000_000})

    def test_order(self) -> None:
        """First the id, then the size, then the revision."""
        self.create(doc_id="a")
        self.store.doc_size_limit = 1
        doc = Document("a", "r:9")
        doc.doc_id = "a/b"  # type: ignore[assignment]
        self.fails(self.store.put_doc(doc), InvalidDocId)
        doc.doc_id = "a"  # type: ignore[assignment]
        self.fails(self.store.put_doc(doc), DocumentTooBig)
        self.store.doc_size_limit = 2
        self.fails(self.store.put_doc(doc), RevisionConflict)


def hold_writes(test: SoledadTestCase) -> HeldWorker:
    """Let writes of documents wait until the test lets them go; closing the store lets them go too."""
    worker = HeldWorker()
    writes = test.store._local.documents.database._writes
    original = writes._worker

    def release() -> None:
        worker.drain()
        writes._worker = original

    writes._worker = worker
    test.addCleanup(release)
    return worker

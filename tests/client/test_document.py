"""Tests of `Document` as an object, apart from any store, and beside one."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from soledad import Document
from soledad.errors import DetachedDocument, InvalidContent, InvalidDocId, InvalidJSON
from soledad.model.attachment import Pointer
from soledad.model.ids import BlobId
from tests.client.stores import SoledadTestCase

TEXT = '{ "b" :1.0,\t"a":"\\u00e4" }'
POINTER = Pointer(BlobId("1" * 32), 5, None, bytes(32))
OTHER_POINTER = Pointer(BlobId("2" * 32), 5, None, bytes(32))

COPIES: dict[str, Callable[[Any], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda doc: pickle.loads(pickle.dumps(doc)),
}


class ContentTests(SynchronousTestCase):
    """Content, as a dict and as text."""

    def test_text_as_it_is(self) -> None:
        """The text is the one that was given, byte for byte, also when the content was looked at."""
        doc = Document(json=TEXT)
        self.assertEqual(doc.get_json(), TEXT)
        self.assertEqual(doc.content, {"b": 1.0, "a": "ä"})
        self.assertEqual(doc.get_json(), TEXT)

    def test_live(self) -> None:
        """The content is a live dict: what is changed in it is the document's, and undoing it brings the text back."""
        doc = Document(json=TEXT)
        assert doc.content is not None
        doc.content["c"] = [1]
        self.assertEqual(doc.get_json(), '{"b":1.0,"a":"ä","c":[1]}')
        del doc.content["c"]
        self.assertEqual(doc.get_json(), TEXT)

    def test_a_change_that_equality_does_not_see(self) -> None:
        """1.0 in place of 1 is a change, though Python calls them equal."""
        doc = Document(json='{"a": 1}')
        assert doc.content is not None
        doc.content["a"] = 1.0
        self.assertEqual(doc.get_json(), '{"a":1.0}')

    def test_assigned(self) -> None:
        """A dict that is assigned is the content, that very object; attachments stay."""
        doc, content = Document(json=TEXT), {"new": 1}
        doc.attach("name", POINTER)
        doc.content = content
        self.assertIs(doc.content, content)
        self.assertEqual(doc.get_json(), '{"new":1}')
        self.assertEqual(dict(doc.attachments), {"name": POINTER})

    def test_set_json(self) -> None:
        """Text replaces the content, what was changed in the dict too."""
        doc = Document(content={"a": 1})
        assert doc.content is not None
        doc.content["b"] = 2
        doc.set_json(TEXT)
        self.assertEqual((doc.get_json(), doc.content), (TEXT, {"b": 1.0, "a": "ä"}))

    def test_refused(self) -> None:
        """What is no content is refused, and changes nothing."""
        doc = Document(json=TEXT)
        for text in ("", "[]", "{", '{"a": NaN}', None, 1, b"{}"):
            with self.assertRaises(InvalidJSON, msg=repr(text)):
                doc.set_json(text)  # type: ignore[arg-type]
        wrong: list[Any] = [[], "{}", 1]
        for value in wrong:
            with self.assertRaises(InvalidContent):
                doc.content = value
        self.assertEqual(doc.get_json(), TEXT)
        for made in (lambda: Document(json="[]"), lambda: Document(content=[])):  # type: ignore[arg-type]
            self.assertRaises((InvalidJSON, InvalidContent), made)

    def test_not_json(self) -> None:
        """A dict may hold anything until it is asked for as text."""
        doc = Document(content={"a": {1, 2}})
        self.assertRaises(InvalidContent, doc.get_json)
        self.assertRaises(InvalidContent, doc.snapshot)
        self.failureResultOf(_saved(doc).is_dirty(), InvalidContent)

    def test_tombstone(self) -> None:
        """A tombstone has no content and no attachments; content brings it back."""
        for made in (Document.make_tombstone, lambda doc: setattr(doc, "content", None)):
            doc = Document(json=TEXT)
            doc.attach("name", POINTER)
            self.assertFalse(doc.is_tombstone())
            made(doc)
            self.assertTrue(doc.is_tombstone())
            self.assertEqual((doc.content, doc.get_json(), dict(doc.attachments)), (None, None, {}))
            doc.content = {}
            self.assertFalse(doc.is_tombstone())

    def test_empty(self) -> None:
        """A document begins with an empty object; a tombstone can be made as one."""
        self.assertEqual(Document().content, {})
        self.assertTrue(Document(json=None).is_tombstone())

    def test_ids(self) -> None:
        """An id is checked when the object is made."""
        for bad in ("", "a/b", "ä", "a\n", "a b", 1):
            with self.assertRaises(InvalidDocId, msg=repr(bad)):
                Document(bad)  # type: ignore[arg-type]
        self.assertIsNone(Document().doc_id)


class SameTests(SynchronousTestCase):
    """What is the same, and what is equal."""

    def test_same_content(self) -> None:
        """The order of keys and the way of writing do not matter; numbers, attachments and being deleted do."""
        doc = Document(json='{"a": 1, "b": 2}')
        self.assertTrue(doc.same_content_as(Document(content={"b": 2, "a": 1})))
        self.assertFalse(doc.same_content_as(Document(content={"b": 2, "a": True})))
        self.assertFalse(doc.same_content_as(Document(json=None)))
        self.assertFalse(Document().same_content_as(Document(json=None)))
        attached = Document(json='{"a": 1, "b": 2}')
        attached.attach("name", POINTER)
        self.assertFalse(doc.same_content_as(attached))

    def test_equal(self) -> None:
        """Id, revision, content, attachments and whether it is in conflict make two equal, and nothing else."""
        one = Document("a", "r:1", '{"a": 1}')
        self.assertEqual(one, Document("a", "r:1", '{ "a":1 }'))
        attached = Document("a", "r:1", '{"a": 1}')
        attached.attach("name", POINTER)
        others: list[object] = [
            Document("b", "r:1", '{"a": 1}'),
            Document("a", "r:2", '{"a": 1}'),
            Document("a", "r:1", '{"a": 1.0}'),
            Document("a", "r:1", None),
            Document("a", "r:1", '{"a": 1}', has_conflicts=True),
            attached,
            "a",
            None,
        ]
        for other in others:
            self.assertNotEqual(one, other)

    def test_not_hashable(self) -> None:
        """What can change has no hash."""
        self.assertRaises(TypeError, hash, Document())

    def test_repr(self) -> None:
        """An object shows its id and revision, and nothing of its content."""
        doc = Document("an-id", "r:1", '{"key-secret": "sesame"}')
        doc.attach("name-secret", POINTER)
        for shown in (repr(doc), str(doc), repr(doc.snapshot()), f"{doc}"):
            self.assertNotIn("sesame", shown)
            self.assertNotIn("key-secret", shown)
        self.assertIn("an-id", repr(doc))
        self.assertIn("r:1", repr(doc))
        doc.make_tombstone()
        self.assertIn("tombstone", repr(doc))


class AttachmentsTests(SynchronousTestCase):
    """The mapping of what is attached."""

    def test_read_only(self) -> None:
        """The mapping cannot be changed."""
        doc = Document()
        with self.assertRaises(TypeError):
            doc.attachments["name"] = POINTER  # type: ignore[index]

    def test_attach(self) -> None:
        """Attaching replaces what is under the name, and nothing takes it away."""
        doc = Document()
        doc.attach("a", POINTER)
        doc.attach("b", POINTER)
        doc.attach("a", OTHER_POINTER)
        self.assertEqual(dict(doc.attachments), {"a": OTHER_POINTER, "b": POINTER})
        doc.attach("a", None)
        self.assertEqual(dict(doc.attachments), {"b": POINTER})

    def test_detached(self) -> None:
        """A document of no store can be told apart from one, by every method that needs it."""
        doc = Document("a")
        calls: list[Callable[[], Any]] = [
            lambda: doc.put_attachment(b""),
            doc.get_attachment,
            doc.read_attachment,
            lambda: doc.write_attachment_to(None),  # type: ignore[arg-type]
            doc.upload_attachment,
            doc.download_attachment,
            doc.delete_attachment,
            lambda: doc.link_attachment(doc),
            doc.get_attachment_state,
            doc.is_stale,
        ]
        for call in calls:
            self.assertEqual(self.failureResultOf(call(), DetachedDocument).value.doc_id, "a")
        self.assertTrue(self.successResultOf(doc.is_dirty()))


class CopyTests(SoledadTestCase):
    """Copies and pickles."""

    def copied(self, copier: Callable[[Any], Any]) -> tuple[Document, Document]:
        """Return a document with an attachment, and a copy."""
        doc = self.create({"a": [1]})
        self.now(doc.put_attachment(b"data"))
        self.now(self.store.put_doc(doc))
        return doc, copier(doc)

    def test_equal(self) -> None:
        """A copy is equal, and as dirty as what it was made of."""
        for name, copier in COPIES.items():
            doc, other = self.copied(copier)
            self.assertEqual(doc, other, name)
            self.assertFalse(self.now(other.is_dirty()), name)

    def test_without_the_store(self) -> None:
        """A copy does not know the store; the original goes on knowing it; saving the copy makes it known."""
        for copier in COPIES.values():
            doc, other = self.copied(copier)
            self.fails(other.get_attachment(), DetachedDocument)
            self.assertIsNotNone(self.now(doc.get_attachment()))
            self.now(self.store.put_doc(other))
            self.assertIsNotNone(self.now(other.get_attachment()))

    def test_apart(self) -> None:
        """What is attached to a copy is not attached to the original, nor the other way round."""
        for copier in COPIES.values():
            doc, other = self.copied(copier)
            other.attach("more", POINTER)
            doc.attach("default", None)
            self.assertEqual((list(doc.attachments), list(other.attachments)), ([], ["default", "more"]))
            self.assertIsNot(doc.saving, other.saving)

    def test_deep(self) -> None:
        """Only a shallow copy shares the content."""
        for name, copier in COPIES.items():
            doc, other = self.copied(copier)
            assert doc.content is not None
            doc.content["a"].append(2)
            self.assertEqual(other.content, {"a": [1, 2]} if name == "copy" else {"a": [1]}, name)


class DirtyTests(SoledadTestCase):
    """What is not saved yet."""

    def dirty(self, doc: Document) -> bool:
        """Tell whether it is."""
        return self.now(doc.is_dirty())

    def test_life(self) -> None:
        """New: dirty; saved: not; changed: dirty; changed back: not; deleted: not."""
        doc = Document("a", content={"a": 1})
        self.assertTrue(self.dirty(doc))
        self.now(self.store.put_doc(doc))
        self.assertFalse(self.dirty(doc))
        doc.content = {"a": True}
        self.assertTrue(self.dirty(doc))
        doc.content = {"a": 1}
        self.assertFalse(self.dirty(doc))
        self.now(self.store.delete_doc(doc))
        self.assertFalse(self.dirty(doc))

    def test_loaded(self) -> None:
        """A document that was got is clean; another way of writing the same is no change."""
        doc = self.get(self.now(self.store.create_doc_from_json('{ "a":1 }')).doc_id)
        self.assertFalse(self.dirty(doc))
        doc.set_json('{"a":1}')
        self.assertFalse(self.dirty(doc))
        doc.set_json('{"a":2}')
        self.assertTrue(self.dirty(doc))

    def test_attachments(self) -> None:
        """Attaching makes it dirty, and taking away what was attached clean again."""
        doc = self.create()
        self.now(doc.put_attachment(b"x"))
        self.assertTrue(self.dirty(doc))
        self.now(doc.delete_attachment())
        self.assertFalse(self.dirty(doc))

    def test_stale(self) -> None:
        """An object is stale when the store has another revision."""
        doc = self.create()
        other = self.get(doc.doc_id)
        self.assertFalse(self.now(doc.is_stale()))
        other.content = {"new": 1}
        self.now(self.store.put_doc(other))
        self.assertTrue(self.now(doc.is_stale()))
        self.assertFalse(self.now(other.is_stale()))


def _saved(doc: Document) -> Document:
    """Let a document seem saved, as something else."""
    doc._saved, doc._saved_attachments = "{}", {}
    return doc

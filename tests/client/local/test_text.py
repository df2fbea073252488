"""Tests of full text: what is found by which query, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from soledad.client.local import documents, indexes, queries, text
from soledad.client.local.indexes import Kind
from soledad.errors import InvalidSearch
from soledad.model.attachment import Pointer
from soledad.model.document import Stored, Written
from soledad.model.ids import BlobId, DocId
from soledad.model.index import ALL, Slice
from tests.client.local.test_documents import REPLICA, DocumentsTestCase, in_memory

#: What is told -> a query -> the ids of the documents that have it, the best first.
FOUND: dict[str, tuple[str, list[str]]] = {
    "a word": ("tortoise", ["fable"]),
    "in other letters": ("TORTOISE", ["fable"]),
    "without its accents": ("cafe", ["menu"]),
    "with accents that it has not": ("törtoise", ["fable"]),
    "part of a word": ("tort", []),
    "the beginning of a word": ("tort*", ["fable"]),
    "the end of a word": ("*oise", []),
    "all words, in any order": ("hare tortoise", ["fable"]),
    "words of different fields": ("tortoise aesop", ["fable"]),
    "all words, where one is missing": ("hare rabbit", []),
    "a phrase": ('"the hare"', ["fable"]),
    "a phrase in another order": ('"hare the"', []),
    "a phrase and a word": ('"the hare" aesop', ["fable"]),
    "a phrase and the beginning of a word": ('"the tort"*', ["fable"]),
    "a phrase without an end": ('"the tort"', []),
    "punctuation": ("hare, & tortoise!", ["fable"]),
    "nothing but punctuation": ("&", []),
    "an empty phrase": ('""', []),
    "the name of an attachment": ("invoice", ["mail"]),
    "the whole name of an attachment": ("invoice-2024.pdf", ["mail"]),
    "the type of an attachment": ("application/pdf", ["mail"]),
    "another type": ("application/png", []),
    "a word of a field that is not indexed": ("secretly", []),
    "a key": ("body", []),
    "a list of texts": ("soup", ["menu"]),
    "texts of objects in a list": ("bistro", ["menu"]),
    "an operator is a word": ("tortoise OR soup", []),
    "another operator": ("NOT tortoise", []),
    "one more operator": ("NEAR(hare tortoise)", []),
    "a column is a word": ("c0:tortoise", []),
    "a sign of the engine's": ("-hare", ["fable"]),
    "another sign": ("^hare + tortoise", ["fable"]),
    "braces": ("{hare} (tortoise)", ["fable"]),
    "a quote of SQL": ("hare' --", ["fable"]),
    "NUL": ("hare\0tortoise", ["fable"]),
    "the better match first": ("common", ["much", "little"]),
    "equally good, by id": ("same", ["twin-a", "twin-b"]),
    "other scripts": ("日本語", ["japan"]),
}

#: What is told -> what cannot be searched for.
REFUSED: dict[str, Any] = {
    "nothing": "",
    "white space": " \n\t",
    "NUL": "\0",
    "a quote": '"',
    "a quote that is not closed": 'hare "tortoise',
    "a quote too many": '"hare" "tort"oise"',
    "a star": "*",
    "a star behind a word": "hare *",
    "a star behind nothing": '""*',
    "a lone surrogate": "\ud800",
    "no text": 5,
    "none": None,
    "too many words": "word " * 101,
}


class TextTestCase(DocumentsTestCase):
    """A database with documents and an index of their texts."""

    def setUp(self) -> None:
        """Make them."""
        super().setUp()
        self.make("t", "title", "body", "tags", "places.name")
        self.save("fable", title="The tortoise and the hare", body="Slow and steady.", tags=["aesop"], x="secretly")
        self.save("menu", title="Café", tags=["soup", 5, None], places=[{"name": "Bistro"}, {"name": 7}])
        self.save("mail", attachments={"invoice-2024.pdf": pointer("application/pdf"), "b": pointer(None)}, title=5)
        self.save("much", body="common common", title="common")
        self.save("little", body="common, among many words that are something else")
        self.save("twin-b", body="same")
        self.save("twin-a", body="same")
        self.save("japan", body="日本語 です")
        self.save("nothing")

    def make(self, name: str, *fields: str) -> None:
        """Make a text index."""
        indexes.create(self.cursor, Kind.TEXT, name, fields)

    def save(
        self, doc_id: str, rev: str = "", attachments: Mapping[str, Pointer] | None = None, **content: Any
    ) -> Written:
        """Put a document."""
        stored = Stored(DocId(doc_id), rev, json.dumps(content), attachments or {})
        return documents.put(self.cursor, REPLICA, stored)

    def search(self, query: str, name: str = "t", some: Slice = ALL) -> list[str]:
        """Return the ids of what is found."""
        return [stored.doc_id for stored in queries.search(self.cursor, name, text.expression(query), some)]


def pointer(content_type: str | None) -> Pointer:
    """Return a pointer to something of a type."""
    return Pointer(BlobId("1" * 32), 5, content_type, bytes(32))


class SearchTests(TextTestCase):
    """What is found."""

    def test_found(self) -> None:
        """Each query finds what stands beside it."""
        for what, (query, expected) in FOUND.items():
            self.assertEqual(self.search(query), expected, what)

    def test_slices(self) -> None:
        """Limit and offset."""
        self.assertEqual(self.search("same", some=Slice(1)), ["twin-a"])
        self.assertEqual(self.search("same", some=Slice(5, 1)), ["twin-b"])
        self.assertEqual(self.search("same", some=Slice(0)), [])

    def test_refused(self) -> None:
        """Each of these is refused, with a reason."""
        for what, query in REFUSED.items():
            with self.assertRaises(InvalidSearch, msg=what) as caught:
                text.expression(query)
            self.assertTrue(caught.exception.reason)

    def test_whole_documents(self) -> None:
        """An answer has all of a document."""
        written = self.save("whole", attachments={"picture": pointer("image/png")}, body="whole")
        (stored,) = queries.search(self.cursor, "t", text.expression("whole"))
        self.assertEqual((stored.rev, stored.content), (written.rev, '{"body": "whole"}'))
        self.assertEqual(stored.attachments, {"picture": pointer("image/png")})


class AnyQueryTests(DocumentsTestCase):
    """That nobody can ask what SQLite does not understand."""

    @given(st.text('ab"*():^-+{} \0\n,.\\') | st.text())
    def test_any_query(self, query: str) -> None:
        """Whatever is typed, it is refused or answered; a document that has all of the words as they are is found."""
        self.connection = in_memory()
        cursor = self.connection.cursor()
        indexes.create(cursor, Kind.TEXT, "t", ["body"])
        content = json.dumps({"body": query.replace("*", " ").replace('"', " ")})
        documents.put(cursor, REPLICA, Stored(DocId("d"), "", content))
        try:
            expression = text.expression(query)
        except InvalidSearch:
            return
        found = queries.search(cursor, "t", expression)
        if '"' not in query and any("a" <= character <= "b" for character in query):
            self.assertEqual(len(found), 1)
        self.connection.close()


class UpkeepTests(TextTestCase):
    """What is found after each kind of write."""

    def test_change(self) -> None:
        """A changed document is found by what it has now."""
        written = self.save("d", body="before")
        self.save("d", written.rev, body="after")
        self.assertEqual((self.search("before"), self.search("after")), ([], ["d"]))

    def test_attachments(self) -> None:
        """A change of attachments alone is seen, too."""
        written = self.save("d", body="text")
        written = self.save("d", written.rev, {"holiday.png": pointer("image/png")}, body="text")
        self.assertEqual((self.search("holiday"), self.search("text image")), (["d"], ["d"]))
        self.save("d", written.rev, body="text")
        self.assertEqual(self.search("holiday"), [])

    def test_delete(self) -> None:
        """A tombstone is not found; what comes after it is."""
        self.delete(DocId("d"), self.save("d", body="before").rev)
        self.assertEqual(self.search("before"), [])
        self.save("d", body="again")
        self.assertEqual(self.search("again"), ["d"])

    def test_create_later(self) -> None:
        """An index covers the documents that are there, and no tombstones."""
        self.delete(DocId("d"), self.save("d", body="common").rev)
        self.patch(indexes, "_BATCH", 2)
        self.make("later", "body")
        self.assertEqual(self.search("common", "later"), ["much", "little"])
        self.assertEqual(self.search("pdf", "later"), ["mail"])

    def test_delete_index(self) -> None:
        """A deleted index leaves no table."""
        indexes.delete(self.cursor, Kind.TEXT, "t")
        query = "SELECT name FROM sqlite_master WHERE name GLOB 'text_*'"
        self.assertEqual(self.cursor.execute(query).fetchall(), [])
        self.save("d", body="x")

    def test_undone(self) -> None:
        """What a savepoint undoes is not found."""
        self.cursor.execute("BEGIN")
        self.cursor.execute("SAVEPOINT call")
        self.save("d", body="undone")
        self.cursor.execute("ROLLBACK TO call")
        self.cursor.execute("RELEASE call")
        self.save("e", body="done")
        self.cursor.execute("COMMIT")
        self.assertEqual((self.search("undone"), self.search("done")), ([], ["e"]))

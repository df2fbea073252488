"""Tests of the tables of indexes: which there are, and which rows they have after each write."""

from __future__ import annotations

import json
from typing import Any

from soledad.client.local import documents, indexes
from soledad.client.local.database import Cursor
from soledad.client.local.indexes import Kind
from soledad.errors import IndexDoesNotExist, IndexNameTakenError, TooManyKeys
from soledad.model import index
from soledad.model.document import Stored
from soledad.model.ids import DocId
from tests.client.local.test_documents import DOC, OTHER, REPLICA, DocumentsTestCase

#: Names that would do harm if they got into SQL.
NAMES = ["", "index_1", "'; DROP TABLE document; --", '"', "a\0b", "größe", "*", "text_1"]


class IndexesTestCase(DocumentsTestCase):
    """A database with documents and indexes."""

    def save(self, doc_id: str, content: dict[str, Any], rev: str = "") -> str:
        """Put a document; return its revision."""
        return self.put(DocId(doc_id), rev, json.dumps(content)).rev

    def create(self, name: str, *expressions: str) -> None:
        """Make an index."""
        indexes.create(self.cursor, Kind.KEYS, name, expressions)

    def rows(self, name: str = "i") -> list[tuple[str, ...]]:
        """Return all rows of an index, in their order."""
        return rows(self.cursor, name)


def rows(cursor: Cursor, name: str) -> list[tuple[str, ...]]:
    """Return all rows of an index, in their order."""
    table = indexes.find(cursor, Kind.KEYS, name).table
    return [tuple(row) for row in cursor.execute(f"SELECT * FROM {table}")]


class DefinitionTests(IndexesTestCase):
    """Which indexes there are."""

    def tables(self) -> set[str]:
        """Return the names of the tables of indexes."""
        query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'index_*'"
        return {row[0] for row in self.cursor.execute(query)}

    def test_list(self) -> None:
        """Indexes are listed as they were defined, in the order in which they were made, by kind."""
        self.create("z", " a ", "lower(b)")
        self.create("a", "å")
        indexes.create(self.cursor, Kind.TEXT, "z", ["body"])
        self.assertEqual(indexes.listed(self.cursor, Kind.KEYS), [("z", [" a ", "lower(b)"]), ("a", ["å"])])
        self.assertEqual(indexes.listed(self.cursor, Kind.TEXT), [("z", ["body"])])

    def test_same(self) -> None:
        """The same definition again is no change, whatever the white space."""
        self.create("i", "lower(a)", "b")
        self.save("d", {"a": "x", "b": "y"})
        self.create("i", "lower( a )", "b")
        self.assertEqual(indexes.listed(self.cursor, Kind.KEYS), [("i", ["lower(a)", "b"])])
        self.assertEqual(self.rows(), [("x", "y", "d")])

    def test_taken(self) -> None:
        """Another definition under the same name is refused, other order and fewer columns included."""
        self.create("i", "a", "b")
        for expressions in (["b", "a"], ["a"], ["a", "b", "b"], ["lower(a)", "b"]):
            with self.assertRaises(IndexNameTakenError):
                self.create("i", *expressions)
        self.assertEqual(indexes.listed(self.cursor, Kind.KEYS), [("i", ["a", "b"])])

    def test_delete(self) -> None:
        """A deleted index leaves nothing, and can be made again, also with another definition."""
        self.create("i", "a")
        self.save("d", {"a": "x", "b": "y"})
        indexes.delete(self.cursor, Kind.KEYS, "i")
        self.assertEqual((indexes.listed(self.cursor, Kind.KEYS), self.tables()), ([], set()))
        self.create("i", "b")
        self.assertEqual(self.rows(), [("y", "d")])

    def test_delete_one(self) -> None:
        """Deleting an index leaves the others, also one of the same name and another kind."""
        self.create("i", "a")
        self.create("j", "a")
        indexes.create(self.cursor, Kind.TEXT, "i", ["a"])
        self.save("d", {"a": "x"})
        indexes.delete(self.cursor, Kind.KEYS, "i")
        self.assertEqual(self.rows("j"), [("x", "d")])
        self.assertEqual(indexes.listed(self.cursor, Kind.TEXT), [("i", ["a"])])

    def test_unknown(self) -> None:
        """What is not there cannot be deleted or found."""
        indexes.create(self.cursor, Kind.TEXT, "i", ["a"])
        for refused in (indexes.delete, indexes.find):
            with self.assertRaises(IndexDoesNotExist) as caught:
                refused(self.cursor, Kind.KEYS, "i")
            self.assertEqual(caught.exception.name, "i")

    def test_any_name(self) -> None:
        """A name may be any text: it is only ever a value."""
        for name in NAMES:
            self.create(name, f"a{NAMES.index(name)}")
        self.save("d", {"a4": "x"})
        self.assertEqual([name for name, _ in indexes.listed(self.cursor, Kind.KEYS)], NAMES)
        self.assertEqual([len(self.rows(name)) for name in NAMES], [0, 0, 0, 0, 1, 0, 0, 0])

    def test_any_field(self) -> None:
        """So may be a field."""
        for number, name in enumerate(["'; DROP TABLE document; --", '"', "a\0b"]):
            self.create(str(number), name)
            self.save(f"d{number}", {name: "x"})
            self.assertEqual(self.rows(str(number)), [("x", f"d{number}")])

    def test_numbers_are_not_used_again(self) -> None:
        """A new index never gets the table of one that was deleted."""
        self.create("i", "a")
        before = self.tables()
        indexes.delete(self.cursor, Kind.KEYS, "i")
        self.create("i", "a")
        self.assertEqual(before & self.tables(), set())


class RowTests(IndexesTestCase):
    """Which rows there are, whatever came first."""

    def test_put(self) -> None:
        """A new document has a row for each key."""
        self.create("i", "a", "b")
        self.save("d", {"a": ["x", "y"], "b": "z"})
        self.assertEqual(self.rows(), [("x", "z", "d"), ("y", "z", "d")])

    def test_change(self) -> None:
        """A changed document has the rows of its new content, and no others."""
        self.create("i", "a")
        rev = self.save("d", {"a": ["x", "y"]})
        rev = self.save("d", {"a": ["y", "z"]}, rev)
        self.assertEqual(self.rows(), [("y", "d"), ("z", "d")])
        self.save("d", {"b": "x"}, rev)
        self.assertEqual(self.rows(), [])

    def test_delete(self) -> None:
        """A tombstone has no rows; what comes after it has some again."""
        self.create("i", "a", "is_null(b)")
        self.delete(DocId("d"), self.save("d", {"a": "x"}))
        self.assertEqual(self.rows(), [])
        self.save("d", {"a": "y"})
        self.assertEqual(self.rows(), [("y", "1", "d")])

    def test_create_later(self) -> None:
        """An index covers the documents that are there: many of them, and no tombstones."""
        for number in range(30):
            self.save(f"d{number:02}", {"a": str(number % 3)})
        self.delete(DocId("d00"), f"{REPLICA}:1")
        self.patch(indexes, "_BATCH", 7)
        self.create("i", "a")
        expected = sorted((str(number % 3), f"d{number:02}") for number in range(1, 30))
        self.assertEqual(self.rows(), expected)

    def test_other_documents(self) -> None:
        """The rows of other documents stay."""
        self.create("i", "a")
        revs = [self.save(name, {"a": "x"}) for name in ("d", "e")]
        self.save("d", {"a": "y"}, revs[0])
        self.assertEqual(self.rows(), [("x", "e"), ("y", "d")])

    def test_refused(self) -> None:
        """A document with too many keys is refused, and named; a text index does not mind."""
        self.create("i", "split_words(a)")
        indexes.create(self.cursor, Kind.TEXT, "i", ["a"])
        words = " ".join(map(str, range(10_001)))
        with self.assertRaises(TooManyKeys) as caught:
            self.save("d", {"a": words})
        self.assertEqual((caught.exception.index, caught.exception.doc_id, caught.exception.number), ("i", "d", 10_001))

    def test_many(self) -> None:
        """As many keys as are allowed are kept, and go again."""
        self.create("i", "split_words(a)")
        rev = self.save("d", {"a": " ".join(map(str, range(10_000)))})
        self.assertEqual(len(self.rows()), 10_000)
        self.save("d", {}, rev)
        self.assertEqual(self.rows(), [])

    def test_refused_index(self) -> None:
        """Nor is an index made of documents that have too many."""
        self.save("d", {"a": " ".join(map(str, range(10_001)))})
        with self.assertRaises(TooManyKeys):
            self.create("i", "split_words(a)")

    def test_elsewhere(self) -> None:
        """A document that was written elsewhere, with too many keys, is stored; it is not in that index."""
        self.create("i", "split_words(a)")
        many = Stored(DOC, "b:1", json.dumps({"a": " ".join(map(str, range(10_001)))}))
        few = Stored(DOC, "b:2", '{"a": "x"}')
        with indexes.Upkeep(self.cursor) as upkeep:
            self.assertEqual(upkeep.reindex(1, None, many, ours=False), frozenset())
        self.assertEqual(self.rows(), [])
        with indexes.Upkeep(self.cursor) as upkeep:
            self.assertEqual(upkeep.reindex(1, many.content, few, ours=False), {"i"})
        self.assertEqual(self.rows(), [("x", DOC)])

    def test_several(self) -> None:
        """Of several writes in one job, the last one counts, whatever the rows between."""
        self.create("i", "a")
        rev = self.save("d", {"a": ["x", "y"]})
        contents = ({"a": ["y", "z"]}, {"a": ["x"]}, {"a": ["x", "z"]})
        stored = [
            Stored(DocId("d"), f"{REPLICA}:{number}", json.dumps(content)) for number, content in enumerate(contents, 1)
        ]
        self.assertEqual(rev, stored[0].rev)
        documents.put_all(self.cursor, REPLICA, stored)
        self.assertEqual(self.rows(), [("x", "d"), ("z", "d")])

    def test_new_and_changed(self) -> None:
        """New documents, and those that change since, in one job: each has the rows of what it is in the end."""
        self.create("i", "a")
        stored = [
            Stored(DocId(doc_id), rev and f"{REPLICA}:{rev}", json.dumps({"a": values}))
            for doc_id, rev, values in (
                ("d", "", ["x", "y"]),
                ("e", "", ["x"]),
                ("d", "1", ["y", "z"]),
                ("f", "", ["x"]),
                ("f", "1", []),
                ("g", "", ["y"]),
                ("f", "2", ["x"]),
                ("e", "1", ["w"]),
            )
        ]
        documents.put_all(self.cursor, REPLICA, stored)
        self.assertEqual(self.rows(), [("w", "e"), ("x", "f"), ("y", "d"), ("y", "g"), ("z", "d")])

    def test_names(self) -> None:
        """A write tells in which indexes the document was, or is."""
        for name in ("a", "b", "c"):
            self.create(name, name)
        indexes.create(self.cursor, Kind.TEXT, "text", ["a"])
        first = self.put(DOC, "", '{"a": "x"}')
        self.assertEqual(first.indexes, {"a"})
        second = self.put(DOC, first.rev, '{"b": "x"}')
        self.assertEqual(second.indexes, {"a", "b"})
        third = self.put(DOC, second.rev, '{"b": "x"}')
        self.assertEqual(third.indexes, {"b"})
        self.assertEqual(self.delete(DOC, third.rev).indexes, {"b"})
        self.assertEqual(self.put(OTHER).indexes, set())


class RulesTests(IndexesTestCase):
    """Rows that were made by other rules."""

    def test_refresh(self) -> None:
        """They are all made anew, once; also where a document has more keys than are allowed now."""
        self.create("i", "lower(a)")
        self.save("d", {"a": "X"})
        indexes.refresh(self.cursor)
        self.assertTrue(indexes.up_to_date(self.cursor))
        table = indexes.find(self.cursor, Kind.KEYS, "i").table
        self.cursor.execute(f"UPDATE {table} SET c0 = 'of another Unicode'")
        indexes.refresh(self.cursor)
        self.assertEqual(self.rows(), [("of another Unicode", "d")])
        self.cursor.execute("UPDATE meta SET value = '1 1.0.0' WHERE key = 'indexed'")
        self.assertFalse(indexes.up_to_date(self.cursor))
        self.patch(index, "MAX_KEYS", 2)
        self.cursor.execute(
            'INSERT INTO document (doc_id, rev, content) VALUES (\'e\', \'b:1\', \'{"a": ["1", "2", "3"]}\')'
        )
        indexes.refresh(self.cursor)
        self.assertEqual(self.rows(), [("x", "d")])

    def test_text(self) -> None:
        """So are those of text indexes."""
        indexes.create(self.cursor, Kind.TEXT, "t", ["a"])
        self.save("d", {"a": "x"})
        table = indexes.find(self.cursor, Kind.TEXT, "t").table
        self.cursor.execute(f"DELETE FROM {table}")
        indexes.refresh(self.cursor)
        self.assertEqual(self.cursor.execute(f"SELECT rowid FROM {table} WHERE {table} MATCH 'x'").fetchall(), [(1,)])


class PlanTests(IndexesTestCase):
    """That keeping indexes scans nothing."""

    def test_search(self) -> None:
        """What a write does is answered by primary keys."""
        self.create("i", "a", "b")
        queries = {
            "SELECT id, kind, name, definition FROM query_index WHERE kind = ? AND name = ?": 2,
            "DELETE FROM index_1 WHERE c0 = ? AND c1 = ? AND doc = ?": 3,
            "SELECT content FROM document WHERE id > ? AND content IS NOT NULL ORDER BY id LIMIT ?": 2,
        }
        for query, count in queries.items():
            plan = self.cursor.execute(f"EXPLAIN QUERY PLAN {query}", [1] * count).fetchall()
            self.assertEqual([row[3].split()[0] for row in plan], ["SEARCH"], plan)

    def test_statements(self) -> None:
        """These are the statements that a write runs."""
        self.create("i", "a", "b")
        statements: list[str] = []
        self.connection.set_trace_callback(statements.append)
        rev = self.save("d", {"a": "x", "b": "y"})
        self.save("d", {"a": "x", "b": "z"}, rev)
        self.connection.set_trace_callback(None)
        deleted = [one for one in statements if one.startswith("DELETE FROM index_1")]
        self.assertEqual(deleted, ["DELETE FROM index_1 WHERE c0 = 'x' AND c1 = 'y' AND doc = 'd'"])
        self.assertEqual(sum("INTO index_1" in one for one in statements), 2)

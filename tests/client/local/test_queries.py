"""Tests of queries: what they answer with, in which order, and how SQLite goes about it."""

from __future__ import annotations

from typing import Any

from soledad.client.local import indexes, queries, text
from soledad.client.local.indexes import Kind
from soledad.errors import IndexDoesNotExist, InvalidGlobbing, InvalidValueForIndex
from soledad.model import index
from soledad.model.document import Stored
from soledad.model.ids import DocId
from soledad.model.index import ANY, Exact, Prefix, Slice
from tests.client.local.test_documents import BLOB, pointer
from tests.client.local.test_indexes import IndexesTestCase

#: Documents by id: what they have at ``a`` and at ``b``.
DOCUMENTS: dict[str, tuple[Any, Any]] = {
    "d1": ("apple", "red"),
    "d2": ("apple", "green"),
    "d3": ("Apple", "red"),
    "d4": ("apricot", ["red", "blue"]),
    "d5": ("banana", ""),
    "d6": (["apple", "banana"], "yellow"),
    "d7": ("", "red"),
    "d8": ("50%_off", "x*"),
    "d9": ("50 off", "x"),
    "e1": ("äpfel", "red"),
    "e2": ("\U0001f34e", "red"),
    "e3": ("\uffee", "red"),
    "e4": (5, "red"),
    "e5": ("pear", None),
}

#: What is told -> values for one column -> the ids of the answer.
ONE_COLUMN: dict[str, tuple[Any, list[str]]] = {
    "a text": ("apple", ["d1", "d2", "d6"]),
    "a text in other letters": ("APPLE", []),
    "a prefix": ("ap*", ["d1", "d2", "d6", "d4"]),
    "a prefix of one": ("appl*", ["d1", "d2", "d6"]),
    "a prefix that is not ASCII": ("ä*", ["e1"]),
    "the empty text": ("", ["d7"]),
    "a percent sign": ("50%*", ["d8"]),
    "an underscore": ("50%_off", ["d8"]),
    "an underscore is no wildcard": ("50%off", []),
    "a question mark is no wildcard": ("appl?", []),
    "a bracket is no wildcard": ("[a]pple", []),
    "a star in the middle": ("ap*e", []),
    "a number, as text": ("5", []),
    # In binary order: the empty text first, capitals before small letters, what is beyond U+FFFF last.
    "everything": ("*", ["d7", "d9", "d8", "d3", "d1", "d2", "d6", "d4", "d5", "e5", "e1", "e3", "e2"]),
    "ANY": (ANY, ["d7", "d9", "d8", "d3", "d1", "d2", "d6", "d4", "d5", "e5", "e1", "e3", "e2"]),
    "Exact": (Exact("apple"), ["d1", "d2", "d6"]),
    "Exact, with a star": (Exact("ap*"), []),
    "Prefix": (Prefix("b"), ["d5", "d6"]),
}

#: What is told -> values for two columns -> the ids of the answer.
TWO_COLUMNS: dict[str, tuple[tuple[Any, ...], list[str]]] = {
    "two texts": (("apple", "red"), ["d1"]),
    "a text and a prefix": (("apple", "r*"), ["d1"]),
    "a text and everything": (("apple", "*"), ["d2", "d1", "d6"]),
    "a prefix and everything": (("ap*", "*"), ["d2", "d1", "d6", "d4"]),
    "everything": (("*", "*"), ["d7", "d9", "d8", "d3", "d2", "d1", "d6", "d4", "d5", "e1", "e3", "e2"]),
    "one of several values": (("apricot", "blue"), ["d4"]),
    "several values, once": (("apricot", "*"), ["d4"]),
    "everything matches the empty text": (("banana", "*"), ["d5", "d6"]),
    "exactly a star at the end": (("50%_off", Exact("x*")), ["d8"]),
    "a star at the end": (("50*", "*"), ["d9", "d8"]),
    "a prefix with a star": (("50%_off", Prefix("x*")), ["d8"]),
}

#: What is told -> bounds for one column -> the ids of the answer.
RANGES: dict[str, tuple[Any, Any, list[str]]] = {
    "both open": (None, None, ["d7", "d9", "d8", "d3", "d1", "d2", "d6", "d4", "d5", "e5", "e1", "e3", "e2"]),
    "from a text on": ("banana", None, ["d5", "d6", "e5", "e1", "e3", "e2"]),
    "up to a text": (None, "Apple", ["d7", "d9", "d8", "d3"]),
    "between": ("apple", "apricot", ["d1", "d2", "d6", "d4"]),
    "between texts that are not there": ("apples", "bananas", ["d4", "d5", "d6"]),
    "from a prefix on": ("p*", None, ["e5", "e1", "e3", "e2"]),
    "up to a prefix": ("apple", "ap*", ["d1", "d2", "d6", "d4"]),
    "one text": ("apple", "apple", ["d1", "d2", "d6"]),
    "the wrong way round": ("b", "a", []),
    "tuples": (("apple",), ("apricot",), ["d1", "d2", "d6", "d4"]),
    "exactly": (Exact("apple"), Prefix("ap"), ["d1", "d2", "d6", "d4"]),
}

#: What is told -> bounds for two columns -> the ids of the answer.
TUPLES: dict[str, tuple[Any, Any, list[str]]] = {
    "between": (("apple", "red"), ("apricot", "blue"), ["d1", "d6", "d4"]),
    "from": (("apricot", "c"), None, ["d4", "d5", "d6", "e1", "e3", "e2"]),
    "up to": (None, ("Apple", "red"), ["d7", "d9", "d8", "d3"]),
    "up to, not quite": (None, ("Apple", "rea"), ["d7", "d9", "d8"]),
    "up to a prefix": (("apple", "a"), ("apple", "g*"), ["d2"]),
    "all of a text": (("apple", "*"), ("apple", "*"), ["d2", "d1", "d6"]),
    "from a prefix on": (("apple", "y*"), ("apricot", "a"), ["d6"]),
}

#: Every shape that a query of two columns can have: start and end.
SHAPES: list[tuple[Any, Any]] = [
    (("x", "y"), ("x", "y")),
    (("x", "y*"), ("x", "y*")),
    (("x", "*"), ("x", "*")),
    (("x*", "*"), ("x*", "*")),
    (("*", "*"), ("*", "*")),
    (None, None),
    (("x", "y"), None),
    (None, ("x", "y")),
    (("x", "y"), ("x", "z")),
    (("w", "y"), ("x", "z*")),
    (("w*", "*"), ("x*", "*")),
    (("w", "*"), ("x", "*")),
]


class QueriesTestCase(IndexesTestCase):
    """A database with documents and two indexes."""

    def setUp(self) -> None:
        """Make them."""
        super().setUp()
        self.create("one", "a")
        self.create("two", "a", "b")
        for doc_id, (a, b) in DOCUMENTS.items():
            self.save(doc_id, {"a": a, "b": b})

    def find(self, name: str, start: Any, end: Any, some: Slice = index.ALL) -> list[str]:
        """Return the ids of a range."""
        return [stored.doc_id for stored in queries.get_range(self.cursor, name, start, end, some)]

    def plan(self, query: tuple[str, tuple[Any, ...]]) -> list[str]:
        """Return how SQLite goes about a query."""
        return [row[3] for row in self.cursor.execute(f"EXPLAIN QUERY PLAN {query[0]}", query[1])]


class AnswerTests(QueriesTestCase):
    """What queries answer with."""

    def test_one_column(self) -> None:
        """Each value has the answer that stands beside it, and the count agrees."""
        for what, (value, expected) in ONE_COLUMN.items():
            self.assertEqual(self.find("one", [value], [value]), expected, what)
            self.assertEqual(queries.count(self.cursor, "one", [value], [value]), len(expected), what)

    def test_two_columns(self) -> None:
        """Two values have the answer that stands beside them, and the count agrees."""
        for what, (values, expected) in TWO_COLUMNS.items():
            self.assertEqual(self.find("two", values, values), expected, what)
            self.assertEqual(queries.count(self.cursor, "two", values, values), len(expected), what)

    def test_ranges(self) -> None:
        """Two bounds have the answer that stands beside them."""
        for what, (start, end, expected) in RANGES.items():
            self.assertEqual(self.find("one", start, end), expected, what)
            self.assertEqual(queries.count(self.cursor, "one", start, end), len(expected), what)

    def test_tuples(self) -> None:
        """Bounds of two columns are compared as tuples."""
        for what, (start, end, expected) in TUPLES.items():
            self.assertEqual(self.find("two", start, end), expected, what)

    def test_whole_documents(self) -> None:
        """An answer has all of a document."""
        written = self.put(DocId("d"), content='{"a" : "whole"}', blobs=[BLOB])
        attached = {f"name of {BLOB}": pointer(BLOB)}
        self.assertEqual(
            queries.get_range(self.cursor, "one", "whole", "whole"),
            [Stored(DocId("d"), written.rev, '{"a" : "whole"}', attached)],
        )

    def test_slices(self) -> None:
        """Limit and offset count documents, not keys, for every kind of query."""
        for values in (("*", "*"), ("apple", "*"), ("apple", "red")):
            everything = self.find("two", values, values)
            for offset in range(len(everything) + 2):
                for limit in (None, 0, 1, 2, 99):
                    end = None if limit is None else offset + limit
                    some = self.find("two", values, values, Slice(limit, offset))
                    self.assertEqual(some, everything[offset:end], (values, offset, limit))

    def test_keys(self) -> None:
        """Keys come once each, ascending, as tuples; of them, too, some can be had."""
        keys = queries.keys(self.cursor, "one")
        expected = {a for value, _ in DOCUMENTS.values() for a in (value if isinstance(value, list) else [value])}
        self.assertEqual(keys, sorted((text,) for text in expected if isinstance(text, str)))
        self.assertEqual(queries.keys(self.cursor, "one", Slice(2, 1)), keys[1:3])
        self.assertEqual(queries.keys(self.cursor, "two")[0], ("", "red"))

    def test_refused(self) -> None:
        """Unknown indexes, other numbers of values and wild wildcards are refused by all that take them."""
        indexes.create(self.cursor, Kind.TEXT, "text", ["a"])
        for query in (queries.get_range, queries.count):
            with self.assertRaises(IndexDoesNotExist):
                query(self.cursor, "text", "x", "x")
            with self.assertRaises(InvalidValueForIndex):
                query(self.cursor, "two", "x", "x")
            with self.assertRaises(InvalidGlobbing):
                query(self.cursor, "two", ("*", "x"), ("*", "x"))
        with self.assertRaises(IndexDoesNotExist):
            queries.keys(self.cursor, "text")
        with self.assertRaises(IndexDoesNotExist):
            queries.search(self.cursor, "one", "x")

    def test_texts_as_values(self) -> None:
        """Whatever a value is, it is only a value."""
        for value in ("' OR 1 = 1 --", '"', "a\0b", "'; DROP TABLE document; --"):
            self.assertEqual(self.find("one", value, value), [])
            self.save(f"x{ord(value[0])}{len(value)}", {"a": value})
            self.assertEqual(len(self.find("one", Exact(value), Exact(value))), 1)


class PlanTests(QueriesTestCase):
    """That nothing is scanned or sorted, whatever the shape of the query."""

    def test_documents(self) -> None:
        """The index is searched by its columns, in its order, and then each document by its id."""
        one = indexes.find(self.cursor, Kind.KEYS, "two")
        for start, end in SHAPES:
            plan = self.plan(queries.documents_query(one, index.between(start, end, 2)))
            self.assertRegex(plan[0], r"^SEARCH index_2 USING PRIMARY KEY \(", (start, end))
            self.assertRegex(plan[1], r"^SEARCH document USING INDEX \w+ \(doc_id=\?\)$")
            self.assertEqual([step for step in plan if "SCAN" in step or "B-TREE" in step], [], (start, end))

    def test_columns(self) -> None:
        """Where both columns are given, both are searched for."""
        one = indexes.find(self.cursor, Kind.KEYS, "two")
        for start, end in SHAPES[:2]:
            plan = self.plan(queries.documents_query(one, index.between(start, end, 2)))
            self.assertIn("((c0,c1)>(?,?) AND (c0,c1)<(?,?))", plan[0])

    def test_count(self) -> None:
        """Counting searches the index alone, and needs no set of documents where each comes once anyway."""
        one = indexes.find(self.cursor, Kind.KEYS, "two")
        for start, end in SHAPES:
            wanted = index.between(start, end, 2)
            plan = self.plan(queries.count_query(one, wanted))
            self.assertRegex(plan[-1], r"^SEARCH index_2 USING PRIMARY KEY \(")
            self.assertEqual(len(plan), 1 if wanted.single else 2, plan)

    def test_keys(self) -> None:
        """Keys come in the order of the index."""
        one = indexes.find(self.cursor, Kind.KEYS, "two")
        self.assertEqual(self.plan(queries.keys_query(one, Slice(3, 1))), ["SEARCH index_2 USING PRIMARY KEY (c0>?)"])

    def test_text(self) -> None:
        """Full text is asked first; each document is found by its number."""
        indexes.create(self.cursor, Kind.TEXT, "text", ["a"])
        one = indexes.find(self.cursor, Kind.TEXT, "text")
        plan = self.plan(queries.search_query(one, text.expression("x"), index.ALL))
        self.assertEqual(plan[0], "SCAN text_3 VIRTUAL TABLE INDEX 0:M2")
        self.assertEqual(plan[1], "SEARCH document USING INTEGER PRIMARY KEY (rowid=?)")

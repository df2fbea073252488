"""Tests of inserting many rows, and many documents, in one statement: at the ends of blocks, and what is there."""

from __future__ import annotations

from collections.abc import Iterable

import sqlcipher3.dbapi2 as sqlcipher
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.local import bulk, documents, indexes
from soledad.client.local.bulk import BLOCK
from soledad.client.local.indexes import Kind
from soledad.errors import RevisionConflict
from soledad.model.conflict import Applied, Outcome, Versions
from soledad.model.document import Stored, Written
from soledad.model.ids import DocId
from soledad.model.index import MAX_COLUMNS
from tests.client.local.test_documents import REPLICA, DocumentsTestCase

#: Around the ends of the first block, and of the second.
NUMBERS = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1, 2 * BLOCK, 2 * BLOCK + 1]


class InsertTests(SynchronousTestCase):
    """Rows of any table."""

    def test_numbers(self) -> None:
        """All rows get in, in their order, however many they are."""
        for number in NUMBERS:
            cursor = sqlcipher.connect(":memory:").cursor()
            cursor.execute("CREATE TABLE t (a, b)")
            rows = [(str(one), one) for one in range(number)]
            bulk.insert(cursor, "INSERT INTO t", rows)
            self.assertEqual(cursor.execute("SELECT a, b FROM t ORDER BY rowid").fetchall(), rows)

    def test_behind(self) -> None:
        """What ends the statement holds for all rows: those of blocks, and the others."""
        for number in NUMBERS:
            cursor = sqlcipher.connect(":memory:").cursor()
            cursor.execute("CREATE TABLE t (a PRIMARY KEY, b)")
            for times in (1, 2):
                rows = [(one, times) for one in range(number)]
                bulk.insert(cursor, "INSERT INTO t", rows, "ON CONFLICT (a) DO UPDATE SET b = excluded.b")
                self.assertEqual(cursor.execute("SELECT a, b FROM t ORDER BY a").fetchall(), rows)

    def test_widest(self) -> None:
        """A row may have as many columns as an index can have."""
        cursor = sqlcipher.connect(":memory:").cursor()
        names = [f"c{number}" for number in range(MAX_COLUMNS + 1)]
        cursor.execute(f"CREATE TABLE t ({', '.join(names)})")
        rows = [tuple(f"{row}-{name}" for name in names) for row in range(BLOCK)]
        bulk.insert(cursor, "INSERT INTO t", rows)
        self.assertEqual(cursor.execute("SELECT * FROM t ORDER BY rowid").fetchall(), rows)


class ManyDocumentsTests(DocumentsTestCase):
    """Documents that are put, or come from elsewhere, many at a time."""

    def put_all(self, names: Iterable[str], rev: str = "") -> list[Written]:
        """Put documents, each of which has its name as a word."""
        return documents.put_all(self.cursor, REPLICA, [new(name, rev) for name in names])

    def apply_all(self, names: Iterable[str]) -> list[Applied]:
        """Take documents from elsewhere."""
        return documents.apply_all(self.cursor, REPLICA, [Versions(new(name, "b:1")) for name in names])

    def log(self) -> list[tuple[int, str]]:
        """Return generations and documents."""
        return [(number, doc_id) for doc_id, number, _ in documents.whats_changed(self.cursor, 0)[2]]

    def assertFound(self, names: Iterable[str]) -> None:
        """Each is found by its own word, in the index of texts, by the number of its row."""
        query = "SELECT doc_id FROM text_1 JOIN document ON document.id = text_1.rowid WHERE text_1 MATCH ?"
        for name in names:
            self.assertEqual(self.cursor.execute(query, (name,)).fetchall(), [(name,)])

    def test_numbers(self) -> None:
        """All are stored, logged in their order, and found, however many they are."""
        indexes.create(self.cursor, Kind.TEXT, "words", ["word"])
        for number in NUMBERS:
            self.connection.executescript("DELETE FROM document; DELETE FROM text_1; DELETE FROM transaction_log")
            before = self.cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = 'transaction_log'").fetchone()
            names = names_of(number)
            written = self.put_all(names)
            first = 1 + (before[0] if before else 0)
            self.assertEqual([one.generation for one in written], list(range(first, first + number)))
            self.assertEqual(self.log(), list(enumerate(names, first)))
            self.assertEqual(documents.get_all(self.cursor, False)[1], [new(name, f"{REPLICA}:1") for name in names])
            self.assertFound(names)

    def test_there_already(self) -> None:
        """One that is there, anywhere in a block, is a conflict, as it is alone."""
        for place in (0, BLOCK // 2, BLOCK - 1, BLOCK, 2 * BLOCK - 1):
            self.connection.executescript("DELETE FROM document; DELETE FROM transaction_log")
            names = names_of(2 * BLOCK)
            self.put_all([names[place]])
            with self.assertRaises(RevisionConflict) as caught:
                self.put_all(names)
            self.assertEqual((caught.exception.doc_id, caught.exception.stored), (names[place], f"{REPLICA}:1"))

    def test_twice(self) -> None:
        """Of two with one id the second is a conflict."""
        names = names_of(BLOCK)
        names[-1] = names[1]
        with self.assertRaises(RevisionConflict) as caught:
            self.put_all(names)
        self.assertEqual(caught.exception.doc_id, names[1])

    def test_tombstones(self) -> None:
        """What follows a tombstone does so in a block, too: one, some, or all of it."""
        names = names_of(BLOCK)
        for count in (1, BLOCK // 2, BLOCK):
            self.connection.executescript("DELETE FROM document")
            deleted = names[-count:]
            for written, name in zip(self.put_all(deleted), deleted, strict=True):
                self.delete(DocId(name), written.rev)
            # The row that was inserted last is not a document's.
            indexes.create(self.cursor, Kind.TEXT, "words", ["word"])
            revs = [f"{REPLICA}:1"] * (BLOCK - count) + [f"{REPLICA}:3"] * count
            self.assertEqual([one.rev for one in self.put_all(names)], revs)
            self.assertFound(names)
            indexes.delete(self.cursor, Kind.TEXT, "words")
            self.cursor.execute("DELETE FROM sqlite_sequence WHERE name = 'query_index'")

    def test_changed_ones_between(self) -> None:
        """New documents, and changes of others between them, are logged in their order."""
        there = names_of(3)
        self.put_all(there)
        names = [f"n{number:04}" for number in range(3 * BLOCK)]
        wanted = [new(name, "") for name in names]
        for name, place in zip(there, (0, BLOCK + 1, 3 * BLOCK + 2), strict=True):
            wanted.insert(place, new(name, f"{REPLICA}:1"))
        written = documents.put_all(self.cursor, REPLICA, wanted)
        self.assertEqual(self.log(), [(number, one.doc_id) for number, one in enumerate(wanted, 4)])
        self.assertEqual([one.rev[-1] for one in written], ["2" if one.rev else "1" for one in wanted])

    def test_change_of_a_new_one(self) -> None:
        """What stands behind others follows what they came to."""
        names = names_of(BLOCK)
        changed = new(names[0], f"{REPLICA}:1")
        written = documents.put_all(self.cursor, REPLICA, [*(new(name, "") for name in names), changed])
        self.assertEqual(written[-1].rev, f"{REPLICA}:2")

    def test_large(self) -> None:
        """Large documents are not copied many at a time, and stored all the same."""
        statements: list[str] = []
        self.connection.set_trace_callback(statements.append)
        large = [Stored(DocId(name), "", f'{{"word": "{"x" * 20_000}"}}') for name in names_of(BLOCK)]
        self.assertEqual(len(documents.put_all(self.cursor, REPLICA, large)), BLOCK)
        self.assertEqual(sum(one.lstrip().startswith("INSERT INTO document") for one in statements), BLOCK)
        self.assertEqual(documents.generation(self.cursor)[0], BLOCK)
        self.assertEqual(self.get(DocId("d0099")).content, large[99].content)

    def test_from_elsewhere(self) -> None:
        """Of those that come, some of which are there, each comes to what it would alone."""
        names = names_of(2 * BLOCK)
        there = names[:: BLOCK // 4]
        self.put_all(there)
        applied = self.apply_all(names)
        outcomes = [Outcome.SUPERSEDED if name in there else Outcome.INSERTED for name in names]
        self.assertEqual([one.outcome for one in applied], outcomes)
        self.assertEqual([one.outcome for one in self.apply_all(names[1:4])], [Outcome.CONVERGED] * 3)

    def test_from_elsewhere_twice(self) -> None:
        """The second of two sets of versions of one document is joined with the first."""
        names = names_of(BLOCK)
        names[-1] = names[1]
        outcomes = [one.outcome for one in self.apply_all(names)]
        self.assertEqual(outcomes, [Outcome.INSERTED] * (BLOCK - 1) + [Outcome.CONVERGED])


def names_of(number: int) -> list[str]:
    """Return the names of so many documents."""
    return [f"d{one:04}" for one in range(number)]


def new(name: str, rev: str) -> Stored:
    """Return a document that has its name as a word."""
    return Stored(DocId(name), rev, f'{{"word": "{name}"}}')

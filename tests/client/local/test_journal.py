"""The journal's tables: what is noted in one transaction with what it is of."""

from __future__ import annotations

from hashlib import sha256
from types import SimpleNamespace
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.local import documents, journal
from soledad.client.local.database import Cursor
from soledad.deferreds import unawaited
from soledad.model.conflict import Versions
from soledad.model.document import Snapshot, Stored
from soledad.model.ids import DocId, RecordName
from soledad.model.syncing import KnownRecord, Pending, Pulled, Sent, Standing
from soledad.model.tampering import Incident, IncidentKind, Problem, Reason, TamperPolicy
from tests.client.local.test_documents import in_memory

ME, OTHER, NEW = "a" * 32, "b" * 32, "c" * 32
STANDING = Standing("https://server", b"account", "1.a", "tag", 2**255, b"checkpoint", 3, True)


def named(doc_id: str) -> RecordName:
    """Return a name for a document."""
    return RecordName(sha256(doc_id.encode()).hexdigest())


class JournalTestCase(SynchronousTestCase):
    """A database in memory."""

    def setUp(self) -> None:
        """Make it."""
        connection = in_memory()
        self.addCleanup(connection.close)
        self.cursor: Cursor = connection.cursor()

    def put(self, doc_id: str, content: str | None = "{}") -> str:
        """Change a document here."""
        rev = documents.get_rev(self.cursor, DocId(doc_id)) or ""
        return documents.put(self.cursor, ME, Stored(DocId(doc_id), rev, content)).rev

    def arrival(self, doc_id: str, *revs: str, content: str = '{"n":1}', own: int = 0) -> Pulled:
        """Return a record that came."""
        versions = [Stored(DocId(doc_id), rev, content) for rev in revs]
        return Pulled(named(doc_id), b"h" * 32, Versions(versions[0], versions[1:]), own=own)

    def aside(self, doc_id: str, reason: Reason = Reason.FORGED) -> Pulled:
        """Return a record that is set aside."""
        return Pulled(named(doc_id), b"x" * 32, problem=Problem(reason, named(doc_id), hash=b"x" * 32))

    def take(self, *arrivals: Pulled) -> None:
        """Take records."""
        journal.take(self.cursor, ME, arrivals, STANDING)

    def outgoing(self) -> dict[str, str]:
        """Return what is to be sent."""
        return {one.versions.doc_id: one.versions.current.rev for one in journal.outgoing(self.cursor, 100, 1 << 20)}

    def sent(self, doc_id: str) -> Sent:
        """Return a document as it goes now."""
        (one,) = [one for one in journal.outgoing(self.cursor, 100, 1 << 20) if one.versions.doc_id == doc_id]
        rev = one.versions.current.rev
        return Sent(named(doc_id), b"s" * 32, DocId(doc_id), rev, one.generation, 1)

    def keep(self, *sent: Sent) -> Pending:
        """Keep a push."""
        pending = Pending(4, "d" * 32, None, "new", 7, b"after", b"bytes")
        journal.keep(self.cursor, pending, sent)
        return pending


class RecordTests(JournalTestCase):
    """Records that come, and documents that go."""

    def test_standing(self) -> None:
        """What was noted is what is read."""
        self.assertEqual(journal.standing(self.cursor), Standing())
        journal.stand(self.cursor, STANDING)
        self.assertEqual(journal.standing(self.cursor), STANDING)

    def test_changed(self) -> None:
        """Whatever is changed waits to be sent, with its latest change; looking says so."""
        self.assertFalse(journal.look(self.cursor).is_changed)
        rev = self.put("a"), self.put("a", None), self.put("b")
        self.assertTrue(journal.look(self.cursor).is_changed)
        self.assertEqual(self.outgoing(), {"a": rev[1], "b": rev[2]})
        self.assertTrue(journal.look(self.cursor).is_changed)

    def test_limits(self) -> None:
        """As many documents are read as were asked for."""
        for number in range(5):
            self.put(f"doc-{number}", '{"n":"%s"}' % ("x" * 100))
        self.assertEqual(len(journal.outgoing(self.cursor, 3, 1 << 20)), 3)
        self.assertEqual(len(journal.outgoing(self.cursor, 5, 150)), 2)

    def test_behind(self) -> None:
        """Documents are read in the order of their ids, those behind one too, as far as was looked for them."""
        for doc_id in "cab":
            self.put(doc_id)
        self.assertEqual(list(self.outgoing()), ["a", "b", "c"])
        self.put("d")
        behind = journal.outgoing_behind(self.cursor, 100, 1 << 20, DocId("a"))
        self.assertEqual([one.versions.doc_id for one in behind], ["b", "c"])
        self.assertEqual(len(journal.outgoing_behind(self.cursor, 1, 1 << 20, DocId("a"))), 1)

    def test_plan(self) -> None:
        """With many documents and nothing to send, none is looked at."""
        seen: list[str] = []
        cursor: Any = SimpleNamespace(execute=lambda query, *values: self.explained(seen, query, *values))
        journal.outgoing(cursor, 100, 1 << 20)
        self.assertIn("SCAN sync_outgoing", seen)
        self.assertEqual([line for line in seen if line.startswith("SCAN document")], [])

    def explained(self, seen: list[str], query: str, *values: Any) -> Any:
        """Execute a query, and note how it is carried out."""
        seen += [row[3] for row in self.cursor.execute(f"EXPLAIN QUERY PLAN {query}", *values).fetchall()]
        return self.cursor.execute(query, *values)

    def test_came(self) -> None:
        """What came does not go back, unless more is here."""
        self.take(self.arrival("a", f"{OTHER}:1"))
        self.assertEqual(self.outgoing(), {})
        self.assertEqual(
            journal.known(self.cursor, [named("a"), named("b")]), {named("a"): KnownRecord(b"h" * 32, f"{OTHER}:1", 0)}
        )
        self.assertEqual(journal.hashes(self.cursor), {named("a"): b"h" * 32})
        self.assertEqual(journal.standing(self.cursor), STANDING)
        rev = self.put("a")
        self.take(self.arrival("a", f"{OTHER}:1"))
        self.assertEqual(self.outgoing(), {"a": rev})
        self.take(self.arrival("a", rev, content="{}"))
        self.assertEqual(self.outgoing(), {})

    def test_set_aside(self) -> None:
        """A record that is set aside is noted with its hash, and nothing goes out until a good one comes."""
        self.take(self.arrival("a", f"{OTHER}:1", own=2))
        self.take(self.aside("a"))
        known = journal.known(self.cursor, [named("a")])[named("a")]
        self.assertEqual(known, KnownRecord(b"x" * 32, f"{OTHER}:1", 2))
        self.put("a")
        self.assertEqual(self.outgoing(), {})
        (problem,) = journal.problems(self.cursor)
        self.assertEqual((problem.reason, problem.doc_id), (Reason.FORGED, "a"))
        self.take(self.arrival("a", f"{OTHER}:1"))
        self.assertEqual(journal.problems(self.cursor), [])
        self.assertEqual(list(self.outgoing()), ["a"])

    def test_missing(self) -> None:
        """What the server has lost is sent again, and its name is known still."""
        self.take(self.arrival("a", f"{OTHER}:1", own=1), self.aside("b"))
        journal.missing(self.cursor, [named("a"), named("b")], STANDING)
        self.assertEqual(self.outgoing(), {"a": f"{OTHER}:1"})
        self.assertEqual(journal.hashes(self.cursor), {})
        self.assertEqual(journal.problems(self.cursor), [])
        self.assertEqual(journal.known(self.cursor, [named("a")])[named("a")].own, 1)

    def test_settled(self) -> None:
        """What arrived is the server's; what was changed since it was read goes next time."""
        self.put("a")
        rev = self.put("b")
        sent = [self.sent("a"), self.sent("b")]
        pending = self.keep(*sent)
        self.assertEqual(journal.pending(self.cursor), pending)
        later = self.put("a")
        journal.settle(self.cursor, STANDING)
        self.assertIsNone(journal.pending(self.cursor))
        self.assertEqual(self.outgoing(), {"a": later})
        self.assertEqual(journal.known(self.cursor, [named("b")]), {named("b"): KnownRecord(b"s" * 32, rev, 1)})

    def test_next(self) -> None:
        """With what arrived the next push is kept, in its place."""
        self.put("a")
        self.put("b")
        self.keep(self.sent("a"))
        following = Pending(5, "e" * 32, "new", "newer", 8, b"after", b"bytes"), [self.sent("b")]
        journal.settle(self.cursor, STANDING, following)
        self.assertEqual(journal.pending(self.cursor), following[0])
        self.assertEqual(list(journal.own_sent(self.cursor)), [named("b")])
        self.assertEqual(list(journal.known(self.cursor, [named("a"), named("b")])), [named("a")])
        self.assertEqual(list(self.outgoing()), ["b"])

    def test_too_big(self) -> None:
        """What was too large is tried again when it was changed."""
        self.put("a")
        self.assertEqual(len(self.outgoing()), 1)
        journal.hold_back(self.cursor, [(Problem(Reason.TOO_BIG, named("a")), DocId("a"))], [])
        self.assertEqual(self.outgoing(), {})
        rev = self.put("a")
        self.assertEqual(self.outgoing(), {"a": rev})

    def test_same(self) -> None:
        """What the server has just so waits no longer, unless it was changed again."""
        self.put("a")
        sent = self.sent("a")
        rev = self.put("a")
        journal.outgoing(self.cursor, 1, 1)
        journal.hold_back(self.cursor, [], [(DocId("a"), sent.generation)])
        self.assertEqual(self.outgoing(), {"a": rev})
        journal.hold_back(self.cursor, [], [(DocId("a"), self.sent("a").generation)])
        self.assertEqual(self.outgoing(), {})

    def test_enter(self) -> None:
        """With another server, or other keys, all begins anew, under another name; the first time it does not."""
        replica = documents.replica(self.cursor)
        journal.enter(self.cursor, "https://one", b"account", NEW)
        self.assertEqual(documents.replica(self.cursor), replica)
        self.take(self.arrival("a", f"{OTHER}:1"))
        for server, account in (("https://server", b"other"), ("https://two", b"other")):
            journal.enter(self.cursor, server, account, NEW)
            self.assertEqual(journal.standing(self.cursor), Standing(server, account))
            self.assertEqual(list(self.outgoing()), ["a"])
            self.assertEqual(journal.known(self.cursor, [named("a")]), {})
        self.assertEqual(documents.replica(self.cursor), NEW)


class IncidentTests(JournalTestCase):
    """What was found."""

    INCIDENT = Incident(IncidentKind.STATE_BACK, 5, ME)

    def test_once(self) -> None:
        """The same is noted once; by other evidence it is something else."""
        self.assertEqual(journal.note(self.cursor, [(self.INCIDENT, "tag")]), [self.INCIDENT])
        self.assertEqual(journal.note(self.cursor, [(evolve(self.INCIDENT, time=6), "tag")]), [])
        self.assertEqual(len(journal.note(self.cursor, [(self.INCIDENT, "other")])), 1)
        self.assertEqual(len(journal.incidents(self.cursor)), 2)

    def test_told(self) -> None:
        """It is told once a push arrived that was made ready after it was found."""
        self.keep()
        journal.note(self.cursor, [(self.INCIDENT, "tag")])
        journal.settle(self.cursor, STANDING)
        self.assertEqual(journal.look(self.cursor).untold, (self.INCIDENT,))
        self.keep()
        journal.accept(self.cursor, STANDING, "e" * 32, True, True, [])
        self.assertEqual(journal.look(self.cursor).untold, ())
        self.assertIsNone(journal.pending(self.cursor))
        self.assertEqual(journal.history(self.cursor, STANDING.server), "e" * 32)

    def test_others(self) -> None:
        """What others have found is not told again."""
        told = evolve(self.INCIDENT, device=OTHER)
        self.assertEqual(journal.accept(self.cursor, STANDING, None, False, False, [told]), [told])
        self.assertEqual(journal.accept(self.cursor, STANDING, None, False, False, [told]), [])
        self.assertEqual(journal.look(self.cursor).untold, ())

    def test_policy(self) -> None:
        """A policy is kept."""
        self.assertIs(journal.policy(self.cursor), TamperPolicy.WARN)
        journal.set_policy(self.cursor, TamperPolicy.REFUSE)
        self.assertIs(journal.look(self.cursor).policy, TamperPolicy.REFUSE)


class CopyTests(JournalTestCase):
    """A store that takes another name."""

    def test_become(self) -> None:
        """What the server has keeps its revision; what it has not gets one of the new name."""
        first, other = self.put("a"), self.put("b")
        self.keep(self.sent("a"), self.sent("b"))
        journal.settle(self.cursor, STANDING)
        self.put("a")
        self.put("c")
        written = journal.become(self.cursor, ME, NEW)
        self.assertEqual([doc_id for doc_id, _ in written], ["a", "c"])
        revs = [documents.get_rev(self.cursor, DocId(doc_id)) for doc_id in "abc"]
        self.assertEqual(revs, [f"{first}|{NEW}:1", other, f"{NEW}:1"])
        self.assertEqual(documents.replica(self.cursor), NEW)
        self.assertEqual(list(self.outgoing()), ["a", "c"])

    def test_versions(self) -> None:
        """Versions of one document stay apart."""
        versions = Versions(
            Stored(DocId("a"), f"{ME}:2", "{}"),
            (Stored(DocId("a"), f"{ME}:2", '{"n":1}'), Stored(DocId("a"), f"{OTHER}:1")),
        )
        after = journal.reissued(versions, ME, NEW, [f"{ME}:1"], 1)
        self.assertEqual({one.rev for one in after}, {f"{ME}:1|{NEW}:1", f"{ME}:1|{NEW}-1:1", f"{OTHER}:1"})
        self.assertEqual(journal.reissued(versions, ME, NEW, [], 2), versions)

    def test_waiting(self) -> None:
        """A change that waits for its turn while the name changes is counted under the new one."""
        jobs: list[Any] = []
        database: Any = SimpleNamespace(write=jobs.append)
        local = documents.LocalDocuments(database, ME)
        unawaited(local.put_all([DocId("a")], [""], [Snapshot("{}", None, {})], None))
        local.replica = NEW
        (written,) = jobs[0](self.cursor)
        self.assertEqual(written.rev, f"{NEW}:1")

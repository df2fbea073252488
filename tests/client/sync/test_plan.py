"""Tables of what is planned: records that come, and records that go."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from soledad.client.sync.plan import PagePlan, PushPlan, plan_comparison, plan_page, plan_push
from soledad.crypto.checkpoint import digest_of
from soledad.errors import AuthenticationFailed, DocumentTooBig, MalformedRecord, UnknownKey
from soledad.model.conflict import Versions
from soledad.model.document import Stored
from soledad.model.ids import DocId, RecordName
from soledad.model.syncing import Known, KnownRecord, Outgoing
from soledad.model.tampering import Problem, Reason
from soledad.wire.changes import SealedRecord

KEY = bytes(32)
ME, OTHER = "a" * 32, "b" * 32


def name(letter: str) -> RecordName:
    """Return a name."""
    return RecordName(letter * 64)


def record(letter: str, text: str) -> SealedRecord:
    """Return a record that "opens" to revisions, or fails."""
    return SealedRecord(name(letter), text.encode())


def versions(doc_id: str, *revs: str) -> Versions:
    """Return versions."""
    stored = [Stored(DocId(doc_id), rev, f'{{"n":"{rev}"}}') for rev in revs]
    return Versions(stored[0], stored[1:])


def opened(sealed: SealedRecord) -> Versions:
    """Open a record."""
    text = sealed.data.decode()
    if text == "unknown":
        raise UnknownKey("00")
    if text == "forged":
        raise AuthenticationFailed()
    if text == "malformed":
        raise MalformedRecord("reason")
    return versions(f"doc-{sealed.name[0]}", *text.split())


class PageTests(SynchronousTestCase):
    """`plan_page`."""

    def plan(
        self,
        *records: SealedRecord,
        known: dict[RecordName, KnownRecord] | None = None,
        sent: dict[RecordName, int] | None = None,
        aside: tuple[RecordName, ...] = (),
        lenient: bool = False,
    ) -> PagePlan:
        """Plan a page."""
        hashes = {one: record.hash for one, record in (known or {}).items() if record.hash is not None}
        before = digest_of(KEY, hashes)
        return plan_page(records, Known(known or {}, sent or {}), ME, before, KEY, opened, aside, lenient)

    def known(self, revs: str, own: int = 0) -> dict[RecordName, KnownRecord]:
        """Return what is known of a record with these revisions."""
        return {name("1"): KnownRecord(record("1", revs).hash, revs, own)}

    def test_table(self) -> None:
        """What becomes of a record, after what was there before."""
        for before, now, reason in (
            ("", f"{OTHER}:1", None),
            (f"{OTHER}:1", f"{OTHER}:2", None),
            (f"{OTHER}:1", f"{OTHER}:1 {'c' * 32}:1", None),
            (f"{OTHER}:1 {'c' * 32}:1", f"{OTHER}:2|{'c' * 32}:1", None),
            (f"{OTHER}:2", f"{OTHER}:1", Reason.OLDER),
            (f"{OTHER}:1", f"{'c' * 32}:1", Reason.OLDER),
            (f"{OTHER}:1 {'c' * 32}:1", f"{OTHER}:2", Reason.OLDER),
            (f"{OTHER}:1", "forged", Reason.FORGED),
            (f"{OTHER}:1", "malformed", Reason.FORGED),
            ("", "unknown", Reason.UNKNOWN_KEY),
        ):
            with self.subTest(before=before, now=now):
                plan = self.plan(record("1", now), known=self.known(before) if before else {})
                (arrival,) = plan.arrivals
                self.assertEqual(None if arrival.problem is None else arrival.problem.reason, reason)
                self.assertEqual(arrival.versions is None, reason is not None)
                self.assertEqual(plan.digest, digest_of(KEY, {name("1"): record("1", now).hash}))

    def test_same(self) -> None:
        """What was here already is no arrival, unless it is set aside."""
        known = self.known(f"{OTHER}:1")
        again = record("1", f"{OTHER}:1")
        self.assertEqual(self.plan(again, known=known).arrivals, ())
        self.assertEqual(len(self.plan(again, known=known, aside=(name("1"),)).arrivals), 1)

    def test_lenient(self) -> None:
        """After a restart the server may have what is older."""
        plan = self.plan(record("1", f"{OTHER}:1"), known=self.known(f"{OTHER}:2"), lenient=True)
        self.assertIsNone(plan.arrivals[0].problem)

    def test_lost(self) -> None:
        """What the server had lost may be anything when it comes again."""
        known = {name("1"): KnownRecord(None, f"{OTHER}:2")}
        self.assertIsNone(self.plan(record("1", f"{OTHER}:1"), known=known).arrivals[0].problem)

    def test_twice(self) -> None:
        """Of two records of one name in a page the second is judged after the first."""
        newer, older = record("1", f"{OTHER}:2"), record("1", f"{OTHER}:1")
        plan = self.plan(newer, older)
        self.assertEqual([one.problem is None for one in plan.arrivals], [True, False])
        self.assertEqual(plan.digest, digest_of(KEY, {name("1"): older.hash}))

    def test_copy(self) -> None:
        """A count of this replica that the server never had from here is another copy's."""
        for own, sent, came, is_copy in ((0, 0, 1, True), (1, 0, 1, False), (1, 0, 2, True), (1, 2, 2, False)):
            with self.subTest(own=own, sent=sent, came=came):
                known = self.known(f"{OTHER}:1", own)
                plan = self.plan(record("1", f"{ME}:{came}|{OTHER}:1"), known=known, sent={name("1"): sent})
                self.assertEqual((plan.is_copy, plan.arrivals[0].own), (is_copy, came))


class ComparisonTests(SynchronousTestCase):
    """`plan_comparison`."""

    def test_table(self) -> None:
        """What is new, what is another one, what is set aside, and what is gone."""
        mine = {name(letter): letter.encode() * 32 for letter in "12345"}
        listed = {**mine, name("2"): b"x" * 32, name("6"): b"y" * 32}
        del listed[name("4")]
        aside = {name("3"), name("4")}
        plan = plan_comparison(mine, listed, aside, digest_of(KEY, mine), KEY)
        self.assertEqual(plan.differing, (name("2"), name("3"), name("6")))
        self.assertEqual(plan.gone, (name("4"),))
        del mine[name("4")]
        self.assertEqual(plan.digest, digest_of(KEY, mine))


class PushTests(SynchronousTestCase):
    """`plan_push`."""

    def plan(
        self, *outgoing: tuple[str, str], known: str = "", room: int = 1 << 20, aside: tuple[str, ...] = ()
    ) -> PushPlan:
        """Plan a push of documents with revisions, by the letters of their names."""
        before = {name("1"): KnownRecord(b"h" * 32, known)} if known else {}
        pairs = [
            (name(letter), Outgoing(versions(f"doc-{letter}", *revs.split()), number))
            for number, (letter, revs) in enumerate(outgoing, 1)
        ]
        problems = [Problem(Reason.FORGED, name(letter)) for letter in aside]
        digest = digest_of(KEY, {name("1"): b"h" * 32} if known else {})
        return plan_push(pairs, before, ME, digest, KEY, self.seal, room, problems)

    def seal(self, name: RecordName, one: Versions) -> SealedRecord:
        """Seal versions."""
        if one.current.rev.startswith("big"):
            raise DocumentTooBig(2, 1)
        return record(one.doc_id[-1], " ".join(version.rev for version in one))

    def test_order(self) -> None:
        """Records go in the order of their names."""
        plan = self.plan(("2", f"{ME}:1"), ("1", f"{ME}:2"))
        self.assertEqual([one.name for one in plan.records], [name("1"), name("2")])
        self.assertEqual(
            [(one.doc_id, one.own, one.generation) for one in plan.sent], [("doc-1", 2, 2), ("doc-2", 1, 1)]
        )
        self.assertEqual(plan.digest, digest_of(KEY, {one.name: one.hash for one in plan.records}))

    def test_last(self) -> None:
        """The last one that goes, as they wait: not by name, and nothing for which there is no room."""
        self.assertEqual(self.plan(("2", f"{ME}:1"), ("1", f"{ME}:2")).last, DocId("doc-1"))
        self.assertEqual(self.plan(("2", f"{ME}:1"), ("1", f"{ME}:2"), room=1).last, DocId("doc-2"))
        self.assertIsNone(self.plan(("1", f"{ME}:1"), aside=("1",)).last)

    def test_all_sent(self) -> None:
        """All is sent if there is something, and nothing is held back or there already."""
        one, two = ("1", f"{ME}:1"), ("2", f"{ME}:1")
        self.assertTrue(self.plan(one, two).is_all_sent)
        self.assertFalse(self.plan().is_all_sent)
        self.assertFalse(self.plan(one, two, aside=("1",)).is_all_sent)
        self.assertFalse(self.plan(one, two, known=f"{ME}:1").is_all_sent)

    def test_held_back(self) -> None:
        """What is set aside, and what is too large, does not go; the rest does."""
        plan = self.plan(("1", f"{ME}:1"), ("2", "big:1"), ("3", f"{ME}:1"), aside=("1",))
        self.assertEqual([one.name for one in plan.records], [name("3")])
        self.assertEqual([problem.reason for problem, _ in plan.held_back], [Reason.FORGED, Reason.TOO_BIG])

    def test_same(self) -> None:
        """What the server has just so does not go; one revision with two contents always does."""
        self.assertEqual(self.plan(("1", f"{ME}:1"), known=f"{ME}:1").same, ((DocId("doc-1"), 1),))
        self.assertEqual(len(self.plan(("1", f"{ME}:2"), known=f"{ME}:1").sent), 1)

    def test_room(self) -> None:
        """As much goes as there is room for, and one record at least."""
        size = len(f"{ME}:1") + 36
        self.assertEqual(len(self.plan(("1", f"{ME}:1"), ("2", f"{ME}:1"), room=1).sent), 1)
        self.assertEqual(len(self.plan(("1", f"{ME}:1"), ("2", f"{ME}:1"), room=2 * size - 1).sent), 1)
        self.assertEqual(len(self.plan(("1", f"{ME}:1"), ("2", f"{ME}:1"), room=2 * size).sent), 2)

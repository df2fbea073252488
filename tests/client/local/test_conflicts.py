"""Tests of conflicts as rows: what applying and resolving leave in every table, and replicas that exchange versions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.client.local import documents, indexes, references
from soledad.client.local.database import Connection
from soledad.client.local.indexes import Kind
from soledad.errors import (
    ConflictedDoc,
    DocumentAlreadyDeleted,
    DocumentDoesNotExist,
    DocumentTooBig,
    RevisionConflict,
    TooManyKeys,
)
from soledad.model.conflict import Applied, Outcome, Versions, is_same_set
from soledad.model.document import Stored, Written
from soledad.model.ids import BlobId, DocId
from tests.client.local.test_documents import in_memory, pointer
from tests.limits import examples
from tests.model.test_conflict import CASES, COPIED, RESOLVED, shown, version, versions

ME = "me"
DOC, OTHER = DocId("doc"), DocId("other")
BLOBS = [BlobId(digit * 32) for digit in "1234"]


class ConflictsTestCase(SynchronousTestCase):
    """A database with the documents' tables."""

    def setUp(self) -> None:
        """Make it."""
        self.make()

    def make(self) -> None:
        """Make a new one."""
        self.connection = in_memory()
        self.addCleanup(self.connection.close)
        self.cursor = self.connection.cursor()

    def apply(self, *texts: str) -> Applied:
        """Apply versions: the current one and then the alternatives."""
        return documents.apply(self.cursor, ME, versions(texts))

    def have(self, texts: Sequence[str]) -> None:
        """Have a new database with these versions."""
        self.make()
        if texts:
            self.apply(*texts)

    def resolve(self, content: str, *revs: str, limit: int | None = None) -> Written:
        """Resolve a conflict."""
        return documents.resolve(self.cursor, ME, version(f"any:1 {content}"), revs, limit)

    def stored(self) -> list[str]:
        """Return the versions that are stored."""
        found = documents.get_versions(self.cursor, DOC)
        return [] if found is None else shown(found)

    def generation(self) -> int:
        """Return the newest generation."""
        return documents.generation(self.cursor)[0]


class ApplyTests(ConflictsTestCase):
    """What applying a revision from elsewhere leaves."""

    def test_cases(self) -> None:
        """Each case of the table is what is stored in the end."""
        for name, (stored, incoming, outcome, after) in CASES.items():
            self.have(stored)
            applied = self.apply(*incoming)
            self.assertEqual((applied.outcome, shown(applied.versions)), (outcome, after), name)
            self.assertEqual(self.stored(), after, name)

    def test_copied(self) -> None:
        """Two contents of one revision are both stored, and it is told."""
        for name, (stored, incoming, after, is_news) in COPIED.items():
            self.have(stored)
            self.assertEqual(self.apply(*incoming).copied, is_news, name)
            self.assertEqual(sorted(self.stored()), sorted(after), name)

    def test_log(self) -> None:
        """What changed something is one generation, and the write says which; what changed nothing is none."""
        for name, (stored, incoming, _, after) in CASES.items():
            self.have(stored)
            before = self.generation()
            written = self.apply(*incoming).written
            changed = stored != after
            self.assertEqual(self.generation() - before, int(changed), name)
            if written is not None:
                expected = (after[0].split()[0], self.generation(), len(after) > 1)
                self.assertEqual((written.rev, written.generation, written.has_conflicts), expected, name)
            self.assertEqual(written is not None, changed, name)

    def test_goes_out(self) -> None:
        """What came needs not go back, unless there is more to it now."""
        for name, (stored, incoming, _, after) in CASES.items():
            self.have(stored)
            expected = not is_same_set(versions(incoming), versions(after))
            self.assertEqual(self.apply(*incoming).goes_out, expected, name)

    def test_flag(self) -> None:
        """Every way of reading tells of the conflict; other documents have none."""
        documents.put(self.cursor, ME, Stored(OTHER, "", "{}"))
        self.apply("me:1 X")
        for texts, expected in ((["b:1 Y"], True), (["b:2|me:1 Z"], False)):
            self.apply(*texts)
            many = documents.get_many(self.cursor, [DOC, OTHER])
            everything = documents.get_all(self.cursor, True)[1]
            for found in (many, everything):
                flags = {one.doc_id: one.has_conflicts for one in found}
                self.assertEqual(flags, {DOC: expected, OTHER: False})

    def test_other_documents(self) -> None:
        """The versions of one document are not those of another."""
        self.apply("me:1 X")
        self.apply("b:1 Y")
        for rev, content in (("me:1", '{"is": "X"}'), ("c:1", '{"is": "Y"}')):
            documents.apply(self.cursor, ME, Versions(Stored(OTHER, rev, content)))
        self.assertEqual([one.rev for one in documents.get_conflicts(self.cursor, OTHER)], ["c:1", "me:1"])
        self.assertEqual(self.stored(), ["b:1 Y", "me:1 X"])

    def test_all(self) -> None:
        """Several documents are applied in their order."""
        incoming = [Versions(Stored(name, "b:1", "{}")) for name in (OTHER, DOC)]
        applied = documents.apply_all(self.cursor, ME, incoming)
        self.assertEqual([one.versions for one in applied], incoming)
        self.assertEqual([name for name, _, _ in documents.whats_changed(self.cursor, 0)[2]], [OTHER, DOC])

    def test_put_again(self) -> None:
        """When there is no conflict any more, writing goes on from the current revision."""
        self.apply("me:1 X")
        self.apply("b:1 Y")
        self.apply("b:2|me:1 Z")
        written = documents.put(self.cursor, ME, Stored(DOC, "b:2|me:1", "{}"))
        self.assertEqual(written.rev, "b:2|me:2")


class RefusedTests(ConflictsTestCase):
    """What cannot be done while there is a conflict."""

    def setUp(self) -> None:
        """Have one."""
        super().setUp()
        self.apply("me:1 X")
        self.apply("b:1 Y")

    def test_put(self) -> None:
        """No revision can be put, not even the current one, and nothing is changed."""
        for rev in ("b:1", "me:1", "", "nonsense"):
            with self.assertRaises(ConflictedDoc, msg=rev):
                documents.put(self.cursor, ME, Stored(DOC, rev, "{}"))
        self.assertEqual((self.stored(), self.generation()), (["b:1 Y", "me:1 X"], 2))

    def test_put_over_a_tombstone(self) -> None:
        """A document in conflict cannot be made anew when its current version is a tombstone."""
        self.apply("b:2 -")
        with self.assertRaises(ConflictedDoc):
            documents.put(self.cursor, ME, Stored(DOC, "", "{}"))

    def test_size_first(self) -> None:
        """The size is looked at before."""
        with self.assertRaises(DocumentTooBig):
            documents.put(self.cursor, ME, Stored(DOC, "b:1", "{}"), 1)

    def test_delete(self) -> None:
        """It cannot be deleted; what else is wrong is told first."""
        with self.assertRaises(ConflictedDoc):
            documents.delete(self.cursor, ME, DOC, "b:1")
        with self.assertRaises(RevisionConflict):
            documents.delete(self.cursor, ME, DOC, "me:1")
        self.apply("b:2 -")
        with self.assertRaises(DocumentAlreadyDeleted):
            documents.delete(self.cursor, ME, DOC, "b:2")

    def test_all_or_none(self) -> None:
        """Putting several fails for the one in conflict."""
        with self.assertRaises(ConflictedDoc):
            documents.put_all(self.cursor, ME, [Stored(OTHER, "", "{}"), Stored(DOC, "b:1", "{}")])


class ResolveTests(ConflictsTestCase):
    """What resolving leaves."""

    def test_cases(self) -> None:
        """Each case of the table is what is stored in the end, in one generation."""
        for name, (stored, content, revs, after) in RESOLVED.items():
            self.have(stored)
            written = self.resolve(content, *revs)
            self.assertEqual(self.stored(), after, name)
            (current,) = documents.get_many(self.cursor, [DOC])
            rev, text = after[0].split()[0], current.content
            expected = Written(rev, generation=self.generation(), has_conflicts=len(after) > 1, content=text)
            self.assertEqual((written, self.generation()), (expected, 2), name)

    def test_missing(self) -> None:
        """There has to be such a document."""
        with self.assertRaises(DocumentDoesNotExist):
            self.resolve("X", "b:1")

    def test_refused(self) -> None:
        """The current revision has to be listed, and the text small enough; else nothing is changed."""
        self.apply("b:1 Y", "c:1 X")
        with self.assertRaises(RevisionConflict):
            self.resolve("Z", "c:1")
        with self.assertRaises(DocumentTooBig):
            self.resolve("Z", "b:1", "c:1", limit=1)
        self.assertEqual((self.stored(), self.generation()), (["b:1 Y", "c:1 X"], 1))

    def test_listed(self) -> None:
        """Conflicts are listed from the current version on, each with all that it has; where none is, nothing is."""
        self.assertEqual(documents.get_conflicts(self.cursor, DOC), [])
        self.apply("me:1 X")
        self.assertEqual(documents.get_conflicts(self.cursor, DOC), [])
        attached = version("b:1 Y", name=pointer(BLOBS[0]))
        documents.apply(self.cursor, ME, Versions(attached))
        self.apply("c:1 -")
        found = documents.get_conflicts(self.cursor, DOC)
        self.assertEqual([one.rev for one in found], ["c:1", "b:1", "me:1"])
        self.assertEqual([one.content for one in found], [None, attached.content, '{"is": "X"}'])
        self.assertEqual([dict(one.attachments) for one in found], [{}, {"name": pointer(BLOBS[0])}, {}])
        self.assertEqual([one.has_conflicts for one in found], [True] * 3)
        self.resolve("Z", "c:1", "b:1", "me:1")
        self.assertEqual(documents.get_conflicts(self.cursor, DOC), [])


class AttachmentTests(ConflictsTestCase):
    """Attachments on either side: no blob is lost that any version refers to."""

    def referenced(self) -> set[tuple[str, str]]:
        """Return the revisions that refer to blobs, and to which."""
        return set(self.cursor.execute("SELECT rev, blob_id FROM blob_refs"))

    def apply_with(self, text: str, *blobs: BlobId) -> Applied:
        """Apply a version that has attachments."""
        pointers = {f"name of {blob_id}": pointer(blob_id) for blob_id in blobs}
        return documents.apply(self.cursor, ME, Versions(version(text, **pointers)))

    def dropped(self, applied: Applied) -> set[BlobId]:
        """Return what nothing refers to since."""
        assert applied.written is not None
        return set(applied.written.dropped)

    def test_both_sides(self) -> None:
        """Each version refers to its own blobs, and the pointers of all are found."""
        self.apply_with("me:1 X", BLOBS[0], BLOBS[1])
        applied = self.apply_with("b:1 Y", BLOBS[1], BLOBS[2])
        self.assertEqual(self.dropped(applied), set())
        expected = {("me:1", BLOBS[0]), ("me:1", BLOBS[1]), ("b:1", BLOBS[1]), ("b:1", BLOBS[2])}
        self.assertEqual(self.referenced(), expected)
        found = documents.pointers_to(self.cursor, references.referenced(self.cursor))
        self.assertEqual({one.blob_id for one in found}, set(BLOBS[:3]))

    def test_deleted_on_the_other_side(self) -> None:
        """A concurrent tombstone takes no attachment away; resolving for it does."""
        self.apply_with("me:1 X", BLOBS[0])
        self.assertEqual(self.dropped(self.apply_with("b:1 -")), set())
        self.assertEqual(references.referenced(self.cursor), {BLOBS[0]})
        self.assertEqual(self.resolve("-", "b:1", "me:1").dropped, {BLOBS[0]})
        self.assertEqual(references.referenced(self.cursor), set())

    def test_resolved_in_part(self) -> None:
        """What only settled versions referred to is dropped, what the remaining ones refer to is kept."""
        self.apply_with("b:1 X", BLOBS[0])
        self.apply_with("c:1 Y", BLOBS[1])
        self.apply_with("d:1 Z", BLOBS[2])
        document = version("any:1 W", name=pointer(BLOBS[2]))
        written = documents.resolve(self.cursor, ME, document, ["d:1", "c:1"])
        self.assertEqual(written.dropped, {BLOBS[1]})
        self.assertEqual(self.referenced(), {("b:1", BLOBS[0]), ("c:1|d:1|me:1", BLOBS[2])})

    def test_settled_elsewhere(self) -> None:
        """A resolution that arrives drops what it does not refer to, unless another document does."""
        self.apply_with("me:1 X", BLOBS[0], BLOBS[1])
        documents.put(self.cursor, ME, Stored(OTHER, "", "{}", {"name": pointer(BLOBS[1])}))
        self.apply_with("b:1 Y", BLOBS[2])
        self.assertEqual(self.dropped(self.apply_with("b:2|me:1 Y", BLOBS[3])), {BLOBS[0], BLOBS[2]})
        self.assertEqual(references.referenced(self.cursor), {BLOBS[1], BLOBS[3]})

    def test_only_attachments_differ(self) -> None:
        """Two versions with equal content are in conflict when what is attached differs."""
        self.apply_with("me:1 X", BLOBS[0])
        self.assertIs(self.apply_with("b:1 X", BLOBS[1]).outcome, Outcome.CONFLICTED)

    def test_same_attachments(self) -> None:
        """With equal attachments they are one."""
        self.apply_with("me:1 X", BLOBS[0])
        self.assertIs(self.apply_with("b:1 X", BLOBS[0]).outcome, Outcome.SUPERSEDED)
        self.assertEqual(self.referenced(), {("b:1|me:2", BLOBS[0])})

    def test_one_revision_two_contents(self) -> None:
        """Both contents of one revision keep their blobs."""
        self.apply_with("b:1 X", BLOBS[0])
        self.assertEqual(self.dropped(self.apply_with("b:1 Y", BLOBS[1])), set())
        self.assertEqual(references.referenced(self.cursor), set(BLOBS[:2]))


class IndexTests(ConflictsTestCase):
    """Indexes have the current version, and only that."""

    def setUp(self) -> None:
        """Have an index."""
        super().setUp()
        indexes.create(self.cursor, Kind.KEYS, "by is", ["is"])
        indexes.create(self.cursor, Kind.KEYS, "by words", ["split_words(words)"])

    def keys(self) -> list[str]:
        """Return what the index finds."""
        return [row[0] for row in self.cursor.execute("SELECT c0 FROM index_1 WHERE doc = ?", (DOC,))]

    def test_current(self) -> None:
        """What becomes current is found, and what was before is not."""
        for texts, expected in (
            (["me:1 X"], ["X"]),
            (["b:1 Y"], ["Y"]),
            (["c:1 -"], []),
            (["c:2 Z"], ["Z"]),
            (["c:1 -"], ["Z"]),
        ):
            self.apply(*texts)
            self.assertEqual(self.keys(), expected, texts)
        self.resolve("W", "c:2")
        self.assertEqual(self.keys(), ["W"])

    def test_several_times(self) -> None:
        """When one document comes several times at once, what came last is found."""
        texts = ["b:1 X", "b:2 Y", "b:3 X", "b:4 Z", "b:2 Y"]
        documents.apply_all(self.cursor, ME, [versions([text]) for text in texts])
        self.assertEqual((self.keys(), self.stored()), (["Z"], ["b:4 Z"]))

    def test_told(self) -> None:
        """A write tells in which indexes the document was, or is; also when only an alternative comes."""
        for texts, expected in (
            (["me:1 -"], set()),
            (["me:2 X"], {"by is"}),
            (["me:2 X", "b:1 Y"], {"by is"}),
            (["c:1 -"], {"by is"}),
            (["d:1 -"], set()),
        ):
            written = self.apply(*texts).written
            assert written is not None
            self.assertEqual(written.indexes, expected, texts)

    def test_too_many_keys(self) -> None:
        """What was written elsewhere is taken though it has too many keys here: it is not in that index."""
        words = " ".join(map(str, range(10_001)))
        many = Stored(DOC, "b:1", f'{{"is": "X", "words": "{words}"}}')
        with self.assertRaises(TooManyKeys):
            documents.put(self.cursor, ME, Stored(OTHER, "", many.content))
        applied = documents.apply(self.cursor, ME, Versions(many))
        assert applied.written is not None
        self.assertEqual((applied.written.indexes, self.keys()), ({"by is"}, ["X"]))
        indexes.refresh(self.cursor)
        written = documents.put(self.cursor, ME, Stored(DOC, "b:1", '{"words": "few"}'))
        self.assertEqual(written.indexes, {"by is", "by words"})


# --- replicas that exchange versions ------------------------------------------------------------------


@define(eq=False)
class Replica:
    """A store, with one document."""

    name: str
    connection: Connection = field(factory=in_memory)

    @property
    def cursor(self) -> Any:
        """Where its tables are."""
        return self.connection.cursor()

    @property
    def versions(self) -> Versions | None:
        """What it has."""
        return documents.get_versions(self.cursor, DOC)

    @property
    def described(self) -> set[str]:
        """What it has, whichever is current."""
        return set() if self.versions is None else set(shown(self.versions))

    def change(self, content: str, settled: int) -> str | None:
        """Write, or resolve: the bits of ``settled`` say which alternatives; return the revision."""
        has = self.versions
        document = version(f"any:1 {content}")
        if has is not None and has.alternatives:
            revs = [one.rev for number, one in enumerate(has.alternatives) if settled >> number & 1]
            return documents.resolve(self.cursor, self.name, document, [has.current.rev, *revs]).rev
        rev = "" if has is None else has.current.rev
        return documents.put(self.cursor, self.name, Stored(DOC, rev, document.content)).rev

    def take(self, incoming: Versions | None) -> bool:
        """Apply versions from elsewhere; tell whether that changed anything."""
        return incoming is not None and documents.apply(self.cursor, self.name, incoming).written is not None


contents = st.sampled_from(["X", "Y", "Z", "-"])
steps = st.lists(
    st.tuples(st.integers(0, 2), st.one_of(st.integers(0, 2), st.tuples(contents, st.integers(0, 7)))), max_size=24
)


#: Who tells whom: each other, in some order.
orders = st.permutations(list(permutations(range(3), 2)))


class ReplicaTests(SynchronousTestCase):
    """Three replicas that write, delete, resolve and exchange what they have."""

    def with_replicas(self, body: Callable[[list[Replica]], None]) -> None:
        """Call something with three replicas; closes them."""
        replicas = [Replica(name) for name in "abc"]
        try:
            body(replicas)
        finally:
            for one in replicas:
                one.connection.close()

    @settings(max_examples=examples(150))
    @given(steps, orders)
    def test_any_order(self, steps: list[Any], order: list[tuple[int, int]]) -> None:
        """
        Whoever told whom in whatever order: when one has heard all and told all, they have the same set of versions.

        Nothing comes of telling each other again then, in any order.
        """

        def body(replicas: list[Replica]) -> None:
            for who, step in steps:
                if isinstance(step, int):
                    replicas[who].take(replicas[step].versions)
                else:
                    replicas[who].change(*step)
            first, *others = (replicas[number] for number in dict(order))
            for other in others:
                first.take(other.versions)
            for other in others:
                other.take(first.versions)
            self.assertEqual([one.described for one in replicas], [first.described] * 3)
            for giver, taker in order:
                replicas[taker].take(replicas[giver].versions)
            self.assertEqual([one.described for one in replicas], [first.described] * 3)

        self.with_replicas(body)

    @settings(max_examples=examples(150))
    @given(steps, orders)
    def test_nothing_lost(self, steps: list[Any], order: list[tuple[int, int]]) -> None:
        """
        When all have told all, in any order, each has just what nobody settled.

        What that is, is kept apart here by histories of contents, which are all different, instead of revisions.
        """

        def body(replicas: list[Replica]) -> None:
            histories: dict[str, set[str]] = {}
            for number, (who, step) in enumerate(steps):
                one = replicas[who]
                if isinstance(step, int):
                    one.take(replicas[step].versions)
                    continue
                before, content = one.described, str(number)
                one.change(content, step[1])
                gone = {text.split()[1] for text in before - one.described}
                histories[content] = gone.union(*(histories[known] for known in gone))
            for giver, taker in order * 2:
                replicas[taker].take(replicas[giver].versions)
            settled = set[str]().union(*histories.values())
            for one in replicas:
                self.assertEqual({text.split()[1] for text in one.described}, set(histories) - settled)

        self.with_replicas(body)

    @settings(max_examples=examples(150))
    @given(steps)
    def test_one_log(self, steps: list[Any]) -> None:
        """Through one ordered log, all have the same versions in the end, and the same one of them is current."""

        def body(replicas: list[Replica]) -> None:
            log: list[Versions] = []

            def sync(one: Replica) -> bool:
                if log:
                    one.take(log[-1])
                has = one.versions
                if has is None or (log and is_same_set(has, log[-1])):
                    return False
                log.append(has)
                return True

            for who, step in steps:
                if isinstance(step, int):
                    sync(replicas[who])
                else:
                    replicas[who].change(*step)
            for one in [*replicas, *replicas]:
                sync(one)
            self.assertEqual([sync(one) for one in replicas], [False] * 3)
            self.assertEqual(replicas[0].versions, replicas[1].versions)
            self.assertEqual(replicas[1].versions, replicas[2].versions)

        self.with_replicas(body)

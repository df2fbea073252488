"""Tests of observers through the API, in place: they were told when a call returns; and of what happens at once."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import fail
from twisted.trial.unittest import SynchronousTestCase

from soledad import Document
from soledad.client.observers import Observers
from soledad.deferreds import InPlace
from soledad.errors import InvalidDocId, InvalidIdentifier, RevisionConflict, StoreClosed
from soledad.model.document import Stored, Written
from soledad.model.ids import DocId
from tests.client.test_conflicts import StoreTestCase

Told = tuple[str, str, int]


class ObserverTests(StoreTestCase):
    """Who is told of what."""

    def setUp(self) -> None:
        """Make a store."""
        super().setUp()
        self.told: list[Any] = []

    def note(self, *told: Any) -> None:
        """Observe."""
        self.told.append(told)

    def test_every_write(self) -> None:
        """Creating, saving, deleting, what comes from elsewhere and resolving are told, each with its generation."""
        self.store.subscribe(self.note)
        revs = []
        doc = self.create("doc")
        revs.append(doc.rev)
        revs.append(self.put(doc))
        revs.append(self.successResultOf(self.store.delete_doc(doc)))
        revs.append(self.apply(Stored(DocId("doc"), "b:1", "{}")).versions.current.rev)
        current = self.get()
        revs.append(self.successResultOf(self.store.resolve_doc(current, [str(current.rev), str(revs[2])])))
        self.assertEqual(self.told, [("doc", rev, number) for number, rev in enumerate(revs, 1)])

    def test_several(self) -> None:
        """Documents that are saved together are told one by one, in their order."""
        self.store.subscribe(self.note)
        docs = [Document(f"doc-{number}") for number in range(3)]
        revs = self.successResultOf(self.store.put_docs(docs))
        self.assertEqual(self.told, [(f"doc-{number}", revs[number], number + 1) for number in range(3)])

    def test_can_be_read(self) -> None:
        """When an observer is called, the store has the change."""
        found: list[Document | None] = []
        self.store.subscribe(lambda doc_id, rev, generation: self.store.get_doc(doc_id).addCallback(found.append))
        doc = self.create("doc", number=1)
        self.assertEqual(found, [doc])

    def test_not_told(self) -> None:
        """What was before, what failed and what changed nothing is not told."""
        self.create("before")
        self.store.subscribe(self.note)
        self.failureResultOf(self.store.create_doc({}, "before"), RevisionConflict)
        self.apply(Stored(DocId("before"), str(self.get("before").rev), "{}"))
        self.get("before")
        self.assertEqual(self.told, [])

    def test_one_document(self) -> None:
        """Only changes of the document that was asked for are told; it need not exist yet."""
        self.store.subscribe(self.note, doc_id="wanted")
        self.create("other")
        wanted = self.create("wanted")
        self.assertEqual(self.told, [("wanted", wanted.rev, 2)])

    def test_alternatives_only(self) -> None:
        """That a document has come into conflict is told, even when the current version stays."""
        doc = self.create("doc")
        self.store.subscribe(self.note)
        self.apply(Stored(DocId("doc"), str(doc.rev), "{}"), Stored(DocId("doc"), "b:1", '{"a": 1}'))
        self.assertEqual(self.told, [("doc", doc.rev, 2)])
        self.assertTrue(self.get().has_conflicts)

    def test_index(self) -> None:
        """Documents that come into an index, change in it, or leave it are told; others are not."""
        self.store.subscribe(self.note, index="by color")
        doc = self.create("doc", color="red")
        self.assertEqual(self.told, [])
        self.successResultOf(self.store.create_index("by color", "color"))
        self.successResultOf(self.store.create_index("by size", "size"))
        for content, is_told in (
            ({"color": "red", "size": "1"}, True),
            ({"color": "blue"}, True),
            ({"size": "1"}, True),
            ({"size": "2"}, False),
            ({"color": "red"}, True),
        ):
            doc.content = content
            rev = self.put(doc)
            self.assertEqual([told[1] for told in self.told], [rev] if is_told else [], content)
            self.told.clear()
        self.successResultOf(self.store.delete_doc(doc))
        self.assertEqual(len(self.told), 1)
        self.successResultOf(self.store.delete_index("by color"))
        self.create("other", color="red")
        self.assertEqual(len(self.told), 1)

    def test_both(self) -> None:
        """A document and an index: both have to be right."""
        self.successResultOf(self.store.create_index("by color", "color"))
        self.store.subscribe(self.note, doc_id="doc", index="by color")
        self.create("other", color="red")
        doc = self.create("doc")
        self.assertEqual(self.told, [])
        doc.content = {"color": "red"}
        self.assertEqual([("doc", self.put(doc), 3)], self.told)

    def test_cancel(self) -> None:
        """Once it is cancelled, an observer is not called; cancelling again is harmless."""
        subscription = self.store.subscribe(self.note)
        self.create("doc")
        for _ in range(2):
            subscription.cancel()
        self.assertTrue(subscription.cancelled)
        self.create("other")
        self.assertEqual([told[0] for told in self.told], ["doc"])

    def test_cancelled_by_another(self) -> None:
        """An observer that another one cancels is not called for the change that this one was told of."""
        self.store.subscribe(lambda *told: second.cancel())
        second = self.store.subscribe(self.note)
        self.create("doc")
        self.assertEqual(self.told, [])

    def test_errors(self) -> None:
        """What an observer raises is logged, and harms neither the write nor other observers nor itself later."""

        async def coroutine(*told: Any) -> None:
            raise RuntimeError("in a coroutine")

        def raising(*told: Any) -> None:
            raise RuntimeError("at once")

        self.store.subscribe(raising)
        self.store.subscribe(lambda *told: fail(RuntimeError("in a Deferred")))
        self.store.subscribe(coroutine)
        self.store.subscribe(self.note)
        self.create("doc")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)
        self.create("other")
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 3)
        self.assertEqual([told[0] for told in self.told], ["doc", "other"])

    def test_writing_observer(self) -> None:
        """An observer may write; all are told of everything, each document's changes in their order."""

        def follow(doc_id: str, rev: str, generation: int) -> None:
            if generation < 4:
                self.create(f"doc-{generation}")

        self.store.subscribe(follow)
        self.store.subscribe(self.note)
        self.create("doc-0")
        self.assertEqual([told[0] for told in self.told], ["doc-0", "doc-1", "doc-2", "doc-3"])
        self.assertEqual([told[2] for told in self.told], [1, 2, 3, 4])

    def test_not_within(self) -> None:
        """An observer that writes has returned before it is called for that."""

        def write(doc_id: str, rev: str, generation: int) -> None:
            self.note("begin", generation)
            if generation < 3:
                self.create()
            self.note("end", generation)

        self.store.subscribe(write)
        self.create()
        self.assertEqual(self.told, [(what, number) for number in (1, 2, 3) for what in ("begin", "end")])

    def test_writing_what_waits(self) -> None:
        """When an observer changes a document that it was not told of yet, it is told of it once, at its newest."""
        changed = False

        def change(doc_id: str, rev: str, generation: int) -> None:
            nonlocal changed
            self.note(doc_id, rev, generation)
            if not changed:
                changed = True
                self.put(self.get("two"))

        self.store.subscribe(change)
        self.successResultOf(self.store.put_docs([Document("one"), Document("two")]))
        self.assertEqual([(told[0], told[2]) for told in self.told], [("one", 1), ("two", 3)])

    def test_closed(self) -> None:
        """Once the store is being closed, nobody is called, and nobody can subscribe any more."""
        subscription = self.store.subscribe(self.note)
        self.successResultOf(self.store.close())
        self.assertRaises(StoreClosed, self.store.subscribe, self.note)
        self.assertTrue(subscription.cancelled)

    def test_closing_observer(self) -> None:
        """When an observer closes the store, those behind it are not called any more."""
        self.store.subscribe(lambda *told: self.store.close())
        self.store.subscribe(self.note)
        self.create("doc")
        self.assertEqual(self.told, [])

    def test_refused(self) -> None:
        """What cannot be called, or is no id or name, is refused at once."""
        nothing: Any = None
        self.assertRaises(TypeError, self.store.subscribe, nothing)
        self.assertRaises(InvalidDocId, self.store.subscribe, self.note, "no id")
        self.assertRaises(InvalidIdentifier, self.store.subscribe, self.note, None, "\ud800")

    def test_shown(self) -> None:
        """A subscription may be printed: it shows what it is for."""
        shown = repr(self.store.subscribe(self.note, "doc", "by color"))
        self.assertIn("'doc'", shown)
        self.assertIn("'by color'", shown)


class CoalescingTests(SynchronousTestCase):
    """What happens between two turns of the reactor."""

    def setUp(self) -> None:
        """Have observers whose turn comes when the test says so."""
        self.turns: list[Any] = []
        self.told: list[Told] = []
        self.observers = Observers(self.turns.append)

    def change(self, doc_id: str, generation: int, *indexes: str) -> None:
        """Note a change."""
        written = Written(f"a:{generation}", generation=generation, indexes=frozenset(indexes))
        self.observers.changed([(DocId(doc_id), written)])

    def subscribe(self, doc_id: str | None = None, index: str | None = None) -> Any:
        """Subscribe what notes."""
        return self.observers.subscribe(lambda *told: self.told.append(told), doc_id, index)

    def turn(self) -> None:
        """Let the reactor go round."""
        turns, self.turns[:] = list(self.turns), []
        for call in turns:
            call()

    def test_once(self) -> None:
        """One turn is asked for; each document is told once, at its newest, in the order of generations."""
        self.subscribe()
        for number, doc_id in enumerate(["one", "two", "one", "three"], 1):
            self.change(doc_id, number)
        self.assertEqual((len(self.turns), self.told), (1, []))
        self.turn()
        self.assertEqual(self.told, [("two", "a:2", 2), ("one", "a:3", 3), ("three", "a:4", 4)])

    def test_later(self) -> None:
        """Who subscribes later is not told of what was before."""
        self.subscribe("other")
        self.change("other", 1)
        self.subscribe()
        self.change("doc", 2)
        self.turn()
        self.assertEqual(self.told, [("other", "a:1", 1), ("doc", "a:2", 2)])

    def test_left_and_changed(self) -> None:
        """A document that left an index and changed again is told at its newest; one that was never in it is not."""
        self.subscribe(index="by color")
        self.change("doc", 1, "by color")
        self.change("doc", 2)
        self.change("other", 3)
        self.turn()
        self.assertEqual(self.told, [("doc", "a:2", 2)])

    def test_cancelled_while_waiting(self) -> None:
        """What waits is not told after a cancellation, nor after closing."""
        subscription = self.subscribe("doc")
        self.subscribe("other")
        self.change("doc", 1)
        self.change("other", 2)
        subscription.cancel()
        self.observers.close()
        self.turn()
        self.change("other", 3)
        self.turn()
        self.assertEqual(self.told, [])

    def test_nobody(self) -> None:
        """Without observers nothing is asked of the reactor."""
        self.change("doc", 1)
        self.subscribe().cancel()
        self.change("doc", 2)
        self.subscribe("other")
        self.change("doc", 3)
        self.assertEqual(self.turns, [])

    def test_forgotten(self) -> None:
        """A cancelled observer is not kept."""
        for _ in range(5):
            self.subscribe().cancel()
        self.change("doc", 1)
        self.assertEqual(self.observers._subscriptions, [])

    def test_in_place(self) -> None:
        """Where calls run in place, the turn is at once."""
        self.observers = Observers(InPlace().report)
        self.subscribe()
        self.change("doc", 1)
        self.assertEqual(self.told, [("doc", "a:1", 1)])

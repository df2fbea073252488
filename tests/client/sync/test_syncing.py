"""Tests of `Soledad.sync`: two and three devices, one server, all in memory."""

from __future__ import annotations

from soledad import Document
from soledad.errors import NoServer
from soledad.testing import make_store
from tests.client.sync.devices import DevicesTestCase, put_between


class SyncTests(DevicesTestCase):
    """What a person sees."""

    def test_there_and_back(self) -> None:
        """What one device has written, the other has after both have synced."""
        self.put(self.one, "a", {"n": 1})
        two = self.another()
        self.sync(self.one, two)
        self.assertEqual(self.content(two, "a"), {"n": 1})
        self.put(two, "a", {"n": 2})
        self.sync(two, self.one)
        self.assertEqual(self.content(self.one, "a"), {"n": 2})
        self.assertEqual(self.now(self.one.incidents()), [])
        self.assertEqual(self.now(self.one.checkpoint_code()), self.now(two.checkpoint_code()))

    def test_generation(self) -> None:
        """It fires with the generation before it."""
        self.put(self.one, "a", {})
        self.assertEqual(self.now(self.one.sync()), 1)
        two = self.another()
        self.assertEqual(self.now(two.sync()), 0)
        self.assertEqual(self.now(two.sync()), 1)

    def test_no_server(self) -> None:
        """Without a server there is nothing to sync with."""
        self.fails(make_store(self).sync(), NoServer)

    def test_deleted(self) -> None:
        """A tombstone travels."""
        two = self.another()
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one, two)
        self.put(two, "a", None)
        self.sync(two, self.one)
        self.assertIsNone(self.content(self.one, "a"))

    def test_conflict(self) -> None:
        """Both changed it: both have the same conflict, and either can resolve it for both."""
        two = self.another()
        self.put(self.one, "a", {"n": 0})
        self.sync(self.one, two)
        self.put(self.one, "a", {"n": 1})
        self.put(two, "a", {"n": 2})
        self.sync(self.one, two, self.one)
        found = [self.now(store.get_doc_conflicts("a")) for store in (self.one, two)]
        self.assertEqual(*([doc.content for doc in docs] for docs in found))
        self.assertEqual([doc.content for doc in found[0]], [{"n": 1}, {"n": 2}])
        self.now(two.resolve_doc(found[1][1], [doc.rev or "" for doc in found[1]]))
        self.sync(two, self.one)
        self.assertEqual(self.content(self.one, "a"), {"n": 2})
        self.assertEqual(self.now(self.one.get_doc_conflicts("a")), [])

    def test_attachments_travel(self) -> None:
        """What a document points at comes with it, before the bytes do."""
        doc = self.put(self.one, "a", {})
        self.now(doc.put_attachment(b"bytes", content_type="text/plain"))
        self.now(self.one.put_doc(doc))
        two = self.another()
        self.sync(self.one, two)
        there = self.now(two.get_doc("a"))
        assert there is not None
        self.assertEqual(dict(there.attachments), dict(doc.attachments))

    def test_observers(self) -> None:
        """Observers are told of what came."""
        two = self.another()
        told: list[tuple[str, str, int]] = []
        two.subscribe(lambda *change: told.append(change))
        doc = self.put(self.one, "a", {})
        self.sync(self.one, two)
        self.assertEqual(told, [("a", doc.rev, 1)])

    def test_news(self) -> None:
        """When each device has last been heard of is told."""
        self.one._reactor.advance(1000)
        self.put(self.one, "a", {})
        two = self.another()
        self.sync(self.one, two)
        (news,) = self.now(two.devices())
        self.assertEqual((news.time, news.count, news.is_this), (1000, 1, False))
        self.assertEqual([one.is_this for one in self.now(self.one.devices())], [True])


class RequestTests(DevicesTestCase):
    """What is asked of the server."""

    def test_idle(self) -> None:
        """A sync with nothing to do is one request, and writes nothing."""
        self.put(self.one, "a", {})
        two = self.another()
        self.sync(self.one, two)
        for store in (self.one, two):
            between = put_between(store)
            writer = store._local.documents.database._writer
            before = writer.total_changes
            self.sync(store)
            self.assertEqual((between.calls, writer.total_changes), (["pull"], before))

    def test_own_records(self) -> None:
        """What a device has sent does not come back."""
        self.put(self.one, "a", {})
        between = put_between(self.one)
        self.sync(self.one, self.one)
        self.assertEqual(between.calls, ["pull", "push", "pull"])

    def test_batches(self) -> None:
        """Many documents go in several pushes, and come in several pages; each is whole."""
        docs = [{"n": number, "text": "x" * 1000} for number in range(1100)]
        self.now(self.one.put_docs([Document(f"D-{doc['n']}", content=doc) for doc in docs]))
        between = put_between(self.one)
        self.sync(self.one)
        self.assertEqual(between.calls, ["pull", "push", "push"])
        two = self.another()
        between = put_between(two)
        self.sync(two)
        self.assertEqual(between.calls, ["pull"] * 2)
        self.assertEqual(len(self.now(two.get_all_docs())[1]), 1100)

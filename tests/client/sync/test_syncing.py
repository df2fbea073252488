"""Tests of `Soledad.sync`: two and three devices, one server, all in memory."""

from __future__ import annotations

from soledad import Document, IncidentKind, Soledad
from soledad.crypto import checkpoint
from soledad.errors import ConnectionFailed, NoServer, TooManyDevices
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


class ManyTests(DevicesTestCase):
    """More devices than there is room for."""

    def setUp(self) -> None:
        """Let as many write as there is room for, one after the other, and have another one."""
        super().setUp()
        self.patch(checkpoint, "MAX_DEVICES", 4)
        self.patch(checkpoint, "KEPT_DEVICES", 2)
        self.stores = [self.one, *(self.another() for _ in range(3))]
        for number, store in enumerate(self.stores):
            store._reactor.advance(1000 * number)
            self.put(store, f"from-{number}", {"n": number})
            self.sync(store)
        self.late = self.another()

    def has_all(self, *stores: Soledad) -> None:
        """See that devices have the same documents, and that they found nothing else than a restart."""
        for store in stores:
            contents = [self.content(store, f"from-{number}") for number in range(5)]
            self.assertEqual(contents, [{"n": number} for number in range(5)])
            kinds = {one.kind for one in self.now(store.incidents())}
            self.assertLessEqual(kinds, {IncidentKind.RESTARTED})
            self.assertEqual(self.now(store.sync_problems()), [])

    def test_one_more(self) -> None:
        """One more device takes what there is, as often as it likes, and can send nothing; the others go on."""
        self.now(self.late.rotate_root())
        self.sync(self.late)
        self.put(self.late, "from-4", {"n": 4})
        for number in range(2):
            self.put(self.one, "from-0", {"n": 7 + number})
            self.sync(self.one)
            error = self.fails(self.late.sync(), TooManyDevices)
            self.assertIn("limit=4", str(error))
            self.assertEqual(self.content(self.late, "from-0"), {"n": 7 + number})
        self.sync(*self.stores)
        self.assertIsNone(self.content(self.one, "from-4"))
        self.assertEqual(len(self.now(self.late.devices())), 4)

    def test_restart(self) -> None:
        """Said on any device that the server begins anew, it is counted, and those whose entry went come back."""
        self.put(self.late, "from-4", {"n": 4})
        self.late._reactor.advance(5000)
        self.fails(self.late.sync(), TooManyDevices)
        self.now(self.late.accept_server_restore())
        kept = {store._local.documents.replica for store in (*self.stores[2:], self.late)}
        self.assertEqual({one.device for one in self.now(self.late.devices())}, kept)
        self.sync(*self.stores)
        self.put(self.one, "from-0", {"n": 9})
        self.put(self.one, "from-0", {"n": 0})
        self.sync(self.one, *self.stores, self.late, *self.stores)
        self.has_all(*self.stores, self.late)
        counts = {one.device: one.count for one in self.now(self.late.devices())}
        self.assertEqual(counts[self.one._local.documents.replica], 2)

    def test_lost_answer(self) -> None:
        """A device that was dropped from the count while it did not know whether its push arrived loses nothing."""
        self.put(self.one, "from-0", {"n": 9})
        put_between(self.one, before=lambda name, number: self.fail_push(name))
        self.fails(self.one.sync(), ConnectionFailed)
        self.put(self.late, "from-4", {"n": 4})
        self.fails(self.late.sync(), TooManyDevices)
        self.now(self.late.accept_server_restore())
        put_between(self.one)
        self.put(self.one, "from-0", {"n": 0})
        self.sync(self.one, *self.stores, self.late)
        self.has_all(*self.stores, self.late)

    def fail_push(self, name: str) -> None:
        """Lose a push."""
        if name == "push":
            raise ConnectionFailed()

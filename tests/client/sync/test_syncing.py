"""Tests of `Soledad.sync`: two and three devices, one server, all in memory."""

from __future__ import annotations

from soledad.errors import NoServer
from soledad.testing import make_store
from tests.client.sync.devices import DevicesTestCase


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

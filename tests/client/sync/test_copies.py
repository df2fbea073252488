"""A store that was copied, or restored from a copy: it goes on under another name, and loses nothing."""

from __future__ import annotations

from soledad import Soledad
from tests.client.sync.devices import DevicesTestCase


class CopiesTests(DevicesTestCase):
    """A device, its copy, and another device."""

    def setUp(self) -> None:
        """Have them, in step."""
        super().setUp()
        self.put(self.one, "a", {"n": 0})
        self.sync(self.one)
        self.copy_of_one = self.open(self.copy(self.one))
        self.two = self.another()

    def replica(self, store: Soledad) -> str:
        """Return the name that a device's changes are counted under."""
        return store._local.documents.replica

    def contents(self, store: Soledad, doc_id: str) -> list[int]:
        """Return what all versions of a document have."""
        docs = self.now(store.get_doc_conflicts(doc_id))
        return sorted((doc.content or {})["n"] for doc in docs) if docs else [self.content(store, doc_id)["n"]]

    def test_more_changes(self) -> None:
        """What the copy wrote is not taken for something that the other knew, however often that one wrote."""
        self.put(self.copy_of_one, "a", {"n": 1})
        self.put(self.one, "a", {"n": 2})
        self.put(self.one, "a", {"n": 3})
        self.sync(self.one, self.copy_of_one, self.one, self.two)
        self.assertNotEqual(self.replica(self.one), self.replica(self.copy_of_one))
        for store in (self.one, self.copy_of_one, self.two):
            self.assertEqual(self.contents(store, "a"), [1, 3])
            self.assertEqual(self.now(store.incidents()), [])

    def test_fewer_changes(self) -> None:
        """Nor the other way round."""
        self.put(self.copy_of_one, "a", {"n": 1})
        self.put(self.copy_of_one, "a", {"n": 2})
        self.put(self.one, "a", {"n": 3})
        self.sync(self.one, self.copy_of_one, self.one, self.two)
        for store in (self.one, self.copy_of_one, self.two):
            self.assertEqual(self.contents(store, "a"), [2, 3])

    def test_one_revision_two_contents(self) -> None:
        """One revision with two contents is a conflict."""
        self.put(self.copy_of_one, "b", {"n": 1})
        self.put(self.one, "b", {"n": 2})
        self.sync(self.one, self.copy_of_one, self.one, self.two)
        for store in (self.one, self.copy_of_one, self.two):
            self.assertEqual(self.contents(store, "b"), [1, 2])

    def test_commits_alone(self) -> None:
        """A copy that only sees the other's commits takes another name, too."""
        name = self.replica(self.one)
        self.put(self.one, "c", {"n": 1})
        self.sync(self.one, self.copy_of_one)
        self.assertEqual(self.replica(self.one), name)
        self.assertNotEqual(self.replica(self.copy_of_one), name)
        self.put(self.copy_of_one, "c", {"n": 2})
        self.put(self.one, "d", {"n": 2})
        self.sync(self.copy_of_one, self.one, self.copy_of_one)
        self.assertEqual(self.contents(self.one, "c"), [2])
        self.assertEqual(self.contents(self.copy_of_one, "d"), [2])

    def test_commits_without_documents(self) -> None:
        """Nor does it take a commit that has no document for its own."""
        name = self.replica(self.one)
        self.now(self.one.accept_server_restore())
        self.sync(self.copy_of_one)
        self.assertNotEqual(self.replica(self.copy_of_one), name)

    def test_restored(self) -> None:
        """A device that was put back to an older copy gets what it had sent since, and keeps what was not sent."""
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one)
        self.now(self.one.close())
        restored = self.copy_of_one
        self.put(restored, "e", {"n": 5})
        self.sync(restored, self.two)
        for store in (restored, self.two):
            self.assertEqual(self.contents(store, "a"), [1])
            self.assertEqual(self.contents(store, "e"), [5])

    def test_documents_in_use(self) -> None:
        """A name changes for what is written next, and not only after the store was opened again."""
        self.put(self.one, "c", {"n": 1})
        self.sync(self.one, self.copy_of_one)
        doc = self.put(self.copy_of_one, "f", {"n": 1})
        self.assertEqual(doc.rev, f"{self.replica(self.copy_of_one)}:1")
        self.assertEqual(self.replica(self.reopen(self.copy_of_one)), (doc.rev or "").removesuffix(":1"))

"""
Tests of cancelling: every local call, at every stage.

All the threads of a store are one worker that takes a step when the test lets it.  Whatever the stage, a call that
says that it was cancelled has left nothing, and one that has a result has done it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad import Document, Soledad
from soledad.client.api import open_store
from soledad.client.local.files import INLINE_LIMIT
from soledad.client.local.store import Workers
from soledad.client.reading import SealedFile
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import unawaited
from soledad.model.ids import user_id
from soledad.streams import MemoryConsumer
from soledad.testing import TEST_KEY, make_store
from tests.client.local.test_files import open_files
from tests.client.stores import PiecesProducer, count_blobs
from tests.workers import HeldWorker

LARGE = b"x" * 2 * INLINE_LIMIT


@frozen
class State:
    """What a store holds, as far as one can see."""

    documents: dict[str, tuple[str | None, dict[str, bytes]]]
    generation: int
    blobs: int
    files: int


@define(eq=False)
class Subjects:
    """The objects that calls are made on."""

    store: Soledad
    #: Saved, with a large attachment.
    doc: Document
    #: Saved, and changed since.
    changed: Document


Call = Callable[[Subjects], Deferred[Any]]

#: Calls by their names; each is made on the same store.
CALLS: dict[str, Call] = {
    "create_doc": lambda at: at.store.create_doc({"new": 1}, "new"),
    "create_doc_from_json": lambda at: at.store.create_doc_from_json("{}", "new"),
    "put_doc": lambda at: at.store.put_doc(at.changed),
    "put_docs": lambda at: at.store.put_docs([at.changed, Document("new")]),
    "delete_doc": lambda at: at.store.delete_doc(at.doc),
    "get_doc": lambda at: at.store.get_doc("doc"),
    "get_docs": lambda at: at.store.get_docs(["doc", "changed"]),
    "get_all_docs": lambda at: at.store.get_all_docs(),
    "whats_changed": lambda at: at.store.whats_changed(),
    "put_attachment of a small file": lambda at: at.doc.put_attachment(io.BytesIO(b"small"), "new"),
    "put_attachment of a large file": lambda at: at.doc.put_attachment(io.BytesIO(LARGE), "new"),
    "put_attachment of bytes": lambda at: at.doc.put_attachment(LARGE, "new"),
    "put_attachment of a producer": lambda at: at.doc.put_attachment(PiecesProducer([LARGE]), "new"),
    "get_attachment": lambda at: at.doc.get_attachment(),
    "read_attachment": lambda at: at.doc.read_attachment("default", 5, 1000),
    "write_attachment_to": lambda at: at.doc.write_attachment_to(MemoryConsumer()),
    "delete_attachment": lambda at: at.doc.delete_attachment(),
    "link_attachment": lambda at: at.changed.link_attachment(at.doc),
    "get_attachment_state": lambda at: at.doc.get_attachment_state(),
    "is_stale": lambda at: at.doc.is_stale(),
}


class CancellingTests(SynchronousTestCase):
    """Cancelled before, between and during the steps that a call takes."""

    def setUp(self) -> None:
        """Make a worker for all that blocks."""
        self.worker = HeldWorker()

    def drained(self, work: Deferred[Any]) -> Any:
        """Let all steps be taken; return the result."""
        self.worker.drain()
        return self.successResultOf(work)

    def opened(self) -> Subjects:
        """Open a new store, and make the objects."""
        self.folder = Path(self.mktemp())
        workers = Workers.start(lambda threads, name: self.worker)  # type: ignore[arg-type, return-value]
        opening = open_store(Clock(), workers, user_id("user"), HandedInKey(TEST_KEY), self.folder, None)
        store = self.drained(Deferred.fromCoroutine(opening))
        doc = self.drained(store.create_doc({"a": 1}, "doc"))
        self.drained(doc.put_attachment(LARGE))
        self.drained(store.put_doc(doc))
        changed = self.drained(store.create_doc({"a": 1}, "changed"))
        changed.content = {"a": 2}
        return Subjects(store, doc, changed)

    def state(self) -> State:
        """Return what the folder holds, with nobody using it; opening must find nothing to sweep."""
        left = len(list((self.folder / "user_blobs").iterdir()))
        store = make_store(self, data_dir=self.folder)
        generation, docs = self.successResultOf(store.get_all_docs(include_deleted=True))
        seen = {str(doc.doc_id): (doc.get_json(), self.attached(doc)) for doc in docs}
        rows = store._local.blobs.database.read_now(count_blobs)
        self.successResultOf(store.close())
        return State(seen, generation, rows, left)

    def attached(self, doc: Document) -> dict[str, bytes]:
        """Return all attachments of a document."""
        return {name: self.successResultOf(doc.read_attachment(name)) for name in doc.attachments}

    def play(self, call: Call, stage: int, during: bool) -> tuple[Any, State, int]:
        """
        Make a call, and cancel it after ``stage`` steps, or during the one that follows.

        :return: the result in a tuple, or `None` when it was cancelled; what the store holds; how many steps it took.
        """
        subjects = self.opened()
        descriptors, before = open_files(), self.worker.ran
        work = call(subjects)
        while self.worker.ran - before < stage and self.worker.waiting:
            self.worker.step()
        if during and self.worker.waiting:
            self.worker.step(before=work.cancel)
        else:
            work.cancel()
        outcome = self.ended(work)
        if outcome is not None and isinstance(outcome[0], SealedFile):
            outcome[0].close()
        steps = self.worker.ran - before
        self.assertEqual(open_files(), descriptors)
        self.drained(subjects.store.close())
        return outcome, self.state(), steps

    def ended(self, work: Deferred[Any]) -> Any:
        """Wait for the end of a call; return its result in a tuple, or `None` when it was cancelled."""
        results: list[Any] = []
        unawaited(work.addErrback(lambda failure: failure.trap(CancelledError)).addCallback(results.append))
        while not results:
            self.assertTrue(self.worker.waiting, "it neither ends nor does anything")
            self.worker.step()
        # Nothing of it runs any more: no step is left that could change anything.
        self.assertEqual(self.worker.waiting, 0)
        return None if results == [CancelledError] else tuple(results)

    def test_every_stage(self) -> None:
        """Cancelled means that nothing was done, and a result that all was."""
        nothing = self.untouched()
        for name, call in CALLS.items():
            _, everything, steps = self.play(call, 99, False)
            for stage in range(steps):
                for during in (False, True):
                    outcome, state, _ = self.play(call, stage, during)
                    expected = nothing if outcome is None else everything
                    self.assertEqual(state, expected, (name, stage, during))

    def test_before_anything(self) -> None:
        """A call that is cancelled at once never has its turn, if it takes any step at all."""
        for name, call in CALLS.items():
            outcome, _, steps = self.play(call, 0, False)
            if outcome is None:
                self.assertLessEqual(steps, 2, name)

    def untouched(self) -> State:
        """Return what the store holds to begin with."""
        subjects = self.opened()
        self.drained(subjects.store.close())
        return self.state()

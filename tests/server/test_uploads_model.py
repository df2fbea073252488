"""Uploads in two processes, against what a client knows: whatever happens, the blob is what the client sent."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from tempfile import mkdtemp
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from soledad.deferreds import InPlace, unawaited
from soledad.errors import ChecksumMismatch, QuotaExceeded, UploadBusy, WrongOffset
from soledad.model.ids import BlobId, UserId
from soledad.server.accounts import Accounts
from soledad.server.backends.blobs import BlobsBackend
from soledad.server.backends.files import Files
from soledad.server.backends.filesystem import FileBytes
from soledad.server.backends.memory import memory_database
from soledad.server.backends.naming import PART
from soledad.server.index import Index
from soledad.server.interfaces import Checksum, Upload
from soledad.server.processes import Alone
from soledad.streams import Budget, BytesProducer, MemoryConsumer
from tests.contracts.blobs_backend import ManualProducer
from tests.limits import examples

USER, BLOB = UserId("alice"), BlobId("blob-1")
LENGTH = 300
DATA = (sha256(b"seed").digest() * 10)[:LENGTH]
SIZES = st.integers(0, 80)
PROCESSES = st.integers(0, 1)
#: What to send with some bytes: usually nothing.
CHECKS = st.sampled_from(["", "", "", "right", "wrong"])


class QuickFiles(Files):
    """A system on which nothing is waited for: what is durable is not the question here."""

    def sync(self, file: int) -> None:
        """See `Files`."""

    def sync_folder(self, path: str) -> None:
        """See `Files`."""


def result(work: Deferred[Any]) -> Any:
    """Return what ``work``, which has ended, came to: a result or an error."""
    results: list[Any] = []
    unawaited(work.addBoth(results.append))
    (found,) = results
    return found.value if isinstance(found, Failure) else found


class UploadMachine(RuleBasedStateMachine):
    """One upload, a client that sends as it likes, and two processes that may be killed."""

    def __init__(self) -> None:
        super().__init__()
        self.root = mkdtemp()
        self.database = memory_database()
        self.clock = 1000.0
        self.backends = [self.backend(), self.backend()]
        result(Accounts(self.database, lambda: self.clock).add_user(USER, LENGTH))
        self.upload: Upload = result(self.backends[0].create_upload(USER, BLOB, LENGTH))
        #: What the server said last that it has.
        self.told = 0
        #: A request that is under way: its process, body, and how much of it was sent.
        self.open: tuple[int, ManualProducer, Deferred[Any], int] | None = None
        self.done = False

    def teardown(self) -> None:
        """Send all that is missing; leave nothing."""
        if self.open is not None:
            self.cut()
        self.room()
        rest = BytesProducer(DATA[self.told :])
        now = result(self.backends[0].append_upload(USER, self.upload.name, self.told, rest))
        assert now.done, now
        self.done = True
        self.room()
        self.blob()
        shutil.rmtree(self.root)

    def backend(self) -> BlobsBackend:
        """Return the backend of a process that has just begun."""
        store = FileBytes(self.root, InPlace(), Budget(), QuickFiles())
        return BlobsBackend(Index(self.database, Alone(), lambda: self.clock), store)

    @rule(process=PROCESSES, size=SIZES, check=CHECKS)
    def send(self, process: int, size: int, check: str) -> None:
        """Send some bytes in one request, perhaps with a checksum."""
        data = DATA[self.told : self.told + size]
        digest = sha256(data).digest() if check == "right" else bytes(32)
        checksum = Checksum("sha256", digest) if check and not self.done else None
        body = BytesProducer(data)
        outcome = result(self.backends[process].append_upload(USER, self.upload.name, self.told, body, checksum))
        self.learn(process, outcome, self.told + len(data), mismatch=checksum is not None and check == "wrong")

    def learn(self, process: int, outcome: Any, expected: int, mismatch: bool) -> None:
        """Compare what a request came to with what may be; learn from it."""
        if self.open is not None and self.open[0] != process:
            assert isinstance(outcome, UploadBusy | WrongOffset), outcome
            return
        taken_over, self.open = self.open is not None, None
        if isinstance(outcome, WrongOffset):
            # Somebody's bytes counted that this client had not been told of.
            assert taken_over
            self.ask(process)
        elif mismatch:
            assert isinstance(outcome, ChecksumMismatch), outcome
        else:
            assert outcome.received == expected, outcome
            self.told, self.done = outcome.received, outcome.done

    @rule(process=PROCESSES)
    def ask(self, process: int) -> None:
        """Ask where to go on; the answer never goes back."""
        now = result(self.backends[process].get_upload(USER, self.upload.name))
        assert now.received >= self.told
        if self.open is not None and self.open[0] == process:
            # What was sent has arrived, and the request has ended.
            assert now.received == min(self.open[3], LENGTH - 1) or self.done
            self.open = None
        if self.open is None:
            self.told = now.received

    @precondition(lambda self: self.open is None and not self.done)
    @rule(process=PROCESSES, size=SIZES)
    def begin(self, process: int, size: int) -> None:
        """Send a part of what a request is to have, and stay there."""
        body = ManualProducer(LENGTH - self.told)
        work = self.backends[process].append_upload(USER, self.upload.name, self.told, body)
        sent = DATA[self.told :][:size]
        for start in range(0, len(sent), 64):
            body.consumer.write(sent[start : start + 64])
        self.open = (process, body, work, self.told + len(sent))
        unawaited(work.addErrback(lambda failure: None))

    @precondition(lambda self: self.open is not None)
    @rule()
    def cut(self) -> None:
        """Lose the connection of the request that is under way."""
        assert self.open is not None
        process, _, work, sent = self.open
        work.cancel()
        self.open = None
        now = result(self.backends[process].get_upload(USER, self.upload.name))
        assert now.received == min(sent, LENGTH - 1), (now.received, sent)
        self.told = now.received

    @precondition(lambda self: self.open is None)
    @rule(process=PROCESSES, junk=st.binary(max_size=50))
    def kill(self, process: int, junk: bytes) -> None:
        """Let a process be gone that had written more than counts."""
        self.backends[process] = self.backend()
        path = self.backends[0].store.path(self.upload.place) + PART  # type: ignore[attr-defined]
        if os.path.exists(path):
            with open(path, "ab") as file:
                file.write(junk)

    def room(self) -> None:
        """The whole quota is taken from the beginning to the end, by the upload and then by the blob."""
        outcome = result(self.backends[0].create_upload(USER, BlobId("more"), 1))
        assert isinstance(outcome, QuotaExceeded), outcome

    @invariant()
    def blob(self) -> None:
        """The blob is there when all its bytes are, not before, and it is what was sent."""
        body = MemoryConsumer()
        result(self.backends[1].read_blob(USER, BLOB, body))
        assert body.value() == (DATA if self.done else b"")
        if self.done:
            assert result(self.backends[1].get_tag(USER, BLOB)) == sha256(DATA).hexdigest()


class UploadModelTests(SynchronousTestCase):
    """The machine, as a test."""

    def test_any_order(self) -> None:
        """Whatever the order of requests, cuts and kills, the blob is the client's bytes."""
        run_state_machine_as_test(UploadMachine, settings=settings(max_examples=examples(40), stateful_step_count=25))

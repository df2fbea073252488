"""
Two devices of one user that do anything, in any order, are killed at any step, and have clocks that jump.

Nothing that a version of a document points at is ever lost, on neither device; what nothing points at is gone from
everywhere in the end.  Both as long as devices hear of each other within a grace period, which is what it is for.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, field
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from soledad import Document, Soledad
from soledad.client.api import open_store
from soledad.client.local import blobs, database, durable, files, references, retention
from soledad.client.local.database import Cursor
from soledad.client.local.store import Workers
from soledad.client.remote.http import ServerConnection
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import InPlace
from soledad.errors import NotEvictable, RevisionConflict
from soledad.model.attachment import Pointer
from soledad.model.blob import BlobKey, SyncStatus
from soledad.model.ids import ATTACHMENTS, BlobId, user_id
from soledad.model.retention import LONGEST, counted
from soledad.testing import TEST_KEY, MemoryServer, make_store
from tests.client.sync.homes import INLINE, all_versions, carry_out_deletions, on_server
from tests.integration.local_crashing import SteppingConnection, SteppingOS, Steps
from tests.limits import LONG, examples

T = TypeVar("T")

#: The grace period of these tests: short, so that it often ends.
GRACE = 3 * LONGEST

IDS = ["doc-0", "doc-1"]
DOC_IDS = st.sampled_from(IDS)
NAMES = st.sampled_from(["default", "other"])
DEVICES = st.sampled_from("ab")
SIZES = st.sampled_from([0, 10, 3 * INLINE])
#: After how many steps the device dies; most of the time it does not.
DEATHS = st.sampled_from([None] * 12 + [*range(1, 7), 10, 15])
#: What a clock does between two runs of the collector.
JUMPS = st.sampled_from([LONGEST, LONGEST / 2, 0.0, 1e9, -1e9])


class Killed(BaseException):
    """The process is no more: nothing handles this."""


class Mortality(Steps):
    """Counts the steps of whichever device is at work; from a fatal one on, all fail: nothing is changed any more."""

    def __init__(self) -> None:
        super().__init__(0)
        self.dead = False

    def step(self) -> None:
        """Take a step; nobody dies while none is fatal."""
        self.left -= 1
        self.dead = self.dead or self.left == 0
        if self.dead:
            raise Killed()


@define(eq=False)
class Device:
    """A device, and what its user has in hand."""

    folder: Path
    clock: Clock
    store: Soledad
    #: Documents with what was attached to them in this session.
    unsaved: list[tuple[Document, Pointer]] = field(factory=list, init=False)
    #: Seconds of grace periods that it counted since it last heard of the other.
    counted: float = field(default=0.0, init=False)


class DevicesMachine(RuleBasedStateMachine):
    """The two devices, and what has to be so."""

    test: DevicesTests

    # --- the devices ----------------------------------------------------------------------------------

    @initialize()
    def open(self) -> None:
        """Have two new devices, and a server."""
        self.server = MemoryServer()
        self.data: dict[BlobId, bytes] = {}
        self.devices: dict[str, Device] = {}
        for name, template in self.test.templates.items():
            folder = Path(self.test.mktemp())
            shutil.copytree(template, folder)
            clock = Clock()
            self.devices[name] = Device(folder, clock, self.opened(folder, clock))

    def opened(self, folder: Path, clock: Clock) -> Soledad:
        """Open a store that works in place."""
        workers = Workers.start(lambda threads, name: InPlace())
        opening = open_store(
            clock, workers, user_id("user"), HandedInKey(TEST_KEY), folder, self.server.connect("user")
        )
        store = self.now(Deferred.fromCoroutine(opening))
        store._local.blobs.files._inline_limit = INLINE
        # Nobody takes the power away here.
        for one in (store._local.documents.database, store._local.blobs.database):
            one._writer.execute("PRAGMA synchronous = OFF")
        return store

    def now(self, work: Deferred[T]) -> T:
        """Return a result that is there already."""
        return self.test.successResultOf(work)

    def live(self, device: Device, death: int | None, work: Callable[[], object]) -> None:
        """Let a device do something, and perhaps die of it; then it is opened again."""
        mortality = self.test.mortality
        mortality.left, mortality.dead = death or 0, False
        try:
            work()
        except (Killed, self.test.failureException):
            if not mortality.dead:
                raise
        finally:
            died, mortality.dead, mortality.left = mortality.dead, False, 0
        if died:
            self.kill(device)

    def kill(self, device: Device) -> None:
        """Let nothing be left of a device but what it has stored."""
        device.unsaved.clear()
        device.store._rounds.stop()
        device.store._keeping.stop()
        device.store._local.abandon()
        device.store = self.opened(device.folder, device.clock)

    def get(self, device: Device, doc_id: str) -> Document:
        """Return a document that can be written, new or not; one in conflict is settled."""
        versions = self.now(device.store.get_doc_conflicts(doc_id))
        if versions:
            self.now(device.store.resolve_doc(versions[0], [str(one.rev) for one in versions]))
        (doc,) = self.now(device.store.get_docs([doc_id], include_deleted=True)) or [Document(doc_id)]
        if doc.is_tombstone():
            doc.content = {}
        doc.home = device.store._documents._home
        return doc

    # --- what the user does ---------------------------------------------------------------------------

    @rule(
        name=DEVICES,
        doc_id=DOC_IDS,
        attachment=NAMES,
        size=SIZES,
        sends=st.booleans(),
        saves=st.booleans(),
        death=DEATHS,
    )
    def attach(
        self, name: str, doc_id: str, attachment: str, size: int, sends: bool, saves: bool, death: int | None
    ) -> None:
        """Attach something, send it or not, and save it now or later or never."""
        device = self.devices[name]
        data = len(self.data).to_bytes(4, "big") + bytes(size)

        def work() -> None:
            doc = self.get(device, doc_id)
            self.now(doc.put_attachment(data, attachment))
            pointer = doc.attachments[attachment]
            self.data[pointer.blob_id] = data
            if sends:
                self.now(doc.upload_attachment(attachment))
            if saves:
                self.now(device.store.put_doc(doc))
            else:
                device.unsaved.append((doc, pointer))

        self.live(device, death, work)

    @rule(name=DEVICES, death=DEATHS)
    def save_later(self, name: str, death: int | None) -> None:
        """Save what waits to be saved, unless it is outdated."""
        device = self.devices[name]

        def work() -> None:
            while device.unsaved:
                doc, _ = device.unsaved[-1]
                saving: Deferred[Any] = device.store.put_doc(doc)
                self.now(saving.addErrback(lambda failure: failure.trap(RevisionConflict) and None))
                del doc
                device.unsaved.pop()

        self.live(device, death, work)

    @rule(name=DEVICES)
    def forget(self, name: str) -> None:
        """Let go of what was not saved."""
        self.devices[name].unsaved.clear()

    @rule(name=DEVICES, doc_id=DOC_IDS, other_id=DOC_IDS, attachment=NAMES, death=DEATHS)
    def link(self, name: str, doc_id: str, other_id: str, attachment: str, death: int | None) -> None:
        """Let a document point at what another one has."""
        device = self.devices[name]

        def work() -> None:
            doc, other = self.get(device, doc_id), self.get(device, other_id)
            if attachment in other.attachments and doc_id != other_id:
                self.now(doc.link_attachment(other, attachment))
                self.now(device.store.put_doc(doc))

        self.live(device, death, work)

    @rule(name=DEVICES, doc_id=DOC_IDS, attachment=NAMES, deletes=st.booleans(), death=DEATHS)
    def detach(self, name: str, doc_id: str, attachment: str, deletes: bool, death: int | None) -> None:
        """Let a document point at something no more, or delete it."""
        device = self.devices[name]

        def work() -> None:
            doc = self.get(device, doc_id)
            if attachment in doc.attachments:
                if deletes:
                    doc.make_tombstone()
                else:
                    self.now(doc.delete_attachment(attachment))
                self.now(device.store.put_doc(doc))

        self.live(device, death, work)

    @rule(name=DEVICES, death=DEATHS)
    def move_bytes(self, name: str, death: int | None) -> None:
        """Send what waits to be sent, and fetch what is not here."""
        device = self.devices[name]
        self.live(device, death, lambda: self.send_and_fetch(device))

    @rule(name=DEVICES, death=DEATHS)
    def evict(self, name: str, death: int | None) -> None:
        """Drop bytes, as far as the server has them."""
        device = self.devices[name]

        def work() -> None:
            for doc in self.now(device.store.get_docs(IDS)):
                for attachment in doc.attachments:
                    evicting: Deferred[Any] = doc.evict_attachment(attachment)
                    self.now(evicting.addErrback(lambda failure: failure.trap(NotEvictable)))

        self.live(device, death, work)

    @rule(name=DEVICES, death=DEATHS)
    def make_room(self, name: str, death: int | None) -> None:
        """Let there be no room."""
        device = self.devices[name]

        def work() -> None:
            self.now(device.store.set_storage_budget(0))
            self.now(Deferred.fromCoroutine(device.store._keeping.fit()))
            self.now(device.store.set_storage_budget(None))

        self.live(device, death, work)

    # --- what happens by itself -----------------------------------------------------------------------

    @rule(name=DEVICES, jumps=st.lists(JUMPS, min_size=1, max_size=5), death=DEATHS)
    def collect(self, name: str, jumps: list[float], death: int | None) -> None:
        """Let time pass, in whatever way, and the collector run; before too much of it has, devices meet."""
        for jump in jumps:
            device = self.devices[name]
            last = device.clock.rightNow
            device.clock.rightNow += jump
            device.counted += counted(last, device.clock.rightNow)
            if device.counted >= GRACE:
                self.meet()
            self.live(device, death, lambda: self.run_collector(self.devices[name]))

    @rule(name=DEVICES, death=DEATHS)
    def hear(self, name: str, death: int | None) -> None:
        """Let a device have what the other has, and not the other way round."""
        device, other = self.devices[name], self.devices["b" if name == "a" else "a"]
        self.live(device, death, lambda: self.apply(other, device))

    @rule()
    def meet(self) -> None:
        """Let both devices have what either has."""
        a, b = self.devices["a"], self.devices["b"]
        for source, target in ((a, b), (b, a), (a, b)):
            self.apply(source, target)
        a.counted = b.counted = 0.0

    @rule(name=DEVICES)
    def end(self, name: str) -> None:
        """Let a device end without being closed."""
        self.kill(self.devices[name])

    def apply(self, source: Device, target: Device) -> None:
        """Take all versions that another device has."""
        coming = source.store._local.documents.database.read_now(all_versions)
        self.now(Deferred.fromCoroutine(target.store._documents.apply_all(coming)))

    def run_collector(self, device: Device) -> None:
        """Let the collector run, and what it queued be carried out."""
        self.now(Deferred.fromCoroutine(device.store._collector.run()))
        carry_out_deletions(self.test, device.store)

    def send_and_fetch(self, device: Device) -> None:
        """Send and fetch the attachments of documents, as far as that can be done."""
        for doc in self.now(device.store.get_docs(IDS)):
            for version in self.now(device.store.get_doc_conflicts(str(doc.doc_id))) or [doc]:
                for name, pointer in version.attachments.items():
                    status = self.status(device, pointer.blob_id)
                    if status is SyncStatus.PENDING_UPLOAD:
                        self.now(version.upload_attachment(name))
                    elif pointer.blob_id in on_server(self.test, device.store):
                        self.now(version.download_attachment(name))

    # --- what has to be so ----------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost(self) -> None:
        """What any version, or an object in hand, points at has its bytes on a device or on the server."""
        if not hasattr(self, "devices"):
            return
        there = on_server(self.test, self.devices["a"].store)
        here = set[BlobId]().union(*(self.local(device) for device in self.devices.values()))
        for device in self.devices.values():
            lost = (self.referenced(device) & set(self.data)) - there - here
            self.test.assertEqual(lost, set())
            for _, pointer in device.unsaved:
                self.test.assertIn(pointer.blob_id, there | here)

    def referenced(self, device: Device) -> set[BlobId]:
        """Return what versions on a device point at."""
        return device.store._local.documents.database.read_now(references.referenced)

    def rows(self, device: Device) -> dict[BlobId, str | None]:
        """Return the attachments that a device knows, with their files."""
        return device.store._local.blobs.database.read_now(
            lambda cursor: {BlobId(row[0]): row[1] for row in cursor.execute("SELECT blob_id, file FROM blob")}
        )

    def local(self, device: Device) -> set[BlobId]:
        """Return the attachments whose bytes are on a device."""
        names = device.store._local.blobs.files.names()
        with_bytes = device.store._local.blobs.database.read_now(has_bytes)
        return {blob_id for blob_id, file in with_bytes if file is None or file in names}

    def status(self, device: Device, blob_id: BlobId) -> SyncStatus | None:
        """Return what a device knows of a blob."""
        row = device.store._local.blobs.database.read_now(blobs.get, BlobKey(ATTACHMENTS, blob_id))
        return None if row is None else row.status

    def nothing_stays(self) -> None:
        """When all have met and enough time has passed, nothing is anywhere but what is pointed at: readable."""
        for device in self.devices.values():
            device.unsaved.clear()
        gc.collect()
        self.meet()
        for _ in range(5):
            for device in self.devices.values():
                device.clock.rightNow += LONGEST
                self.run_collector(device)
        wanted = self.referenced(self.devices["a"])
        for device in (*self.devices.values(), self.devices["a"]):
            self.send_and_fetch(device)
        self.test.assertEqual(on_server(self.test, self.devices["a"].store), wanted)
        for device in self.devices.values():
            rows = self.rows(device)
            self.test.assertEqual(set(rows), wanted)
            names = {file for file in rows.values() if file is not None}
            self.test.assertEqual(device.store._local.blobs.files.names(), names)
            dropped = device.store._local.documents.database.read_now(references.all_dropped, BlobId(""), 1000)
            self.test.assertLessEqual(set(dropped), wanted)
            self.look_at_data(device)

    def look_at_data(self, device: Device) -> None:
        """Every attachment has the bytes that were attached."""
        for doc in self.now(device.store.get_all_docs())[1]:
            for name, pointer in doc.attachments.items():
                self.test.assertEqual(self.now(doc.read_attachment(name)), self.data[pointer.blob_id])

    def teardown(self) -> None:
        """Look at what is left, and close the stores."""
        if hasattr(self, "devices"):
            try:
                self.nothing_stays()
            finally:
                for device in self.devices.values():
                    self.now(device.store.close())
                # What was cut off in the middle tells when it is cleared away.
                gc.collect()
                self.test.flushLoggedErrors(Killed, CancelledError)


def has_bytes(cursor: Cursor) -> list[tuple[BlobId, str | None]]:
    """Return the attachments that have bytes, or a file."""
    query = "SELECT blob_id, file FROM blob WHERE file IS NOT NULL OR id IN (SELECT id FROM container)"
    return [(BlobId(blob_id), file) for blob_id, file in cursor.execute(query)]


class DevicesTests(SynchronousTestCase):
    """Any sequence of what two devices may do."""

    def setUp(self) -> None:
        """Make what devices begin with, and let them be mortal."""
        self.patch(retention, "GRACE", GRACE)
        first = self.template(Path(self.mktemp()), None)
        self.templates = {"a": first, "b": self.template(Path(self.mktemp()), first)}
        self.mortality = Mortality()
        self.patch(files.BlobFiles, "fsync", lambda *args: None)
        for module in (durable, files):
            self.patch(module, "os", SteppingOS(self.mortality))
        connect = database.connect
        self.patch(database, "connect", lambda *args: SteppingConnection(connect(*args), self.mortality))
        request: Callable[..., Any] = ServerConnection.request

        async def stepping(*args: Any, **options: Any) -> Any:
            self.mortality.step()
            answer = await request(*args, **options)
            self.mortality.step()
            return answer

        self.patch(ServerConnection, "request", stepping)

    def template(self, folder: Path, other: Path | None) -> Path:
        """Make an empty store, with the keys of another one."""
        if other is not None:
            folder.mkdir()
            shutil.copy(other / "user.keyring", folder)
        self.successResultOf(make_store(self, data_dir=folder).close())
        return folder

    def test_anything(self) -> None:
        """Nothing is lost, and nothing stays."""
        machine = type("Machine", (DevicesMachine,), {"test": self})
        # To find the shortest sequence that fails takes much longer than to find one.
        phases = set(Phase) if LONG else {Phase.generate}
        run_state_machine_as_test(
            machine, settings=settings(max_examples=examples(10), stateful_step_count=50, phases=phases)
        )

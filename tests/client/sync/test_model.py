"""Three devices of one person and one server, against what a person expects: nothing gets lost, and all agree."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from soledad import Soledad, TamperPolicy
from soledad.deferreds import unawaited
from soledad.errors import ConnectionFailed, PreconditionFailed
from soledad.testing import MemoryServer, make_store
from tests.client.sync.devices import put_between, second_device
from tests.client.sync.evil import Evil
from tests.limits import examples

IDS = ("a", "b", "c")
DEVICES = st.integers(0, 2)
DOCS = st.sampled_from(IDS)
#: At which request of a sync: mostly the second, which pushes.
AT = st.sampled_from((1, 0, 2, 3))


@define(eq=False)
class Write:
    """Something that a person did to a document."""

    doc_id: str
    #: `None`: it was deleted.
    content: int | None
    #: What the person saw, and replaced.
    replaced: list[Write]
    #: Whether it may be gone: the store was put back to an older state before it had sent it.
    excused: bool = False
    #: Whether it may come back though it was replaced: a store that was put back may send it anew.
    may_return: bool = False
    #: Whether the server has it for certain.
    is_sent: bool = False


@define(eq=False)
class Device:
    """One of a person's devices."""

    store: Soledad
    folder: Path
    #: What was written here.
    writes: list[Write] = field(factory=list)
    #: Copies of the folder, each with how much was written before it.
    copies: list[tuple[Path, int]] = field(factory=list)
    #: Whether there is, or was, another store that goes on from the same.
    is_twin: bool = False


class DevicesMachine(RuleBasedStateMachine):
    """What people, networks and backups do."""

    test: ClassVar[SynchronousTestCase]

    @initialize()
    def begin(self) -> None:
        """Have three devices."""
        self.server = MemoryServer()
        self.numbers = count()
        self.writes: list[Write] = []
        #: The bytes of each blob that was attached.
        self.attached: dict[str, bytes] = {}
        first = self.open(self.folder())
        folders = [second_device(first.store, self.folder()) for _ in range(2)]
        self.devices = [first, *map(self.open, folders)]

    def folder(self) -> Path:
        """Return a new folder's name."""
        return Path(self.test.mktemp())

    def open(self, folder: Path) -> Device:
        """Open a device's folder."""
        return Device(make_store(self.test, self.server, data_dir=folder), folder)

    def now(self, work: Deferred[Any]) -> Any:
        """Return what a call came to."""
        return self.test.successResultOf(work)

    # --- people ---------------------------------------------------------------------------------------

    @rule(number=DEVICES, doc_id=DOCS)
    def put(self, number: int, doc_id: str) -> None:
        """Create or change a document, unless it is in conflict."""
        self._put(self.devices[number], doc_id)

    def _put(self, device: Device, doc_id: str) -> None:
        doc = self.now(device.store.get_doc(doc_id, include_deleted=True))
        if doc is not None and doc.has_conflicts:
            return
        content = next(self.numbers)
        if content % 3 == 0:
            self.back_up(device)
        seen = [] if doc is None else self.seen(doc_id, [doc])
        if doc is None:
            self.now(device.store.create_doc({"n": content}, doc_id))
        else:
            doc.content = {"n": content}
            if content % 5 == 0:
                data = b"attached with %d" % content
                self.now(doc.put_attachment(data))
                self.attached[doc.attachments["default"].blob_id] = data
            self.now(device.store.put_doc(doc))
        self.written(device, Write(doc_id, content, seen))

    @rule(number=DEVICES, doc_id=DOCS)
    def delete(self, number: int, doc_id: str) -> None:
        """Delete a document, unless it is in conflict."""
        device = self.devices[number]
        doc = self.now(device.store.get_doc(doc_id))
        if doc is None or doc.has_conflicts:
            return
        seen = self.seen(doc_id, [doc])
        self.now(device.store.delete_doc(doc))
        self.written(device, Write(doc_id, None, seen))

    @rule(number=DEVICES, doc_id=DOCS)
    def resolve(self, number: int, doc_id: str) -> None:
        """Settle a conflict."""
        device = self.devices[number]
        versions = self.now(device.store.get_doc_conflicts(doc_id))
        if not versions:
            return
        seen, content = self.seen(doc_id, versions), next(self.numbers)
        doc = versions[-1]
        doc.content = {"n": content}
        self.now(device.store.resolve_doc(doc, [version.rev for version in versions]))
        self.written(device, Write(doc_id, content, seen))

    def written(self, device: Device, write: Write) -> None:
        """Remember it."""
        write.may_return = device.is_twin
        self.writes.append(write)
        device.writes.append(write)

    def seen(self, doc_id: str, versions: list[Any]) -> list[Write]:
        """Return the writes that versions are of; of which deletion a tombstone is, cannot be seen."""
        contents = {None if version.content is None else version.content["n"] for version in versions}
        return [write for write in self.writes if write.doc_id == doc_id and write.content in contents]

    @rule(number=DEVICES, policy=st.sampled_from(TamperPolicy))
    def choose(self, number: int, policy: TamperPolicy) -> None:
        """Choose a policy, which is of no consequence as long as the server is honest."""
        self.now(self.devices[number].store.set_tamper_policy(policy))

    # --- networks, and the ends of processes ----------------------------------------------------------

    @rule(number=DEVICES)
    def sync(self, number: int) -> None:
        """Sync."""
        device = self.devices[number]
        put_between(device.store)
        self.now(device.store.sync())
        for write in device.writes:
            write.is_sent = True

    @rule(number=DEVICES, at=AT, arrives=st.booleans())
    def interrupted(self, number: int, at: int, arrives: bool) -> None:
        """Sync, until a request or its answer is lost."""

        def lose(name: str, call: int, answer: Any = None) -> Any:
            if call == at:
                raise ConnectionFailed()
            return answer

        self.attempt(self.devices[number], **{"after" if arrives else "before": lose})

    @rule(number=DEVICES, size=st.integers(0, 5000))
    def cut(self, number: int, size: int) -> None:
        """Sync, until the connection breaks somewhere."""
        self.server.cut_after(size)
        self.attempt(self.devices[number])
        self.server.heal()

    @rule(number=DEVICES, at=AT, doc_id=DOCS, other=DEVICES)
    def meanwhile(self, number: int, at: int, doc_id: str, other: int) -> None:
        """Change something while a sync goes on, here, and let another device be quicker."""
        device, quicker = self.devices[number], self.devices[other]
        self._put(device, doc_id)

        def change(name: str, call: int) -> None:
            if call == at:
                self._put(device, doc_id)
                if quicker is not device:
                    self._put(quicker, doc_id)
                    self.attempt(quicker)

        self.attempt(device, before=change)

    @rule(number=DEVICES, at=AT, arrives=st.booleans())
    def killed(self, number: int, at: int, arrives: bool) -> None:
        """Sync, until the process dies; open what it left."""
        device = self.devices[number]
        left = self.folder()

        def die(name: str, call: int, answer: Any = None) -> Any:
            if call == at:
                shutil.copytree(device.folder, left)
                raise ConnectionFailed()
            return answer

        self.attempt(device, **{"after" if arrives else "before": die})
        if left.exists():
            self.now(device.store.close())
            store = make_store(self.test, self.server, data_dir=left)
            self.devices[number] = Device(store, left, device.writes, device.copies, device.is_twin)

    def attempt(self, device: Device, **what: Callable[..., Any]) -> None:
        """Sync, which may fail, or wait for its turn for ever."""
        put_between(device.store, **what)
        outcome: list[Any] = []
        unawaited(device.store.sync().addBoth(outcome.append))
        for _ in range(40):
            if outcome:
                break
            device.store._reactor.advance(5)
        self.test.assertTrue(outcome)
        if not isinstance(outcome[0], int):
            outcome[0].trap(ConnectionFailed, PreconditionFailed)
            return
        for write in device.writes:
            write.is_sent = True

    @rule(number=DEVICES, seconds=st.integers(1, 10**9))
    def skew(self, number: int, seconds: int) -> None:
        """A clock is wrong."""
        self.devices[number].store._reactor.advance(seconds)

    def back_up(self, device: Device) -> None:
        """Copy a device's folder."""
        target = self.folder()
        shutil.copytree(device.folder, target)
        device.copies.append((target, len(device.writes)))

    @rule(number=DEVICES, both=st.booleans(), other=DEVICES)
    def restore(self, number: int, both: bool, other: int) -> None:
        """Go on with a copy of a device's folder, instead of the device, or instead of another one."""
        device = self.devices[number]
        if not device.copies:
            return
        copy, length = device.copies.pop()
        gone = self.devices[other] if both else device
        self.now(gone.store.close())
        for write in gone.writes[length:] if gone is device else gone.writes:
            write.excused = not write.is_sent
        opened = self.open(copy)
        opened.writes = device.writes[:length]
        # What a store had not sent when it finds that it is not the only one, it sends anew.
        opened.is_twin = device.is_twin = gone is not device or device.is_twin
        for write in device.writes if opened.is_twin else opened.writes:
            write.may_return = True
        self.devices[other if both else number] = opened

    # --- what a person expects ------------------------------------------------------------------------

    def teardown(self) -> None:
        """All devices are in step in the end, and nothing was lost."""
        if not hasattr(self, "devices"):
            return
        self.heal()
        for _ in range(4):
            for number in range(3):
                self.sync(number)
        states = [self.state(device) for device in self.devices]
        self.test.assertEqual(states[0], states[1])
        self.test.assertEqual(states[0], states[2])
        for device in self.devices:
            self.incidents_excused(device)
            self.test.assertEqual(self.now(device.store.sync_problems()), [])
            between = put_between(device.store)
            self.now(device.store.sync())
            self.test.assertEqual(between.calls, ["pull"])
            self.attachments_open(device)
        self.nothing_lost(states[0])
        for device in self.devices:
            self.now(device.store.close())

    def heal(self) -> None:
        """Put an end to what was done to the server: nothing was."""

    def incidents_excused(self, device: Device) -> None:
        """Nobody found anything."""
        self.test.assertEqual(self.now(device.store.incidents()), [])

    def attachments_open(self, device: Device) -> None:
        """Every device has the bytes of what is attached, or gets them."""
        for doc_id in IDS:
            for doc in self.versions(device, doc_id):
                for pointer in doc.attachments.values():
                    file = self.now(doc.get_attachment())
                    self.test.assertEqual(file.read(), self.attached[pointer.blob_id])
                    file.close()

    def versions(self, device: Device, doc_id: str) -> list[Any]:
        """Return all versions of a document."""
        versions: list[Any] = self.now(device.store.get_doc_conflicts(doc_id))
        if versions:
            return versions
        doc = self.now(device.store.get_doc(doc_id, include_deleted=True))
        return [] if doc is None else [doc]

    def state(self, device: Device) -> dict[str, list[tuple[Any, ...]]]:
        """Return all versions of all documents."""
        return {
            doc_id: [
                (one.rev, None if one.content is None else one.content["n"], dict(one.attachments))
                for one in self.versions(device, doc_id)
            ]
            for doc_id in IDS
        }

    def nothing_lost(self, state: dict[str, list[tuple[Any, ...]]]) -> None:
        """Everything that was written is there, or was replaced by somebody who saw it; what was replaced is gone."""
        there = {doc_id: {content for _, content, _ in versions} for doc_id, versions in state.items()}
        alive: set[Write] = set()
        for write in reversed(self.writes):
            # What replaces something is later in the list, so that it is judged already.
            replaced = [later for later in self.writes if write in later.replaced]
            if write.content in there[write.doc_id] or alive.intersection(replaced):
                alive.add(write)
            self.test.assertTrue(write in alive or write.excused, write)
            if alive.intersection(replaced) and not write.may_return and write.content is not None:
                self.test.assertNotIn(write.content, there[write.doc_id])


class RestoredServerMachine(DevicesMachine):
    """A server is put back to older states, or spoiled, and devices sync with that before anybody says so."""

    def restore(self, number: int, both: bool, other: int) -> None:
        """Put no device back besides: with the server it may lose what only they had.  No rule any more."""

    def choose(self, number: int, policy: TamperPolicy) -> None:
        """Let all go on with what they were not told of yet.  No rule any more."""

    @initialize()
    def begin(self) -> None:
        """Have three devices, and a server that is not what it was."""
        super().begin()
        self.evil = Evil(self.server)
        self.snapshots = [self.evil.snapshot()]
        self.is_put_back = False

    @rule()
    def snapshot(self) -> None:
        """Keep a state of the server."""
        self.snapshots.append(self.evil.snapshot())

    @rule(which=st.integers(0, 5))
    def put_back(self, which: int) -> None:
        """Put the server back."""
        self.evil.put_back(self.snapshots[which % len(self.snapshots)])
        self.is_put_back = True

    @rule(which=st.integers(0, 5), how=st.sampled_from(("drop", "forge", "swap")))
    def spoil(self, which: int, how: str) -> None:
        """Drop a record, alter it, or put it in the place of another one."""
        names = self.evil.names()
        if not names:
            return
        name = names[which % len(names)]
        if how == "drop":
            self.evil.drop(name)
        else:
            other = self.evil.record(names[0])
            self.evil.alter(name, bytes(len(other)) if how == "forge" else other)
        self.is_put_back = True

    @rule(number=DEVICES)
    def accept(self, number: int) -> None:
        """Say on a device that it was."""
        if self.is_put_back:
            put_between(self.devices[number].store)
            self.now(self.devices[number].store.accept_server_restore())

    def heal(self) -> None:
        """Say once more that it was put back."""
        self.accept(0)

    def incidents_excused(self, device: Device) -> None:
        """Nobody found anything unless there was something."""
        if not self.is_put_back:
            super().incidents_excused(device)


class DevicesTests(SynchronousTestCase):
    """Whatever happens."""

    def test_devices(self) -> None:
        """All devices come to have the same, and nothing is lost."""
        DevicesMachine.test = self
        run_state_machine_as_test(DevicesMachine, settings=settings(max_examples=examples(15), stateful_step_count=60))

    def test_restored_server(self) -> None:
        """When somebody says that a server was put back, all devices come to have the same, and nothing is lost."""
        RestoredServerMachine.test = self
        several = settings(max_examples=examples(10), stateful_step_count=50)
        run_state_machine_as_test(RestoredServerMachine, settings=several)

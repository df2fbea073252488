"""Two devices and a server against a model: puts, deletions, syncs, broken connections, in any order."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from soledad import Soledad
from soledad.deferreds import unawaited
from soledad.errors import BlobNotFound
from soledad.testing import MemoryServer, make_store
from tests.limits import examples

ALICE = "alice"
DEVICES = st.integers(0, 1)
#: Each device puts under ids of its own: two that put under one id, and know nothing of each other, is another matter.
NUMBERS = st.integers(0, 1)
SIZES = st.sampled_from([0, 100, 300 * 1024])


class Machine(RuleBasedStateMachine):
    """What a person does with two devices."""

    test: SynchronousTestCase

    def __init__(self) -> None:
        super().__init__()
        self.server = MemoryServer()
        self.folders = [Path(self.test.mktemp()), Path(self.test.mktemp())]
        self.result(make_store(self.test, uuid=ALICE, data_dir=self.folders[0]).close())
        copytree(self.folders[0], self.folders[1])
        self.devices = [self.open(folder) for folder in self.folders]
        self.versions = 0
        #: What was put last under each id, and everything that was deleted.
        self.latest: dict[str, bytes] = {}
        self.deleted: set[bytes] = set()
        #: What a device put, and nobody deleted, is on it.
        self.own: list[dict[str, bytes]] = [{}, {}]

    def open(self, folder: Path) -> Soledad:
        """Open a device."""
        return make_store(self.test, self.server, uuid=ALICE, data_dir=folder)

    def outcome(self, work: Deferred[Any]) -> Any:
        """Return a result, or a `Failure`."""
        results: list[Any] = []
        unawaited(work.addBoth(results.append))
        self.server.flush()
        (result,) = results
        return result

    def result(self, work: Deferred[Any]) -> Any:
        """Return a result."""
        result = self.outcome(work)
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def local(self, device: int, blob_id: str) -> bytes | None:
        """Return what a device has under an id, without asking the server."""
        listed = self.result(self.devices[device].blobs.list())
        if not any(blob.blob_id == blob_id and blob.is_local for blob in listed):
            return None
        with self.result(self.devices[device].blobs.get(blob_id)) as file:
            data: bytes = file.read()
        return data

    @rule(device=DEVICES, number=NUMBERS, size=SIZES)
    def put(self, device: int, number: int, size: int) -> None:
        """Put a new version, where there is none."""
        blob_id = f"{'ab'[device]}{number}"
        if self.result(self.devices[device].blobs.exists(blob_id)):
            return
        self.versions += 1
        data = self.versions.to_bytes(4, "big") + bytes(size)
        self.result(self.devices[device].blobs.put(blob_id, data))
        self.latest[blob_id] = self.own[device][blob_id] = data

    @rule(device=DEVICES, owner=DEVICES, number=NUMBERS)
    def delete(self, device: int, owner: int, number: int) -> None:
        """Delete what a device has."""
        blob_id = f"{'ab'[owner]}{number}"
        data = self.local(device, blob_id)
        if data is None:
            return
        self.result(self.devices[device].blobs.delete(blob_id))
        self.deleted.add(data)

    @rule(device=DEVICES)
    def sync(self, device: int) -> None:
        """Sync."""
        self.result(self.devices[device].blobs.sync())

    @rule(device=DEVICES, size=st.integers(1, 5000))
    def sync_and_break(self, device: int, size: int) -> None:
        """Sync over a connection that breaks."""
        self.server.cut_after(size)
        self.outcome(self.devices[device].blobs.sync())
        self.server.heal()

    @rule(device=DEVICES)
    def reopen(self, device: int) -> None:
        """Close the store, and open it again."""
        self.result(self.devices[device].close())
        self.devices[device] = self.open(self.folders[device])

    @precondition(lambda self: self.versions)
    @rule(device=DEVICES)
    def time(self, device: int) -> None:
        """Let time pass: what waits to be tried again is."""
        self.devices[device]._reactor.advance(3600)
        self.server.flush()

    @invariant()
    def nothing_is_lost(self) -> None:
        """What a device put, and nobody deleted, can be read there."""
        for device, own in enumerate(self.own):
            for blob_id, data in own.items():
                if data not in self.deleted:
                    assert self.local(device, blob_id) == data

    def teardown(self) -> None:
        """In the end both devices have the same, which is what was put last, unless it was deleted."""
        for _ in range(3):
            for device in range(2):
                self.sync(device)
        for blob_id, data in self.latest.items():
            expected = None if data in self.deleted else data
            for device in range(2):
                assert self.local(device, blob_id) == expected, (blob_id, device)
        for device in range(2):
            counts = self.result(self.devices[device].blobs.sync_progress())
            assert all(status.value == "SYNCED" for status in counts), counts
            self.result(self.devices[device].close())


class ModelTests(SynchronousTestCase):
    """The machine, as long as it may take."""

    def test_model(self) -> None:
        """Whatever happens, nothing that was put is lost, nothing that was deleted comes back, and devices agree."""

        class Here(Machine):
            test = self

        run_state_machine_as_test(Here, settings=settings(max_examples=examples(12), stateful_step_count=15))

    def test_several_generations(self) -> None:
        """A device that was away while an id was used again and again has the last one in the end."""
        machine = type("There", (Machine,), {"test": self})()
        machine.put(0, 0, 100)
        machine.sync(0)
        machine.sync(1)
        for _ in range(3):
            machine.delete(0, 0, 0)
            machine.sync(0)
            machine.put(0, 0, 100)
            machine.sync(0)
        machine.nothing_is_lost()
        machine.teardown()

    def test_missing(self) -> None:
        """What was never put is nowhere."""
        machine = type("Nowhere", (Machine,), {"test": self})()
        outcome = machine.outcome(machine.devices[0].blobs.get("a0"))
        self.assertTrue(outcome.check(BlobNotFound))
        machine.teardown()

"""
Tests of one user's keyring on several devices, with a server in memory.

Recovery codes stand for passphrases: they open slots too, and take no time.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar, cast

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from soledad import Document, Soledad
from soledad.client.api import open_store
from soledad.client.interfaces import IRemoteKeys
from soledad.client.keys import ATTEMPTS
from soledad.client.local.keyring import keyring_path
from soledad.client.local.opening import FIRST_CONTACT
from soledad.client.local.store import Workers
from soledad.crypto import kdf
from soledad.crypto.kdf import Argon2Parameters
from soledad.crypto.keyring import OpenKeyring, SharedPart, create
from soledad.crypto.slots import Credential, HandedInKey, Passphrase, RecoveryCode, Slot, SlotType
from soledad.deferreds import InPlace, deferred, unawaited
from soledad.errors import (
    ConnectionFailed,
    KeyringChanged,
    KeyringNotFound,
    KeyringRolledBack,
    MalformedKeyring,
    NoServer,
    NotEnoughMemory,
    ServerFailed,
    SoledadError,
    Unauthorized,
    UnexpectedAnswer,
    UnknownKey,
    WrongPassphrase,
)
from soledad.model.attachment import Pointer
from soledad.model.ids import UserId, user_id
from soledad.server.keyrings import Keyrings
from soledad.testing import MemoryServer
from tests.vectors.make import Counter
from tests.workers import HeldWorker

T = TypeVar("T")

USER = user_id("user")
FIRST, SECOND, THIRD = (RecoveryCode(bytes((n,)) * 16) for n in (1, 2, 3))


class Case(SynchronousTestCase):
    """A server, and devices that are opened with codes."""

    def setUp(self) -> None:
        """Make the server."""
        self.server = MemoryServer()
        self.server.add_user(USER)
        self.keyrings = Keyrings(self.server._accounts.database)
        self.clock = Clock()

    # --- devices --------------------------------------------------------------------------------------

    def opening(
        self, folder: Path, credential: Credential, server: Any = None, user: str = USER, recovers: bool = False
    ) -> Deferred[Soledad]:
        """Begin to open a store."""
        workers = Workers.start(lambda threads, name: InPlace())
        server = self.server.connect(user) if server is None else server
        opening = open_store(self.clock, workers, user_id(user), credential, folder, server or None, recovers)
        return Deferred.fromCoroutine(opening)

    def folder(self) -> Path:
        """Return a new folder."""
        return Path(self.mktemp())

    def open(self, folder: Path, credential: Credential = FIRST, server: Any = None) -> Soledad:
        """Open a store; without a server if that is `False`."""
        soledad = self.now(self.opening(folder, credential, server))
        self.addCleanup(lambda: self.now(soledad.close()))
        return soledad

    def opens(self, folder: Path, *credentials: RecoveryCode, server: Any = None) -> None:
        """See that these open a store, and no others do; nothing of what they do is kept."""
        for credential in (FIRST, SECOND, THIRD):
            copy = self.folder()
            shutil.copytree(folder, copy)
            if credential in credentials:
                self.now(self.now(self.opening(copy, credential, server)).close())
            else:
                self.failureResultOf(self.opening(copy, credential, server), WrongPassphrase)

    def now(self, work: Deferred[T]) -> T:
        """Return a result."""
        self.server.flush()
        return self.successResultOf(work)

    def fails(self, work: Deferred[Any], *errors: type[BaseException]) -> Any:
        """Return an error."""
        self.server.flush()
        return self.failureResultOf(work, *errors).value

    # --- what the server has --------------------------------------------------------------------------

    def on_server(self) -> bytes:
        """Return the keyring that the server has."""
        return self.now(self.keyrings.read_keyring(USER))[0]

    def put_on_server(self, data: bytes, user: UserId = USER) -> None:
        """Let the server have another keyring."""
        etag: Any = None
        if self.has_keyring(user):
            etag = self.now(self.keyrings.read_keyring(user))[1]
        self.now(self.keyrings.write_keyring(user, data, etag))

    def has_keyring(self, user: UserId = USER) -> bool:
        """Tell whether the server has one."""
        results: list[Any] = []
        unawaited(self.keyrings.read_keyring(user).addBoth(results.append))
        return isinstance(results[0], tuple)

    # --- what is sealed -------------------------------------------------------------------------------

    def attach(self, store: Soledad, data: bytes) -> Document:
        """Save a document with an attachment."""
        doc = self.now(store.create_doc({}))
        self.now(doc.put_attachment(data))
        self.now(store.put_doc(doc))
        return doc

    def reads(self, store: Soledad, pointer: Pointer) -> Deferred[bytes]:
        """Read an attachment on another device, which the sync of documents told of it."""
        doc = self.now(store.create_doc({}))
        doc.attach("default", pointer)
        self.now(store.put_doc(doc))
        return doc.read_attachment()

    def change(self, store: Soledad, code: RecoveryCode) -> Deferred[None]:
        """Let a store open with another code, as `change_passphrase` does with a passphrase."""
        return store._change_keyring(lambda: lambda keyring: keyring.with_passphrase(code, Counter(repr(code.secret))))


def held(store: Soledad) -> OpenKeyring:
    """Return the keyring of a store."""
    return store._local.keyring


class NewDeviceTests(Case):
    """A device that has nothing yet."""

    def test_first(self) -> None:
        """The first device leaves its keyring on the server."""
        store = self.open(self.folder())
        self.assertEqual(self.on_server(), held(store).shared.encode())
        self.assertTrue(held(store).is_backed_up)
        self.assertIsNone(store.keyring_problem)

    def test_second(self) -> None:
        """The second takes it, and reads what the first has sealed; its device key is its own."""
        first, second = self.open(self.folder()), self.open(self.folder())
        self.assertEqual(held(second).keyring, held(first).keyring)
        self.assertNotEqual(held(second).device_key, held(first).device_key)
        doc = self.attach(first, b"data")
        self.now(doc.upload_attachment())
        self.assertEqual(self.now(self.reads(second, doc.attachments["default"])), b"data")

    def test_file(self) -> None:
        """It opens again without the server."""
        self.open(self.folder())
        folder = self.folder()
        store = self.open(folder)
        self.now(store.close())
        self.assertEqual(held(self.open(folder, FIRST, False)), held(store))

    def test_wrong(self) -> None:
        """A wrong passphrase makes nothing."""
        self.open(self.folder())
        before, folder = self.on_server(), self.folder()
        self.fails(self.opening(folder, SECOND), WrongPassphrase)
        self.assertEqual([path.name for path in folder.iterdir()], [f"{USER}.lock"])
        self.assertEqual(self.on_server(), before)
        self.open(folder)

    def test_refused(self) -> None:
        """A server that answers, but with a refusal or rubbish, is told of: no second keyring is begun for that."""
        for reason, error in ((Unauthorized(), Unauthorized), (418, UnexpectedAnswer), (200, UnexpectedAnswer)):
            folder = self.folder()
            self.server.refuse(reason)
            self.fails(self.opening(folder, FIRST), error)
            self.assertFalse(keyring_path(folder, USER).exists())
            self.server.heal()
            self.now(self.now(self.opening(folder, FIRST)).close())

    def test_out_of_reach(self) -> None:
        """A server that cannot be reached, fails, or takes longer than one waits, is done without."""
        self.server.disconnect()
        self.open(self.folder())
        self.server.heal()
        self.server.refuse(ServerFailed())
        self.open(self.folder())
        self.server.heal()
        self.server.stall()
        opening = self.opening(self.folder(), FIRST)
        self.clock.advance(FIRST_CONTACT - 1)
        self.assertNoResult(opening)
        self.clock.advance(1)
        self.now(self.now(opening).close())

    def test_cancelled(self) -> None:
        """Opening that is cancelled while the server is asked makes nothing, and gives the lock back."""
        self.server.stall()
        folder = self.folder()
        opening = self.opening(folder, FIRST)
        opening.cancel()
        self.fails(opening, CancelledError)
        self.assertFalse(keyring_path(folder, USER).exists())
        self.server.heal()
        self.open(folder)

    def test_cancelled_at_each_step(self) -> None:
        """Whatever of its steps it is cancelled at, opening ends there, and another one works."""
        self.now(self.open(self.folder()).close())
        stages = 0
        while (opening := self.held_opening(stages)) is not None:
            stages += 1
            self.fails(opening, CancelledError)
        self.assertGreaterEqual(stages, 3)

    def held_opening(self, stages: int) -> Deferred[Soledad] | None:
        """Open a new device, and cancel that during the step after so many; `None`: there are not as many."""
        folder, worker = self.folder(), HeldWorker()
        workers: Any = Workers.start(lambda threads, name: cast("Any", worker))
        server = self.server.connect(USER)
        opening = Deferred.fromCoroutine(open_store(self.clock, workers, USER, FIRST, folder, server))
        for _ in range(stages):
            worker.step()
            self.server.flush()
        if opening.called:
            closing = self.now(opening).close()
            worker.drain()
            self.now(closing)
            return None
        worker.step(opening.cancel)
        self.server.flush()
        # The lock is free, and what is there is whole.
        self.now(self.open(folder).close())
        return opening

    def test_closed_meanwhile(self) -> None:
        """A store closes while it asks the server for its keyring in the background."""
        folder = self.folder()
        self.now(self.open(folder).close())
        self.server.stall()
        store = self.open(folder)
        self.now(store.close())
        self.assertEqual(self.clock.getDelayedCalls(), [])


class HostileTests(Case):
    """What a server may show in the place of a keyring."""

    def shown(self) -> list[tuple[bytes, type[SoledadError]]]:
        """Return keyrings that are none for this user, and the error for each."""
        good = SharedPart.parse(self.on_server())
        weak = bytearray(evolve(good, slots=(_passphrase_slot(64 * 1024, 3),)).encode())
        at = 2 + 1 + 16 + 1
        others = []
        for memory, passes in (
            (64 * 1024 - 1, 3),
            (1024 * 1024 + 1, 3),
            (64 * 1024, 2),
            (64 * 1024, 11),
            (2**32 - 1, 255),
        ):
            weak[at : at + 5] = memory.to_bytes(4, "big") + bytes((passes,))
            others.append((bytes(weak), MalformedKeyring))
        foreign = create(user_id("mallory"), FIRST, Counter("foreign")).shared
        swapped = evolve(good, slots=(FIRST.wrap(USER, create(USER, FIRST, Counter("x")).key, Counter("y")),))
        added = SECOND.wrap(USER, create(USER, KEY, Counter("z")).key, Counter("z"))
        return [
            *others,
            (b"rubbish", MalformedKeyring),
            (bytes(2**20), MalformedKeyring),
            (good.encode()[:-1], MalformedKeyring),
            (evolve(good, body=good.body[:-1] + bytes((good.body[-1] ^ 1,))).encode(), MalformedKeyring),
            (evolve(good, slots=(*good.slots, added)).encode(), MalformedKeyring),
            (foreign.encode(), WrongPassphrase),
            (swapped.encode(), MalformedKeyring),
            (evolve(good, slots=()).encode(), WrongPassphrase),
        ]  # fmt: skip

    def test_new_device(self) -> None:
        """A new device is told what is wrong, and makes nothing."""
        self.now(self.open(self.folder()).close())
        for data, error in self.shown():
            self.put_on_server(data)
            folder = self.folder()
            self.fails(self.opening(folder, FIRST), error)
            self.assertFalse(keyring_path(folder, USER).exists())

    def test_device_that_has_one(self) -> None:
        """A device that has its keyring opens with that, says what is wrong, and changes nothing, here or there."""
        folder = self.folder()
        self.now(self.open(folder).close())
        before = keyring_path(folder, USER).read_bytes()
        for data, _ in self.shown():
            self.put_on_server(data)
            store = self.open(folder)
            self.assertIsInstance(store.keyring_problem, (MalformedKeyring, KeyringChanged))
            doc = self.attach(store, b"data")
            self.fails(doc.upload_attachment(), MalformedKeyring, KeyringChanged)
            for change in (store.rotate_root, store.create_recovery_code):
                self.fails(change(), MalformedKeyring, KeyringChanged)
            self.now(store.close())
            self.assertEqual(self.on_server(), data)
            self.assertEqual(keyring_path(folder, USER).read_bytes(), before)

    def test_wrong_passphrase_stays_wrong(self) -> None:
        """Whatever the server shows, a passphrase that opens nothing here is wrong."""
        folder = self.folder()
        self.now(self.open(folder).close())
        for data, _ in self.shown():
            self.put_on_server(data)
            self.fails(self.opening(folder, THIRD), WrongPassphrase)
        self.server.disconnect()
        self.fails(self.opening(folder, THIRD), WrongPassphrase)

    def test_rolled_back(self) -> None:
        """An older keyring is not taken; when a person says that the server was restored, ours is put there again."""
        folder = self.folder()
        store = self.open(folder)
        old = self.on_server()
        self.now(store.rotate_root())
        keyring = held(store)
        self.put_on_server(old)
        error = self.fails(Deferred.fromCoroutine(store._keys.settle()), KeyringRolledBack)
        self.assertEqual((error.found, error.known), (1, 2))
        self.assertIs(store.keyring_problem, error)
        self.assertEqual((held(store), self.on_server()), (keyring, old))
        # What the server had once, another device may have.
        self.now(self.attach(store, b"data").upload_attachment())
        self.now(Deferred.fromCoroutine(store._keys.settle(restored=True)))
        self.assertIsNone(store.keyring_problem)
        self.assertEqual(SharedPart.parse(self.on_server()), held(store).shared)
        self.assertEqual((held(store).current, held(store).keyring.generation), (keyring.current, 3))

    def test_lost(self) -> None:
        """A keyring that the server has lost is put there again."""
        folder = self.folder()
        store = self.open(folder)
        before = self.on_server()
        self.now(store.close())
        self.server = MemoryServer()
        self.keyrings = Keyrings(self.server._accounts.database)
        self.open(folder)
        self.assertEqual(self.on_server(), before)

    def test_put_back_from_an_earlier_life(self) -> None:
        """A keyring that the passphrase opens, in the place of one that was known, is a person's decision."""
        old = create(USER, FIRST, Counter("earlier")).shared.encode()
        folder = self.folder()
        self.now(self.open(folder).close())
        self.put_on_server(old)
        store = self.open(folder)
        self.assertIsInstance(store.keyring_problem, KeyringChanged)
        self.assertEqual(self.on_server(), old)


KEY = HandedInKey(bytes(32))


def _passphrase_slot(memory: int, passes: int) -> Slot:
    parameters = memory.to_bytes(4, "big") + bytes((passes, 1))
    return Slot(SlotType.PASSPHRASE, b"s" * 16, parameters, bytes(16), bytes(12), bytes(48))


class ApartTests(Case):
    """Two devices that both began offline."""

    def begin_apart(self, mine: RecoveryCode = FIRST, theirs: RecoveryCode = FIRST) -> tuple[Path, Soledad]:
        """Make a device that began offline, and one that came to the server meanwhile."""
        self.server.disconnect()
        folder = self.folder()
        store = self.open(folder, mine)
        self.doc = self.attach(store, b"data")
        self.before = held(store)
        self.now(store.close())
        self.server.heal()
        return folder, self.open(self.folder(), theirs)

    def test_merge(self) -> None:
        """The server's account keys and root win; what was sealed under the others can be read, everywhere."""
        folder, first = self.begin_apart()
        second = self.open(folder)
        self.assertIsNone(second.keyring_problem)
        merged = held(second)
        self.assertEqual(second._local.keyring.keyring.account, first._local.keyring.keyring.account)
        self.assertEqual(merged.current, held(first).current)
        self.assertEqual(set(merged.roots), {*self.before.roots, *held(first).roots})
        self.assertEqual(merged.keyring.generation, 2)
        self.assertEqual(merged.device_key, self.before.device_key)
        doc = self.now(second.get_doc(str(self.doc.doc_id)))
        assert doc is not None
        self.assertEqual(self.now(doc.read_attachment()), b"data")
        self.now(doc.upload_attachment())
        pointer = doc.attachments["default"]
        self.fails(self.reads(first, pointer), UnknownKey)
        self.now(Deferred.fromCoroutine(first._keys.settle()))
        self.assertEqual(held(first).keyring, merged.keyring)
        self.assertEqual(self.now(self.reads(first, pointer)), b"data")

    def test_offline_again(self) -> None:
        """A store that was merged opens without the server."""
        folder, _ = self.begin_apart()
        self.now(self.open(folder).close())
        self.server.disconnect()
        self.assertEqual(len(held(self.open(folder)).roots), 2)

    def test_while_it_is_open(self) -> None:
        """A store that meets the server when it is open already has no passphrase to merge with."""
        self.server.disconnect()
        store = self.open(self.folder())
        doc = self.attach(store, b"data")
        self.server.heal()
        self.open(self.folder())
        before = self.on_server()
        self.fails(doc.upload_attachment(), KeyringChanged)
        self.assertIsInstance(store.keyring_problem, KeyringChanged)
        self.assertEqual(self.on_server(), before)
        self.now(Deferred.fromCoroutine(store._keys.adopt(FIRST)))
        self.assertIsNone(store.keyring_problem)
        self.now(doc.upload_attachment())

    def test_other_passphrase(self) -> None:
        """With another passphrase a person is asked for the server's; from then on the store opens with that."""
        folder, first = self.begin_apart(SECOND, FIRST)
        before, file = self.on_server(), keyring_path(folder, USER).read_bytes()
        store = self.open(folder, SECOND)
        self.assertIsInstance(store.keyring_problem, KeyringChanged)
        self.fails(Deferred.fromCoroutine(store._keys.adopt(THIRD)), WrongPassphrase)
        self.assertIsInstance(store.keyring_problem, KeyringChanged)
        self.assertEqual((self.on_server(), keyring_path(folder, USER).read_bytes()), (before, file))
        self.now(Deferred.fromCoroutine(store._keys.adopt(FIRST)))
        self.assertEqual(held(store).keyring.account, held(first).keyring.account)
        self.now(store.close())
        self.opens(folder, FIRST)

    def test_nothing_before(self) -> None:
        """Nothing is sent before the keyring is on the server, and if it cannot be, nothing at all."""
        self.server.disconnect()
        store = self.open(self.folder())
        doc = self.attach(store, b"data")
        self.fails(doc.upload_attachment(), ConnectionFailed)
        self.server.heal()
        self.assertFalse(self.has_keyring())
        self.now(doc.upload_attachment())
        self.assertEqual(self.on_server(), held(store).shared.encode())

    def test_asked_once(self) -> None:
        """Of many that want to send something at the same time, one asks."""
        store = self.open(self.folder(), FIRST, False)
        slow = Slow()
        store._keys._remote = slow
        waiting = [Deferred.fromCoroutine(store._keys.ready()) for _ in range(3)]
        slow.answers[0].callback(held(store).shared.encode())
        for ready in waiting:
            self.now(ready)
        self.now(Deferred.fromCoroutine(store._keys.ready()))
        self.assertEqual(len(slow.answers), 1)

    def test_no_server(self) -> None:
        """Without a server there is nothing to adopt."""
        self.fails(Deferred.fromCoroutine(self.open(self.folder(), FIRST, False)._keys.adopt(FIRST)), NoServer)


@implementer(IRemoteKeys)
@define(eq=False)
class Slow:
    """A server that answers when a test says so."""

    answers: list[Deferred[bytes]] = field(factory=list, init=False)

    def get(self) -> Deferred[bytes]:
        """See `IRemoteKeys`."""
        self.answers.append(Deferred())
        return self.answers[-1]

    def put(self, data: bytes, replaced: bytes | None) -> Deferred[None]:
        """See `IRemoteKeys`."""
        raise AssertionError("nothing is to be put")


class ChangeTests(Case):
    """Changes of a keyring that several devices have."""

    def setUp(self) -> None:
        """Make two devices, the second of which is closed."""
        super().setUp()
        self.folders = self.folder(), self.folder()
        self.first = self.open(self.folders[0])
        self.now(self.open(self.folders[1]).close())

    def test_passphrase(self) -> None:
        """The new one opens this device; another device with either, until it has been in step with the server."""
        self.now(self.change(self.first, SECOND))
        self.now(self.first.close())
        self.opens(self.folders[0], SECOND)
        self.opens(self.folders[1], FIRST, SECOND)
        self.now(self.open(self.folders[1]).close())
        self.opens(self.folders[1], SECOND)
        self.open(self.folder(), SECOND)
        self.fails(self.opening(self.folder(), FIRST), WrongPassphrase)

    def test_new_passphrase_elsewhere(self) -> None:
        """The new one opens another device by way of the server, for good."""
        self.now(self.change(self.first, SECOND))
        store = self.open(self.folders[1], SECOND)
        self.assertEqual(held(store).keyring, held(self.first).keyring)
        self.now(store.close())
        self.server.disconnect()
        self.opens(self.folders[1], SECOND)

    def test_without_the_server(self) -> None:
        """Out of reach of the server, the new one is not known yet."""
        self.now(self.change(self.first, SECOND))
        self.server.disconnect()
        self.opens(self.folders[1], FIRST)

    def test_old_passphrase_is_not_brought_back(self) -> None:
        """A server that shows the old keyring again does not let the old passphrase in."""
        old = self.on_server()
        self.now(self.change(self.first, SECOND))
        self.now(self.first.close())
        self.put_on_server(old)
        self.opens(self.folders[0], SECOND)

    def test_changed_without_a_server(self) -> None:
        """A change made without the server reaches it later; the old passphrase is of no use here meanwhile."""
        self.now(self.first.close())
        store = self.open(self.folders[0], FIRST, False)
        self.now(self.change(store, SECOND))
        self.now(store.close())
        self.opens(self.folders[0], SECOND)
        self.now(self.open(self.folders[0], SECOND).close())
        self.opens(self.folders[1], FIRST, SECOND)
        self.fails(self.opening(self.folder(), FIRST), WrongPassphrase)

    def test_changed_on_both(self) -> None:
        """Changed here without the server, and elsewhere with it: both passphrases hold, and all roots stay."""
        self.now(self.change(self.first, SECOND))
        self.now(self.first.rotate_root())
        store = self.open(self.folders[1], FIRST, False)
        self.now(self.change(store, THIRD))
        self.now(store.rotate_root())
        mine = held(store)
        self.now(store.close())
        store = self.open(self.folders[1], THIRD)
        self.assertIsNone(store.keyring_problem)
        self.assertEqual(set(held(store).roots), {*mine.roots, *held(self.first).roots})
        self.assertEqual(held(store).current, held(self.first).current)
        self.now(store.close())
        self.opens(self.folders[1], SECOND, THIRD)

    def test_offline(self) -> None:
        """Without a connection nothing is changed."""
        before = held(self.first)
        self.server.disconnect()
        for change in (
            self.first.rotate_root,
            self.first.create_recovery_code,
            lambda: self.change(self.first, SECOND),
        ):
            self.fails(change(), ConnectionFailed)
        self.assertEqual(held(self.first), before)

    def test_root(self) -> None:
        """What is new is sealed under the new root, on other devices too; what is old stays readable."""
        old = self.attach(self.first, b"old")
        root = held(self.first).current
        self.now(self.first.rotate_root())
        new = self.attach(self.first, b"new")
        for doc in (old, new):
            self.now(doc.upload_attachment())
        second = self.open(self.folders[1])
        self.assertEqual(held(second).current, held(self.first).current)
        self.assertNotEqual(held(second).current, root)
        for doc, data in ((old, b"old"), (new, b"new")):
            self.assertEqual(self.now(self.reads(second, doc.attachments["default"])), data)

    def test_recovery(self) -> None:
        """A code opens a new device; nothing is made when there is nothing to recover."""
        code = self.now(self.first.create_recovery_code())
        self.assertRegex(code, r"\A([A-Z2-7]{4}-){7}[A-Z2-7]{4}\Z")
        store = self.now(self.opening(self.folder(), RecoveryCode.parse(code.lower()), recovers=True))
        self.assertEqual(held(store).keyring, held(self.first).keyring)
        self.now(store.close())
        for server, error in ((False, NoServer), (self.server.connect("nobody"), KeyringNotFound)):
            folder = self.folder()
            self.fails(self.opening(folder, FIRST, server, recovers=True), error)
            self.assertFalse(keyring_path(folder, USER).exists())
        self.server.disconnect()
        self.fails(self.opening(self.folder(), FIRST, recovers=True), ConnectionFailed)

    def test_next_code(self) -> None:
        """Another code takes the place of the first."""
        codes = [self.now(self.first.create_recovery_code()) for _ in range(2)]
        self.fails(self.opening(self.folder(), RecoveryCode.parse(codes[0]), recovers=True), WrongPassphrase)
        self.now(self.now(self.opening(self.folder(), RecoveryCode.parse(codes[1]), recovers=True)).close())

    def test_cut_anywhere(self) -> None:
        """Wherever the connection is cut, the old or the new one opens the device, and both keyrings agree then."""
        keyring_before = self.on_server()
        outcomes = set()
        for size in range(50, 5000, 199):
            folder = self.folder()
            shutil.copytree(self.folders[1], folder)
            store = self.open(folder)
            self.server.cut_after(size)
            results: list[Any] = []
            unawaited(self.change(store, SECOND).addBoth(results.append))
            self.server.flush()
            self.server.heal()
            self.now(store.close())
            (result,) = results
            if result is not None:
                result.trap(ConnectionFailed)
            changed = self.on_server() != keyring_before
            outcomes.add((result is None, changed))
            self.opens(folder, *([] if result is None else [FIRST]), *([SECOND] if changed else []))
            self.now(self.open(folder, SECOND if changed else FIRST).close())
            self.opens(folder, SECOND if changed else FIRST)
            self.put_on_server(keyring_before)
        # A lost answer is found out by asking.
        self.assertEqual(outcomes, {(False, False), (True, True)})

    def test_lost_answer(self) -> None:
        """When just the answer is lost, the server is asked, and the change has succeeded."""
        server = self.server.connect(USER)
        server.keys = Lost(server.keys, lambda: None)
        store = self.open(self.folders[1], FIRST, server)
        self.now(self.change(store, SECOND))
        self.assertEqual(held(store).shared.encode(), self.on_server())
        self.assertTrue(held(store).is_backed_up)

    def test_lost_for_good(self) -> None:
        """The server was told, and cannot be reached since: the old one opens the device here, the new one there."""
        server = self.server.connect(USER)
        server.keys = Lost(server.keys, self.server.disconnect)
        store = self.open(self.folders[1], FIRST, server)
        self.fails(self.change(store, SECOND), ConnectionFailed)
        self.now(store.close())
        self.opens(self.folders[1], FIRST)
        self.server.heal()
        self.opens(self.folders[1], FIRST, SECOND)
        self.now(self.open(self.folders[1], FIRST).close())
        self.opens(self.folders[1], SECOND)


@implementer(IRemoteKeys)
@define(eq=False)
class Raced:
    """A server's keyring that somebody else changes just before it is swapped."""

    _keys: IRemoteKeys
    _before: Callable[[], object]
    puts: int = field(default=0, init=False)

    def get(self) -> Deferred[bytes]:
        """See `IRemoteKeys`."""
        return self._keys.get()

    def put(self, data: bytes, replaced: bytes | None) -> Deferred[None]:
        """See `IRemoteKeys`."""
        self.puts += 1
        self._before()
        return self._keys.put(data, replaced)


@implementer(IRemoteKeys)
@define(eq=False)
class Lost:
    """A server that cannot be reached any more once it was told."""

    _keys: IRemoteKeys
    _after: Callable[[], object]

    def get(self) -> Deferred[bytes]:
        """See `IRemoteKeys`."""
        return self._keys.get()

    @deferred
    async def put(self, data: bytes, replaced: bytes | None) -> None:
        """See `IRemoteKeys`."""
        await self._keys.put(data, replaced)
        self._after()
        raise ConnectionFailed()


@define(eq=False)
class SmallMachine:
    """Stands for `Argon2id`: quick, and with only so much memory (bytes)."""

    memory: int

    def __call__(self, *, salt: bytes, length: int, iterations: int, lanes: int, memory_cost: int) -> SmallMachine:
        """Begin to derive a key."""
        self._asked, self._salt = memory_cost * 1024, salt
        return self

    _asked: int = 0
    _salt: bytes = b""

    def derive(self, passphrase: bytes) -> bytes:
        """Derive it."""
        if self._asked > self.memory:
            raise MemoryError
        return sha256(self._salt + passphrase).digest()


class MemoryTests(Case):
    """Passphrases that take more memory than there is: it is told how much they take, and nothing is lost."""

    def setUp(self) -> None:
        """Have a store whose passphrase takes all that is allowed, on a machine that has it."""
        super().setUp()
        self.machine = SmallMachine(1 << 30)
        self.patch(kdf, "Argon2id", self.machine)
        self.dear, self.cheap = (Passphrase("secret", Argon2Parameters(1 << log)) for log in (20, 16))
        self.home = self.folder()
        store = self.open(self.home, self.dear)
        self.now(store.create_doc({}, "doc"))
        self.now(store.close())
        self.before = keyring_path(self.home, USER).read_bytes()

    def refused(self, work: Deferred[Any], needed: int = 1 << 30) -> None:
        """See that there was not enough."""
        self.assertEqual(self.fails(work, NotEnoughMemory).needed, needed)

    def test_open(self) -> None:
        """A store does not open, with a server or without, and opens where there is more memory."""
        self.machine.memory -= 1
        for server in (False, None):
            self.refused(self.opening(self.home, self.dear, server))
            self.assertEqual(keyring_path(self.home, USER).read_bytes(), self.before)
        self.machine.memory += 1
        self.assertIsNotNone(self.now(self.open(self.home, self.dear).get_doc("doc")))

    def test_new_device(self) -> None:
        """A new device does not open, and makes no keys of its own."""
        self.machine.memory -= 1
        folder = self.folder()
        self.refused(self.opening(folder, self.dear))
        self.assertFalse(keyring_path(folder, USER).exists())
        self.machine.memory += 1
        self.open(folder, self.dear)

    def test_changed_elsewhere(self) -> None:
        """A passphrase that was made cheaper on another device opens this one; a wrong one cannot be told from it."""
        other = self.open(self.folder(), self.dear)
        self.now(other._change_keyring(lambda: lambda keyring: keyring.with_passphrase(self.cheap, Counter("cheap"))))
        self.machine.memory -= 1
        self.refused(self.opening(self.home, Passphrase("wrong")))
        self.open(self.home, self.cheap)

    def test_made_dearer_elsewhere(self) -> None:
        """That the new passphrase takes too much is not taken for a wrong one."""
        other = self.open(self.folder(), self.dear)
        code = RecoveryCode(bytes(16))
        self.now(other._change_keyring(lambda: lambda keyring: keyring.with_passphrase(self.cheap, Counter("cheap"))))
        self.now(self.open(self.home, self.cheap).close())
        self.now(other._change_keyring(lambda: lambda keyring: keyring.with_passphrase(self.dear, Counter("dear"))))
        self.now(other._change_keyring(lambda: lambda keyring: keyring.with_recovery_code(code, Counter("code"))))
        self.machine.memory -= 1
        self.refused(self.opening(self.home, Passphrase("changed")))
        # A code takes none.
        self.assertIsNotNone(self.now(self.open(self.home, code).get_doc("doc")))

    def test_change(self) -> None:
        """A passphrase that cannot be made is not made: the old one opens, here and on new devices."""
        store = self.open(self.home, self.dear)
        before = self.on_server()
        self.machine.memory = 1 << 26
        self.refused(store.change_passphrase("another"), 1 << 27)
        self.assertEqual((self.on_server(), store.keyring_problem), (before, None))
        self.now(store.close())
        self.machine.memory = 1 << 30
        for folder in (self.home, self.folder()):
            self.now(self.open(folder, self.dear).close())

    def test_adopt(self) -> None:
        """A store that began apart stays what it is, until there is the memory for the others' passphrase."""
        folder = self.folder()
        apart = self.open(folder, self.cheap, False)
        self.now(apart.close())
        self.machine.memory -= 1
        apart = self.open(folder, self.cheap)
        self.assertIsInstance(apart.keyring_problem, NotEnoughMemory)
        self.refused(apart.adopt_keyring("secret"))
        self.machine.memory += 1
        self.now(apart.adopt_keyring("secret"))
        self.assertIsNone(apart.keyring_problem)


class RaceTests(Case):
    """Two devices that change the keyring at the same time."""

    def raced(self, times: int) -> tuple[Soledad, Soledad, Raced]:
        """Return two devices; the second changes something before each of so many swaps of the first."""
        other = self.open(self.folder())

        def change() -> None:
            if raced.puts <= times:
                self.now(other.rotate_root())

        server = self.server.connect(USER)
        raced = Raced(server.keys, change)
        server.keys = raced
        return self.open(self.folder(), FIRST, server), other, raced

    def test_one_is_second(self) -> None:
        """Who comes second takes what the first has changed, and changes that."""
        store, other, raced = self.raced(2)
        self.now(self.change(store, SECOND))
        self.assertEqual(raced.puts, 3)
        self.assertLessEqual(set(held(other).roots), set(held(store).roots))
        self.assertEqual(SharedPart.parse(self.on_server()), held(store).shared)
        self.now(Deferred.fromCoroutine(other._keys.settle()))
        self.assertEqual(held(other).keyring, held(store).keyring)

    def test_always_second(self) -> None:
        """Who is second all the time gives up, and has changed nothing."""
        store, _, raced = self.raced(1000)
        self.fails(self.change(store, SECOND), ServerFailed)
        self.assertEqual(raced.puts, ATTEMPTS)
        self.assertEqual(held(store).slots, SharedPart.parse(self.on_server()).slots)

    def test_two_first_devices(self) -> None:
        """Of two that both put the first keyring there, the second merges."""
        server = self.server.connect(USER)
        made: list[Soledad] = []

        def first() -> None:
            if not made:
                made.append(self.open(self.folder()))

        server.keys = Raced(server.keys, first)
        store = self.open(self.folder(), FIRST, server)
        self.assertEqual(held(store).keyring.account, held(made[0]).keyring.account)
        self.assertEqual(len(held(store).roots), 2)

    def test_cancelled(self) -> None:
        """A change that is cancelled while the passphrase takes its time changes nothing, here or there."""
        for server in (None, False):
            store = self.open(self.folder(), FIRST, server)
            before = held(store)
            worker = HeldWorker()
            store._keys._worker = worker
            changing = self.change(store, SECOND)
            worker.step(changing.cancel)
            self.fails(changing, CancelledError)
            self.assertEqual((worker.waiting, held(store)), (0, before))
        self.now(self.now(self.opening(self.folder(), FIRST)).close())

    def test_at_once_on_one_device(self) -> None:
        """Changes on one device are made one after the other."""
        store = self.open(self.folder())
        for change in [store.rotate_root() for _ in range(3)]:
            self.now(change)
        self.assertEqual((len(held(store).roots), held(store).keyring.generation), (4, 4))


class TokenTests(Case):
    """A keyring is one user's."""

    def test_other_users(self) -> None:
        """Another user's keyring is another; nobody sees it."""
        self.open(self.folder())
        self.now(self.now(self.opening(self.folder(), FIRST, user="other")).close())
        self.assertNotEqual(self.now(self.keyrings.read_keyring(UserId("other")))[0], self.on_server())

"""What a hostile server, a broken clock or a bad disk could try beyond what test_hostile.py has, and what heals it."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from zope.interface import provider

from soledad import IncidentKind, Reason, Soledad, TamperPolicy, testing
from soledad.client.api import open_store
from soledad.client.local.store import Workers
from soledad.client.sync import documents as exchange
from soledad.crypto.record import record_name
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import InPlace, unawaited
from soledad.errors import (
    ConnectionFailed,
    KeyringError,
    SoledadError,
    StaleToken,
    TamperingDetected,
    UnexpectedAnswer,
    UnknownKey,
)
from soledad.model.ids import DocId, RecordName, UserId
from soledad.server.keyrings import Keyrings
from soledad.testing import TEST_KEY, make_store
from soledad.wire.changes import NamedHash, NamesPage, SealedRecord, SyncPage
from tests.client.sync.devices import put_between
from tests.client.sync.evil import Snapshot
from tests.client.sync.test_hostile import HostileTestCase
from tests.client.sync.test_interrupted import losing
from tests.limits import examples


class ClockTests(HostileTestCase):
    """Clocks that are wrong."""

    def test_any_time(self) -> None:
        """A device whose clock stands before 1970, or centuries ahead, syncs, and reports what it finds."""
        for number, time in enumerate((-3600.0, 0.0, 1e10, 1e30)):
            self.set_time(self.two, time)
            self.put(self.two, "b", {"n": number})
            self.sync(self.two, self.one)
            self.assertEqual(self.content(self.one, "b"), {"n": number})
        self.set_time(self.two, -3600.0)
        self.evil.put_back(self.old)
        self.sync(self.two)
        self.assertIn(IncidentKind.STATE_BACK, self.kinds(self.two))

    def set_time(self, store: Soledad, time: float) -> None:
        """Let a device's clock tell a time."""
        assert store._syncing is not None
        store._syncing.parts = evolve(store._syncing.parts, time=lambda: time)


class RefusingTests(HostileTestCase):
    """A device that takes nothing of a server that cheats."""

    def setUp(self) -> None:
        """Let one be so, and have something new for it."""
        super().setUp()
        self.now(self.two.set_tamper_policy(TamperPolicy.REFUSE))
        for doc_id in "def":
            self.put(self.one, doc_id, {"n": 1})
        self.sync(self.one)

    def refused(self) -> None:
        """See that nothing was taken, and nothing sent, and that the store works."""
        self.put(self.two, "mine", {"n": 1})
        before = self.evil.snapshot()
        for _ in range(2):
            self.fails(self.two.sync(), TamperingDetected)
        self.assertEqual([self.content(self.two, doc_id) for doc_id in "def"], [None] * 3)
        self.assertEqual(self.evil.snapshot(), before)
        self.assertEqual(self.content(self.two, "mine"), {"n": 1})

    def test_withheld(self) -> None:
        """If one is withheld, the others are not taken."""
        self.evil.drop(self.evil.names()[-2])
        self.refused()

    def test_forged(self) -> None:
        """If one is forged, the others are not taken."""
        name = self.evil.names()[-2]
        self.evil.replace(name, bytes(len(self.evil.record(name))))
        self.refused()

    def test_older(self) -> None:
        """If one is older than it was, the others are not taken."""
        self.evil.replace(self.names["a"], self.old_record("a"))
        self.refused()

    def test_checkpoint(self) -> None:
        """If the checkpoint does not open, nothing is taken."""
        data = bytearray(self.evil.checkpoint())
        data[-1] ^= 1
        self.evil.checkpoint(bytes(data))
        self.refused()

    def test_nothing_yet(self) -> None:
        """Where there is nothing yet, a sync is one request, and the first push another one."""
        self.server = self.make_server()
        three = self.another()
        self.now(three.set_tamper_policy(TamperPolicy.REFUSE))
        between = put_between(three)
        self.sync(three)
        self.assertEqual(between.calls, ["pull"])
        self.put(three, "a", {})
        self.sync(three)
        self.assertEqual(between.calls, ["pull", "pull", "push"])

    def test_cancelled(self) -> None:
        """Cancelled at any request, it makes no other."""
        for at in range(4):

            def cancel(name: str, number: int, answer: Any, at: int = at) -> Any:
                if number == at:
                    self.two._syncing._stop()  # type: ignore[union-attr]
                return answer

            between = put_between(self.two, after=cancel)
            self.fails(self.two.sync(), CancelledError)
            self.assertEqual(len(between.calls), at + 1)
        self.sync(self.two)

    def test_restored(self) -> None:
        """What else is amiss with a server that was restored, so said, is told, and hinders nothing."""
        for at in range(2):
            self.put(self.one, "d", {"n": 2 + at})
            self.sync(self.one)
            self.evil.drop(self.names["bc"[at]])
            self.fails(self.two.sync(), TamperingDetected)
            self.now(self.two.accept_server_restore())
            self.assertIn(IncidentKind.STATE_DIFFERS, self.kinds(self.two))
            self.sync(self.one, self.two)
            for store in (self.one, self.two):
                self.assertEqual(
                    [self.content(store, doc_id) for doc_id in "abcd"], [{"n": n} for n in (1, 0, 0, 2 + at)]
                )

    def test_restored_and_lying(self) -> None:
        """Even then nothing is taken that is not of the list of what there is."""
        old = SealedRecord(self.names["a"], self.old_record("a"))

        def slip(name: str, number: int, answer: Any) -> Any:
            return evolve(answer, records=(*answer.records, old)) if name in ("pull", "fetch") else answer

        put_between(self.two, after=slip)
        self.fails(self.two.accept_server_restore(), TamperingDetected)
        self.assertIsNone(self.content(self.two, "d"))
        put_between(self.two)
        self.sync(self.two)
        self.assertEqual([self.content(self.two, doc_id) for doc_id in "ad"], [{"n": 1}] * 2)

    def test_true(self) -> None:
        """What is true is taken, and the next sync is one request."""
        self.put(self.two, "mine", {"n": 1})
        self.sync(self.two, self.one)
        self.assertEqual([self.content(self.two, doc_id) for doc_id in "def"], [{"n": 1}] * 3)
        self.assertEqual(self.content(self.one, "mine"), {"n": 1})
        self.sync(self.two)
        between = put_between(self.two)
        self.sync(self.two)
        self.assertEqual(between.calls, ["pull"])


class UserTests(HostileTestCase):
    """What belongs to another user of the same server."""

    def setUp(self) -> None:
        """Have one, with a document of the same id, and with the same passphrase."""
        super().setUp()
        stranger = make_store(self, self.server, uuid="stranger")
        self.now(stranger.create_doc({"n": "theirs"}, "a"))
        mine = self.evil.names()
        self.now(stranger.sync())
        (name,) = set(self.evil.names()) - set(mine)
        self.theirs = self.evil.record(name)
        assert stranger._server is not None
        self.their_head = self.now(stranger._server.documents.head()).checkpoint
        self.keyring = self.now(stranger._server.keys.get())

    def test_record(self) -> None:
        """A record of theirs under our name is not taken, and found."""
        self.put(self.one, "d", {})
        self.sync(self.one)

        def replace(name: str, number: int, answer: Any) -> Any:
            if not isinstance(answer, SyncPage):
                return answer
            moved = SealedRecord(self.names["a"], self.theirs)
            return evolve(answer, records=(*(one for one in answer.records if one.name != moved.name), moved))

        put_between(self.two, after=replace)
        self.sync(self.two)
        self.assertEqual(self.content(self.two, "a"), {"n": 1})
        self.assertIn(IncidentKind.STATE_DIFFERS, self.kinds(self.two))
        self.assertEqual([one.doc_id for one in self.now(self.two.sync_problems())], ["a"])

    def test_checkpoint(self) -> None:
        """Their checkpoint is none of ours."""
        self.put(self.one, "d", {})
        self.sync(self.one)

        def replace(name: str, number: int, answer: Any) -> Any:
            if isinstance(answer, SyncPage | NamesPage):
                return evolve(answer, head=evolve(answer.head, checkpoint=self.their_head))
            return answer

        put_between(self.two, after=replace)
        self.fails(self.two.sync(), UnknownKey)
        self.assertIsNone(self.content(self.two, "d"))
        put_between(self.two)
        self.sync(self.two)
        self.assertEqual(self.content(self.two, "d"), {})

    def test_keyring(self) -> None:
        """Their keyring in the place of ours is taken by no device, an open one or a new one."""
        roots = self.one._local.keyring.roots
        keyrings = Keyrings(self.server._accounts.database)
        _, etag = self.now(keyrings.read_keyring(UserId("user")))
        self.now(keyrings.write_keyring(UserId("user"), self.keyring, etag))
        one = self.reopen(self.one)
        self.assertIsNotNone(one.keyring_problem)
        self.assertEqual(one._local.keyring.roots, roots)
        self.assertEqual(self.content(one, "a"), {"n": 1})
        self.put(one, "a", {"n": 5})
        self.fails(Deferred.fromCoroutine(self.opening()), KeyringError)

    async def opening(self) -> Soledad:
        """Open a new device."""
        workers = Workers.start(lambda threads, name: InPlace())
        server = self.server.connect("user")
        return await open_store(Clock(), workers, UserId("user"), HandedInKey(TEST_KEY), Path(self.mktemp()), server)


class HealingTests(HostileTestCase):
    """What is amiss on a server for good, until a person says that it was restored."""

    def test_forged(self) -> None:
        """A record that went bad is replaced by what a device has of the document."""
        for at in range(2):
            self.put(self.two, "d", {"n": at})
            self.sync(self.two)
            self.evil.replace(self.names["a"], bytes(len(self.evil.record(self.names["a"]))))
            self.sync(self.one)
            self.assertNotEqual(self.now(self.one.sync_problems()), [])
            self.put(self.one, "a", {"n": 7 + at})
            self.now(self.one.accept_server_restore())
            three = self.another()
            self.sync(self.two, three, self.one)
            for store in (self.one, self.two, three):
                self.assertEqual(self.content(store, "a"), {"n": 7 + at})
                self.assertEqual(self.now(store.sync_problems()), [])
                between = put_between(store)
                self.sync(store)
                self.assertEqual(between.calls, ["pull"])

    def test_forged_elsewhere(self) -> None:
        """Who says that the server was restored need not have the document whose record went bad."""
        self.put(self.two, "d", {"n": 1})
        self.sync(self.two)
        (name,) = set(self.evil.names()) - set(self.names.values())
        self.evil.replace(name, bytes(300))
        self.sync(self.one)
        self.assertEqual(len(self.now(self.one.sync_problems())), 1)
        self.now(self.one.accept_server_restore())
        self.sync(self.two, self.one)
        for store in (self.one, self.two):
            self.assertEqual(self.content(store, "d"), {"n": 1})
            self.assertEqual(self.now(store.sync_problems()), [])

    def test_key_lost(self) -> None:
        """A checkpoint and a record under a key that nobody has any more are replaced."""
        data = bytearray(self.evil.checkpoint())
        data[8] ^= 1
        self.evil.checkpoint(bytes(data))
        record = bytearray(self.evil.record(self.names["a"]))
        record[8] ^= 1
        self.evil.replace(self.names["a"], bytes(record))
        for store in (self.one, self.two):
            self.fails(store.sync(), UnknownKey)
        self.now(self.one.accept_server_restore())
        three = self.another()
        self.sync(self.two, three, self.one)
        for store in (self.one, self.two, three):
            self.assertEqual(self.content(store, "a"), {"n": 1})
            self.assertEqual(self.now(store.sync_problems()), [])

    def test_new_history(self) -> None:
        """A new device has begun anew on a server that was emptied: afterwards all have what any had."""
        self.put(self.two, "b", {"n": 2})
        self.sync(self.two)
        self.evil.put_back(Snapshot(((), (), ())))
        three = self.another()
        self.put(three, "d", {"n": 3})
        self.put(three, "b", {"n": 3})
        self.sync(three)
        self.now(self.one.accept_server_restore())
        stores = [self.one, self.two, three]
        self.sync(*stores, *stores)
        for store in stores:
            self.assertEqual([self.content(store, doc_id) for doc_id in "ad"], [{"n": 1}, {"n": 3}])
            versions = [doc.content for doc in self.now(store.get_doc_conflicts("b"))]
            self.assertEqual(sorted(versions, key=str), [{"n": 2}, {"n": 3}])
            self.assertEqual(self.now(store.sync_problems()), [])
            between = put_between(store)
            self.sync(store)
            self.assertEqual(between.calls, ["pull"])

    def test_split(self) -> None:
        """Devices that were shown different histories have all of both in the end."""
        fork = self.evil.snapshot()
        self.put(self.one, "a", {"n": "one"})
        self.put(self.one, "b", {"n": "one"})
        self.sync(self.one)
        shown = self.evil.snapshot()
        self.evil.put_back(fork)
        self.put(self.two, "a", {"n": "two"})
        self.put(self.two, "c", {"n": "two"})
        self.sync(self.two)
        self.evil.put_back(shown)
        self.sync(self.two, self.one)
        self.assertNotEqual(self.kinds(self.two), set())
        self.now(self.two.accept_server_restore())
        self.sync(self.one, self.two, self.one)
        for store in (self.one, self.two):
            self.assertEqual([self.content(store, doc_id) for doc_id in "bc"], [{"n": "one"}, {"n": "two"}])
            self.assertEqual(len(self.now(store.get_doc_conflicts("a"))), 2)
            self.assertEqual(self.now(store.sync_problems()), [])

    def test_answer_lost(self) -> None:
        """That the answer to the push was lost which told of it is no harm."""
        self.evil.put_back(self.old)
        put_between(self.one, after=losing("push"))
        self.fails(self.one.accept_server_restore(), ConnectionFailed)
        self.one = self.reopen(self.one)
        self.sync(self.one, self.two, self.one)
        self.assertEqual([self.kinds(self.one), self.kinds(self.two)], [set(), {IncidentKind.RESTARTED}])
        self.assertEqual(self.content(self.two, "a"), {"n": 1})

    def test_any_policy(self) -> None:
        """It is over for devices with every policy, and for one that was not there."""
        stores = [self.one, self.two, self.another()]
        self.sync(*stores)
        for store, policy in zip(stores, TamperPolicy, strict=True):
            self.now(store.set_tamper_policy(policy))
        self.evil.put_back(self.old)
        self.sync(stores[0])
        for store in stores[1:]:
            self.fails(store.sync(), TamperingDetected)
        self.now(stores[2].accept_server_restore())
        self.sync(*stores, *stores)
        for store in stores:
            self.assertEqual(self.content(store, "a"), {"n": 1})
            self.assertEqual(self.now(store.sync_problems()), [])
            between = put_between(store)
            self.sync(store)
            self.assertEqual(between.calls, ["pull"])


class InventedTests(HostileTestCase):
    """A record that nobody's device made, of a document that there never was: nothing can take its place."""

    def setUp(self) -> None:
        """Have one, and a device with each policy."""
        super().setUp()
        self.stores = [self.one, self.two, self.another()]
        self.sync(*self.stores)
        for store, policy in zip(self.stores, TamperPolicy, strict=True):
            self.now(store.set_tamper_policy(policy))
        self.invented = RecordName("5" * 64)
        self.evil.invent(self.invented, self.forged())

    def forged(self) -> bytes:
        """Return a record which nobody sealed, under a key that there is."""
        data = bytearray(self.evil.record(self.names["a"]))
        data[-1] ^= 1
        return bytes(data)

    def ask_all(self) -> None:
        """Let each device with a strict policy ask for everything: it finds the record, and stops."""
        self.put(self.one, "d", {"n": 1})
        self.sync(self.one)
        for store in self.stores[1:]:
            self.fails(store.sync(), TamperingDetected)

    def all_is_well(self, *more: Soledad) -> None:
        """See that all devices send and take, find nothing new, still report the record, and are idle in the end."""
        stores = [*self.stores, *more]
        found = [self.now(store.incidents()) for store in stores]
        for number, store in enumerate(stores):
            self.put(store, f"from {number}".replace(" ", "-"), {"n": number})
        self.sync(*stores, *stores)
        for store in stores:
            contents = [self.content(store, f"from-{number}") for number in range(len(stores))]
            self.assertEqual(contents, [{"n": number} for number in range(len(stores))])
            (problem,) = self.now(store.sync_problems())
            self.assertEqual((problem.name, problem.reason, problem.doc_id), (self.invented, Reason.FORGED, None))
            between = put_between(store)
            self.sync(store)
            self.assertEqual(between.calls, ["pull"])
        self.assertEqual([self.now(store.incidents()) for store in stores], found)

    def test_accepted(self) -> None:
        """Said by any device that the server was restored, all go on, with every policy."""
        for at in range(3):
            self.ask_all()
            self.now(self.stores[at].accept_server_restore())
            self.sync(*self.stores, *self.stores)
            self.all_is_well()
            self.evil.invent(self.invented, self.forged() + bytes(at + 1))

    def test_own_document(self) -> None:
        """If it is under the name of a document that a device has, and never sent, it is replaced by that."""
        for number, store in enumerate(self.stores):
            self.put(store, f"mine-{number}", {"n": number})
            keyring = store._local.keyring.keyring
            self.evil.invent(record_name(keyring.names_key, DocId(f"mine-{number}")), self.forged())
            for _ in range(2):
                unawaited(store.sync().addErrback(lambda failure: failure.trap(TamperingDetected)))
            self.now(store.accept_server_restore())
        self.sync(*self.stores, *self.stores)
        for store in self.stores:
            self.assertEqual([self.content(store, f"mine-{at}") for at in range(3)], [{"n": at} for at in range(3)])
        self.all_is_well()

    def test_own_document_later(self) -> None:
        """A device that comes later, with a document of that name, need not say anything for that to go out."""
        (late, *_) = strangers = [self.another(), self.another()]
        self.invented = record_name(late._local.keyring.keyring.names_key, DocId("settings"))
        self.evil.invent(self.invented, self.forged())
        self.now(self.stores[2].accept_server_restore())
        self.put(late, "settings", {"n": 1})
        self.sync(late, *self.stores, *strangers)
        for store in (*self.stores, *strangers):
            self.assertEqual(self.content(store, "settings"), {"n": 1})
            self.assertNotIn(self.invented, [one.name for one in self.now(store.sync_problems())])

    def test_stated_by_another(self) -> None:
        """What a device went on with, which was shown a bad checkpoint as well, is no excuse for who knows better."""
        self.put(self.one, "b", {"n": 2})
        self.sync(self.one)
        self.evil.replace(self.names["b"], self.forged())
        self.evil.checkpoint(bytes(300))
        self.sync(self.one)
        for store in self.stores[1:]:
            self.fails(store.sync(), TamperingDetected)
            self.assertIn("b", [one.doc_id for one in self.now(store.sync_problems())])
        self.now(self.stores[2].accept_server_restore())
        self.sync(*self.stores, *self.stores)
        self.assertEqual([self.content(store, "b") for store in self.stores], [{"n": 2}] * 3)
        self.all_is_well()

    def test_told(self) -> None:
        """That there is such a record is told, by who said that the server was restored, to all others."""
        self.ask_all()
        self.now(self.stores[2].accept_server_restore())
        self.sync(*self.stores)
        for store in self.stores:
            self.assertIn(IncidentKind.RECORD_FORGED, self.kinds(store))

    def test_new_device(self) -> None:
        """A device that comes later has nothing to refuse."""
        self.ask_all()
        self.now(self.stores[1].accept_server_restore())
        self.sync(*self.stores)
        for policy in TamperPolicy:
            late = self.another()
            self.now(late.set_tamper_policy(policy))
            self.sync(late)
            own = late._local.documents.replica
            self.assertEqual([one for one in self.now(late.incidents()) if one.device == own], [])
            self.assertEqual(self.content(late, "a"), {"n": 1})


class EndlessTests(HostileTestCase):
    """Answers without end."""

    def test_names(self) -> None:
        """A list of names that does not end is not kept for ever."""
        self.patch(exchange, "LISTED_LIMIT", 50)
        listed: list[NamedHash] = []

        def more(name: str, number: int, answer: Any) -> Any:
            if name != "names":
                raise StaleToken()
            names = tuple(NamedHash(RecordName(f"{number:062x}{at:02x}"), bytes(32)) for at in range(10))
            listed.extend(names)
            return NamesPage(names, answer.head, True)

        put_between(self.two, after=more)
        self.fails(self.two.sync(), UnexpectedAnswer)
        self.assertEqual(len(listed), 60)

    def test_pages(self) -> None:
        """Pages that bring the same again and again end."""
        self.patch(exchange, "MANY", 10)
        self.put(self.one, "d", {})
        self.sync(self.one)
        page: Any = None

        def again(name: str, number: int, answer: Any) -> Any:
            nonlocal page
            page = page or answer
            self.assertLess(number, 50)
            return evolve(page, more=True, head=evolve(page.head, cursor=answer.head.cursor))

        put_between(self.two, after=again)
        self.fails(self.two.sync(), UnexpectedAnswer)
        put_between(self.two)
        self.sync(self.two)
        self.assertEqual((self.content(self.two, "d"), self.kinds(self.two)), ({}, set()))

    def test_bad_records(self) -> None:
        """Of records that nobody made only so many are set aside, and what is here stays."""
        self.patch(exchange, "ASIDE_LIMIT", 20)

        def more(name: str, number: int, answer: Any) -> Any:
            bad = tuple(SealedRecord(RecordName(f"{number:062x}{at:02x}"), bytes(300)) for at in range(10))
            return SyncPage(bad, answer.head, True)

        self.put(self.one, "d", {})
        self.sync(self.one)
        put_between(self.two, after=more)
        self.fails(self.two.sync(), UnexpectedAnswer)
        self.assertEqual(len(self.now(self.two.sync_problems())), 20)
        put_between(self.two)
        self.sync(self.two)
        self.assertEqual(self.now(self.two.sync_problems()), [])
        database = self.two._local.documents.database
        count = database.read_now(lambda cursor: cursor.execute("SELECT count(*) FROM sync_record").fetchone()[0])
        self.assertEqual(count, 4)
        self.assertEqual(self.content(self.two, "a"), {"n": 1})

    def test_incidents(self) -> None:
        """However many records are invented: of documents that are here it is told, of the rest not without bound."""
        self.put(self.one, "d", {})
        self.sync(self.one)
        invented = [RecordName(f"{number:064x}") for number in range(100)]
        self.evil.replace(self.names["a"], bytes(300))

        def more(name: str, number: int, answer: Any) -> Any:
            if name == "pull":
                return evolve(answer, records=(*answer.records, *(SealedRecord(one, bytes(300)) for one in invented)))
            return answer

        put_between(self.two, after=more)
        self.sync(self.two)
        incidents = self.now(self.two.incidents())
        self.assertEqual(len(self.now(self.two.sync_problems())), 101)
        self.assertIn("a", [one.doc_id for one in incidents])
        self.assertLess(len(incidents), 70)

    def test_success_claimed(self) -> None:
        """A server that says it stored a push, and did not, is found out by the next sync."""
        before = self.evil.snapshot()
        self.put(self.one, "a", {"n": 2})

        def undo(name: str, number: int, answer: Any) -> Any:
            self.evil.put_back(before)
            return answer

        put_between(self.one, after=undo)
        self.sync(self.one)
        self.sync(self.one)
        self.assertIn(IncidentKind.COMMITS_MISSING, self.kinds(self.one))
        self.assertEqual(self.content(self.one, "a"), {"n": 2})


class ByteTests(HostileTestCase):
    """A server, or a network, that alters bytes of anything that is sent, in either direction."""

    def setUp(self) -> None:
        """Have a device that is behind, with something of its own."""
        super().setUp()
        self.put(self.two, "mine", {"n": 1})
        for doc_id in "cd":
            self.put(self.one, doc_id, {"n": 2})
        self.now(self.one.rotate_root())
        self.put(self.one, "b", None)
        self.sync(self.one)
        self.behind = self.folders[self.two]
        self.now(self.two.close())
        self.chance = Random(0)
        self.rate = 0.0
        write = testing._End.write

        def altering(end: Any, data: bytes) -> None:
            if self.chance.random() < self.rate:
                data = self.altered(data)
            write(end, data)

        self.patch(testing._End, "write", altering)

    def altered(self, data: bytes) -> bytes:
        """Return bytes of which one is another, or some are missing, or come twice."""
        start = self.chance.randrange(len(data) + 1)
        stop = min(len(data), start + self.chance.choice((1, 1, 8, 300)))
        other = self.chance.choice((self.chance.randbytes(stop - start), b"", data[start:stop] * 2))
        return data[:start] + other + data[stop:]

    @settings(max_examples=examples(40))
    @given(st.integers(0, 2**32))
    def test_any_byte(self, seed: int) -> None:
        """Whatever comes: right data, or an error of ours; afterwards all is well."""
        truth: dict[str, Any] = {"a": {"n": 1}, "b": None, "c": {"n": 2}, "d": {"n": 2}, "mine": {"n": 1}}
        store = self.open(self.copy_of(self.behind))
        self.chance.seed(seed)
        before = {doc_id: self.content(store, doc_id) for doc_id in truth}
        self.rate = self.chance.choice((0.05, 0.3))
        for _ in range(2):
            self.attempt(store)
            for doc_id, content in truth.items():
                self.assertIn(self.content(store, doc_id), (before[doc_id], content))
        self.rate = 0.0
        # Connections that are of no use any more end with this one.
        self.attempt(store)
        self.sync(store, self.one, store)
        if self.now(store.incidents()):
            self.now(store.accept_server_restore())
            self.sync(self.one, store)
        for device in (store, self.one):
            self.assertEqual({doc_id: self.content(device, doc_id) for doc_id in truth}, truth)
        self.assertEqual(self.now(store.sync_problems()), [])
        self.now(store.close())

    def copy_of(self, folder: Path) -> Path:
        """Copy a folder."""
        target = Path(self.mktemp())
        shutil.copytree(folder, target)
        return target

    def attempt(self, store: Soledad) -> None:
        """Sync, which succeeds, or fails with an error of ours, soon."""
        outcome: list[Any] = []
        unawaited(store.sync().addBoth(outcome.append))
        for _ in range(100):
            if outcome:
                break
            store._reactor.advance(10)
            self.server.clock.advance(10)
            self.server.flush()
        self.assertTrue(outcome)
        if not isinstance(outcome[0], int):
            outcome[0].trap(SoledadError)


class SecretTests(HostileTestCase):
    """What is told of all that."""

    def test_nothing_secret(self) -> None:
        """No log, error, or text of a value has a key, or anything of what is in documents."""
        told: list[str] = []

        @provider(ILogObserver)
        def observe(event: Any) -> None:
            told.append(
                formatEvent(event) + repr({name: value for name, value in event.items() if name != "log_logger"})
            )

        observer: Any = observe
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        canary = "no one should see this"
        self.put(self.one, "d", {"text": canary})
        self.sync(self.one)
        for cheat in (self.evil.put_back, lambda old: self.evil.checkpoint(bytes(100))):
            for policy in TamperPolicy:
                self.now(self.two.set_tamper_policy(policy))
                cheat(self.old)
                outcome: list[Any] = []
                unawaited(self.two.sync().addBoth(outcome.append))
                told.append(str(outcome) + repr(outcome[0]))
                if not isinstance(outcome[0], int):
                    told.append(outcome[0].getTraceback(detail="verbose"))
        for store in (self.one, self.two):
            told += [repr(self.now(store.incidents())), repr(self.now(store.sync_problems())), repr(store)]
            told += [repr(self.now(store._journal.look())), repr(self.now(store.devices()))]
            assert store._syncing is not None
            told += [repr(store._syncing.parts), repr(store._local.keyring)]
        text = "\n".join(told)
        keyring = self.one._local.keyring
        keys = [keyring.device_key, keyring.key.secret, keyring.current.secret, keyring.keyring.names_key]
        secrets = [canary, *(key.hex() for key in keys), *(repr(key)[2:-1] for key in keys)]
        self.assertIn("STATE_BACK", text)
        for secret in secrets:
            self.assertNotIn(secret, text)

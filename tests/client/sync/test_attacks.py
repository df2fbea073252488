"""What a hostile server, a broken clock or a bad disk could try beyond what test_hostile.py has, and what heals it."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from soledad import IncidentKind, Soledad, TamperPolicy
from soledad.client.sync import documents as exchange
from soledad.errors import StaleToken, TamperingDetected, UnexpectedAnswer, UnknownKey
from soledad.model.ids import RecordName
from soledad.wire.changes import NamedHash, NamesPage, SealedRecord, SyncPage
from tests.client.sync.devices import put_between
from tests.client.sync.test_hostile import HostileTestCase


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
        self.assertEqual(self.content(self.two, "a"), {"n": 1})

    def test_success_claimed(self) -> None:
        """A server that says it stored a push, and did not, is found out by the next sync."""
        before = self.evil.snapshot()
        self.put(self.one, "a", {"n": 2})
        put_between(self.one, after=lambda name, number, answer: (self.evil.put_back(before), answer)[1])
        self.sync(self.one)
        self.sync(self.one)
        self.assertIn(IncidentKind.COMMITS_MISSING, self.kinds(self.one))
        self.assertEqual(self.content(self.one, "a"), {"n": 2})

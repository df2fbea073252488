"""What a server that does not tell the truth is found by: a test for each thing that it could do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import succeed

from soledad import IncidentKind, Reason, Soledad, TamperPolicy
from soledad.crypto.record import record_name
from soledad.errors import ConnectionFailed, ServerRolledBack, TamperingDetected
from soledad.model.ids import DocId
from soledad.testing import MemoryServer, make_store
from tests.client.sync.devices import DevicesTestCase, put_between
from tests.client.sync.evil import Evil


class HostileTestCase(DevicesTestCase):
    """Two devices in step, with documents of which each was changed once, and a server that is about to cheat."""

    def setUp(self) -> None:
        """Sync them."""
        super().setUp()
        self.evil = Evil(self.server)
        self.two = self.another()
        for doc_id in "abc":
            self.put(self.one, doc_id, {"n": 0})
        self.sync(self.one, self.two)
        self.old = self.evil.snapshot()
        self.names = dict(zip(self.order("abc"), self.evil.names(), strict=True))
        self.put(self.one, "a", {"n": 1})
        self.sync(self.one, self.two)

    def order(self, ids: str) -> list[str]:
        """Return ids in the order of their records' names."""
        key = self.one._local.keyring.keyring.names_key
        return sorted(ids, key=lambda one: record_name(key, DocId(one)))

    def kinds(self, store: Soledad) -> set[IncidentKind]:
        """Return what a device has found, or was told of."""
        return {incident.kind for incident in self.now(store.incidents())}

    def old_record(self, doc_id: str) -> bytes:
        """Return the record of a document as it was before the change."""
        name = bytes.fromhex(self.names[doc_id])
        data: bytes = next(row["data"] for row in self.old.rows[0] if row["name"] == name)
        return data


class RecordTests(HostileTestCase):
    """Single records."""

    def test_older(self) -> None:
        """An older record of one document is not taken, and reported."""
        self.put(self.one, "d", {})
        self.sync(self.one)
        self.evil.replace(self.names["a"], self.old_record("a"))
        self.sync(self.two)
        self.assertEqual(self.content(self.two, "a"), {"n": 1})
        self.assertLessEqual({IncidentKind.RECORD_BACK, IncidentKind.STATE_DIFFERS}, self.kinds(self.two))
        (problem,) = self.now(self.two.sync_problems())
        self.assertEqual((problem.reason, problem.doc_id), (Reason.OLDER, "a"))

    def test_forged(self) -> None:
        """A record that nobody sealed is not taken, and reported; the others arrive."""
        self.put(self.one, "d", {"n": 1})
        self.sync(self.one)
        data = bytearray(self.evil.record(self.names["a"]))
        data[-1] ^= 1
        self.evil.replace(self.names["a"], bytes(data))
        self.sync(self.two)
        self.assertEqual(self.content(self.two, "a"), {"n": 1})
        self.assertEqual(self.content(self.two, "d"), {"n": 1})
        self.assertLessEqual({IncidentKind.RECORD_FORGED, IncidentKind.STATE_DIFFERS}, self.kinds(self.two))
        (problem,) = self.now(self.two.sync_problems())
        self.assertEqual((problem.reason, problem.doc_id), (Reason.FORGED, "a"))

    def test_forged_tombstone(self) -> None:
        """A tombstone that another account has sealed deletes nothing."""
        stranger = MemoryServer()
        other = self.open(Path(self.mktemp()), stranger)
        self.put(other, "a", {})
        self.put(other, "a", None)
        self.sync(other)
        (name,) = Evil(stranger).names()
        self.put(self.one, "d", {})
        self.sync(self.one)
        self.evil.replace(self.names["a"], Evil(stranger).record(name))
        self.sync(self.two)
        self.assertEqual(self.content(self.two, "a"), {"n": 1})
        self.assertEqual(self.kinds(self.two), {IncidentKind.STATE_DIFFERS})
        (problem,) = self.now(self.two.sync_problems())
        self.assertEqual((problem.reason, problem.doc_id), (Reason.UNKNOWN_KEY, "a"))

    def test_moved(self) -> None:
        """A record under another document's name is not taken."""
        self.put(self.one, "d", {})
        self.sync(self.one)
        self.evil.replace(self.names["b"], self.evil.record(self.names["a"]))
        self.sync(self.two)
        self.assertEqual(self.content(self.two, "b"), {"n": 0})
        self.assertIn(IncidentKind.RECORD_FORGED, self.kinds(self.two))

    def test_moved_from_another_user(self) -> None:
        """A record of another user of the server is not taken, whatever is there of the document, and reported."""
        mine = self.evil.names()
        stranger = make_store(self, self.server, uuid="stranger")
        for doc_id in "ad":
            self.put(stranger, doc_id, {"n": 7})
        self.sync(stranger)
        theirs = [self.evil.record(name) for name in self.evil.names() if name not in mine]
        for doc_id in "ad":
            self.put(self.one, doc_id, {"n": 2})
        self.sync(self.one)
        key = self.one._local.keyring.keyring.names_key
        for doc_id, record in zip("ad", theirs, strict=True):
            self.evil.alter(record_name(key, DocId(doc_id)), record)
        self.sync(self.two)
        self.assertEqual([self.content(self.two, doc_id) for doc_id in "ad"], [{"n": 1}, None])
        self.assertEqual({one.reason for one in self.now(self.two.sync_problems())}, {Reason.UNKNOWN_KEY})
        self.assertEqual(len(self.now(self.two.sync_problems())), 2)
        self.assertEqual(self.kinds(self.two), {IncidentKind.STATE_DIFFERS})

    def test_withheld(self) -> None:
        """That a record in the middle is missing is noticed, and the rest arrives."""
        for doc_id in "def":
            self.put(self.one, doc_id, {"n": 1})
        self.sync(self.one)
        dropped = self.evil.names()[-2]
        self.evil.drop(dropped)
        self.sync(self.two)
        self.assertEqual(self.kinds(self.two), {IncidentKind.STATE_DIFFERS})
        self.assertEqual(sum(self.content(self.two, doc_id) is not None for doc_id in "def"), 2)

    def test_withheld_for_a_while(self) -> None:
        """What is there when it is asked for once more is no incident."""
        for doc_id in "def":
            self.put(self.one, doc_id, {"n": 1})
        self.sync(self.one)
        whole = self.evil.snapshot()
        self.evil.drop(self.evil.names()[-2])
        between = put_between(self.two, before=lambda name, number: self.evil.put_back(whole) if number else None)
        self.sync(self.two)
        self.assertEqual(self.kinds(self.two), set())
        self.assertEqual([self.content(self.two, doc_id) for doc_id in "def"], [{"n": 1}] * 3)
        self.assertEqual(between.calls, ["pull", "names", "fetch", "pull"])

    def test_withheld_and_shown(self) -> None:
        """A device that was deceived does not deceive others: what it pushes goes on from what was stated."""
        self.put(self.one, "d", {"n": 1})
        self.sync(self.one)
        (dropped,) = set(self.evil.names()) - set(self.names.values())
        record = self.evil.record(dropped)
        self.evil.drop(dropped)
        self.put(self.two, "e", {"n": 1})
        self.sync(self.two)
        self.assertEqual(self.kinds(self.two), {IncidentKind.STATE_DIFFERS})
        self.evil.replace(dropped, record)
        three = self.another()
        self.sync(three, self.two)
        own = three._local.documents.replica
        self.assertEqual([one for one in self.now(three.incidents()) if one.device == own], [])
        for store in (three, self.two):
            self.assertEqual([self.content(store, doc_id) for doc_id in "de"], [{"n": 1}] * 2)
        self.assertEqual(len(self.now(self.two.incidents())), 1)

    def test_from_another_server(self) -> None:
        """A record that was genuine on another server of the same person is none of this state."""
        other = MemoryServer()
        three = self.another()
        self.now(three.close())
        three = self.open(self.folders[three], other)
        self.put(three, "q", {"n": 7})
        self.sync(three)
        (name,) = Evil(other).names()
        self.put(self.one, "d", {})
        self.sync(self.one)
        self.evil.replace(name, Evil(other).record(name))
        self.sync(self.two)
        self.assertIn(IncidentKind.STATE_DIFFERS, self.kinds(self.two))


class StateTests(HostileTestCase):
    """The whole."""

    def test_older(self) -> None:
        """An older state of everything is noticed, by who saw the newer one."""
        self.evil.put_back(self.old)
        self.sync(self.two)
        self.assertIn(IncidentKind.STATE_BACK, self.kinds(self.two))
        self.assertEqual(self.content(self.two, "a"), {"n": 1})

    def test_own_commits_missing(self) -> None:
        """A device whose own last commit is missing says so."""
        self.evil.put_back(self.old)
        self.sync(self.one)
        self.assertIn(IncidentKind.COMMITS_MISSING, self.kinds(self.one))
        self.assertEqual(self.content(self.one, "a"), {"n": 1})

    def test_nothing_left(self) -> None:
        """A server that has nothing any more is not taken for a new one."""
        empty = Evil(MemoryServer()).snapshot()
        self.evil.put_back(empty)
        self.sync(self.two)
        self.assertIn(IncidentKind.CHECKPOINT_FORGED, self.kinds(self.two))
        self.sync(self.one)
        self.assertEqual(self.content(self.one, "a"), {"n": 1})

    def test_checkpoint_forged(self) -> None:
        """A checkpoint that does not open is noticed."""
        data = bytearray(self.evil.checkpoint())
        data[-1] ^= 1
        self.evil.checkpoint(bytes(data))
        self.sync(self.two)
        self.assertEqual(self.kinds(self.two), {IncidentKind.CHECKPOINT_FORGED})

    def test_replayed_push(self) -> None:
        """A push that is carried out once more makes an older state."""
        old_checkpoint = next(row["checkpoint"] for row in self.old.rows[1])
        self.evil.replace(self.names["a"], self.old_record("a"))
        self.evil.checkpoint(old_checkpoint)
        self.sync(self.two)
        self.assertLessEqual({IncidentKind.STATE_BACK, IncidentKind.RECORD_BACK}, self.kinds(self.two))
        self.assertEqual(self.content(self.two, "a"), {"n": 1})

    def test_split(self) -> None:
        """Two devices that were shown different histories find out when they are shown the same."""
        fork = self.evil.snapshot()
        self.put(self.one, "a", {"n": "one"})
        self.sync(self.one)
        other = self.evil.snapshot()
        self.evil.put_back(fork)
        self.put(self.two, "b", {"n": "two"})
        self.sync(self.two)
        self.assertEqual(self.kinds(self.one) | self.kinds(self.two), set())
        self.assertNotEqual(self.now(self.one.checkpoint_code()), self.now(self.two.checkpoint_code()))
        self.sync(self.one)
        self.assertTrue(self.kinds(self.one) & {IncidentKind.COMMITS_MISSING, IncidentKind.HISTORY_SPLIT})
        self.evil.put_back(other)
        self.sync(self.two)
        self.assertTrue(self.kinds(self.two) & {IncidentKind.COMMITS_MISSING, IncidentKind.HISTORY_SPLIT})

    def test_other_history(self) -> None:
        """A server that begins a new history in the place of the old one is noticed."""
        other = MemoryServer()
        three = self.another()
        self.now(three.close())
        three = self.open(self.folders[three], other)
        self.put(three, "a", {"n": 9})
        self.sync(three)
        self.evil.put_back(Evil(other).snapshot())
        self.sync(self.two)
        self.assertIn(IncidentKind.HISTORY_SPLIT, self.kinds(self.two))

    def test_keyring_back(self) -> None:
        """A keyring that was put back is noticed when a checkpoint speaks of a newer one."""
        self.now(self.one.change_passphrase("new"))
        self.put(self.one, "d", {})
        self.sync(self.one)
        self.settle(self.two, False)
        self.sync(self.two)
        self.assertEqual(self.kinds(self.two), {IncidentKind.KEYRING_BACK})

    def test_keyring_newer(self) -> None:
        """A keyring that is as new as the checkpoint says is none of it, and is asked for once."""
        self.now(self.one.change_passphrase("new"))
        self.put(self.one, "d", {})
        self.sync(self.one)
        asked = self.settle(self.two, True)
        self.sync(self.two)
        self.assertEqual((self.kinds(self.two), asked), (set(), [False]))

    def test_keyring_older_here(self) -> None:
        """A device whose own keyring is older does not state that there is no newer one."""
        self.now(self.one.change_passphrase("new"))
        self.put(self.one, "d", {})
        self.sync(self.one, self.two)
        self.put(self.two, "e", {})
        self.sync(self.two, self.one)
        self.assertEqual(self.kinds(self.one) | self.kinds(self.two), set())

    def settle(self, store: Soledad, is_well: bool) -> list[bool]:
        """Let a device find the server's keyring to be well, or not."""
        asked: list[bool] = []

        def settle(restored: bool) -> Any:
            asked.append(restored)
            return succeed(is_well)

        assert store._syncing is not None
        store._syncing.parts = evolve(store._syncing.parts, settle_keyring=settle)
        return asked


class RestoreTests(HostileTestCase):
    """A server that was restored from a backup, and somebody says so."""

    def test_accepted(self) -> None:
        """What it lost is sent again, and no device takes offence afterwards."""
        self.put(self.two, "d", {"n": 1})
        self.put(self.two, "b", None)
        self.sync(self.two, self.one)
        self.evil.put_back(self.old)
        self.now(self.one.accept_server_restore())
        self.assertEqual(self.kinds(self.one), set())
        three = self.another()
        self.sync(self.two, three, self.one)
        self.assertEqual(self.kinds(self.two), {IncidentKind.RESTARTED})
        self.assertEqual(self.kinds(three) | self.kinds(self.one), set())
        for store in (self.one, self.two, three):
            self.assertEqual([self.content(store, doc_id) for doc_id in "abd"], [{"n": 1}, None, {"n": 1}])
            self.assertEqual(self.now(store.sync_problems()), [])

    def test_afterwards(self) -> None:
        """What had been found before is over: documents that were set aside take part again."""
        self.evil.put_back(self.old)
        self.sync(self.two)
        self.assertNotEqual(self.now(self.two.sync_problems()), [])
        self.now(self.two.accept_server_restore())
        self.assertEqual(self.now(self.two.sync_problems()), [])
        three = self.another()
        self.sync(three)
        self.assertEqual(self.content(three, "a"), {"n": 1})

    def test_what_others_had(self) -> None:
        """Other devices send what only they had, of documents that are there still, too."""
        self.put(self.two, "d", {"n": 1})
        self.put(self.two, "b", {"n": 5})
        self.sync(self.two)
        self.evil.put_back(self.old)
        self.now(self.one.accept_server_restore())
        self.assertIsNone(self.content(self.one, "d"))
        self.sync(self.two, self.one)
        self.assertEqual([self.content(self.one, doc_id) for doc_id in "bd"], [{"n": 5}, {"n": 1}])
        self.assertEqual(self.kinds(self.two), {IncidentKind.RESTARTED})

    def test_written_since(self) -> None:
        """What a device wrote on the restored server in the meantime becomes a conflict, and is not lost."""
        self.evil.put_back(self.old)
        three = self.another()
        self.sync(three)
        self.put(three, "a", {"n": 3})
        self.sync(three)
        self.now(self.one.accept_server_restore())
        contents = [(doc.content or {})["n"] for doc in self.now(self.one.get_doc_conflicts("a"))]
        self.assertEqual(sorted(contents), [1, 3])

    def test_emptied(self) -> None:
        """A server without anything is filled again, and its history goes on."""
        self.evil.put_back(Evil(MemoryServer()).snapshot())
        self.now(self.one.accept_server_restore())
        self.sync(self.two)
        self.assertEqual(self.kinds(self.one) | self.kinds(self.two), {IncidentKind.RESTARTED})
        self.assertEqual(len(self.evil.names()), 3)

    def test_interrupted(self) -> None:
        """It goes on with the next sync."""
        self.evil.put_back(self.old)
        for at in range(3):
            put_between(self.one, before=lambda name, number, at=at: self.fail_at(number, at))
            self.fails(self.one.accept_server_restore() if not at else self.one.sync(), ConnectionFailed)
            self.one = self.reopen(self.one)
        self.sync(self.one, self.two)
        self.assertEqual(self.kinds(self.one), set())
        self.assertEqual(self.kinds(self.two), {IncidentKind.RESTARTED})

    def fail_at(self, number: int, at: int) -> None:
        """Lose a request."""
        if number == at:
            raise ConnectionFailed()


class PolicyTests(HostileTestCase):
    """What is done then."""

    def cheat(self) -> None:
        """Put everything back."""
        self.put(self.two, "d", {"n": 1})
        self.evil.put_back(self.old)

    def test_warn(self) -> None:
        """By default it is told, and what can be sent is sent."""
        self.cheat()
        self.assertIs(self.now(self.two.tamper_policy()), TamperPolicy.WARN)
        self.sync(self.two)
        self.sync(self.one)
        self.assertEqual(self.content(self.one, "d"), {"n": 1})

    def test_once(self) -> None:
        """The same is not told again with each sync."""
        self.cheat()
        self.sync(self.two)
        found = self.now(self.two.incidents())
        self.sync(self.two)
        self.assertEqual(self.now(self.two.incidents()), found)

    def test_read_only(self) -> None:
        """Nothing is sent, until the server shows what is true."""
        whole = self.evil.snapshot()
        self.now(self.two.set_tamper_policy(TamperPolicy.READ_ONLY))
        self.cheat()
        for _ in range(2):
            error = self.fails(self.two.sync(), ServerRolledBack)
        assert isinstance(error, ServerRolledBack)
        self.assertIn("STATE_BACK", error.kinds)
        self.assertEqual(self.evil.snapshot(), self.old)
        self.assertEqual(self.content(self.two, "d"), {"n": 1})
        self.evil.put_back(whole)
        self.sync(self.two, self.one)
        self.assertEqual(self.content(self.one, "d"), {"n": 1})
        self.assertEqual(self.now(self.two.sync_problems()), [])

    def test_refuse(self) -> None:
        """Nothing is taken of it either."""
        self.now(self.two.set_tamper_policy(TamperPolicy.REFUSE))
        two = self.reopen(self.two)
        self.assertIs(self.now(two.tamper_policy()), TamperPolicy.REFUSE)
        self.cheat_with_more()
        self.fails(two.sync(), TamperingDetected)
        self.assertIsNone(self.content(two, "e"))
        self.put(two, "f", {})
        self.assertEqual(self.content(two, "f"), {})

    def cheat_with_more(self) -> None:
        """Put everything back, and let there be something new."""
        self.evil.put_back(self.old)
        self.put(self.one, "e", {"n": 1})
        self.sync(self.one)

    def test_told(self) -> None:
        """What a device has found, the others are told."""
        three = self.another()
        self.sync(three)
        self.evil.drop(self.names["b"])
        self.put(self.one, "d", {})
        self.now(self.one.set_tamper_policy(TamperPolicy.WARN))
        self.evil.checkpoint(bytes(100))
        self.sync(self.one)
        self.sync(three)
        told = [one for one in self.now(three.incidents()) if one.device == self.one._local.documents.replica]
        self.assertIn(IncidentKind.CHECKPOINT_FORGED, {one.kind for one in told})

    def told_by_one(self, cheat: Callable[[], object]) -> set[IncidentKind]:
        """Let the first device sync with a server that cheats, and return what it has told another one of it."""
        three = self.another()
        self.sync(three)
        self.put(self.two, "d", {"n": 1})
        self.sync(self.two)
        cheat()
        self.sync(self.one, three)
        replica = self.one._local.documents.replica
        return {one.kind for one in self.now(three.incidents()) if one.device == replica}

    def test_told_of_a_record(self) -> None:
        """What a device has found of a record, the others are told."""
        moved = self.told_by_one(lambda: self.evil.replace(self.names["b"], self.evil.record(self.names["a"])))
        self.assertIn(IncidentKind.RECORD_FORGED, moved)

    def test_told_of_the_state(self) -> None:
        """What a device has found of the whole state, the others are told."""
        self.assertIn(IncidentKind.STATE_BACK, self.told_by_one(lambda: self.evil.put_back(self.old)))

    def test_no_policy(self) -> None:
        """A policy is one of three."""
        self.fails(self.two.set_tamper_policy("warn"), TypeError)  # type: ignore[arg-type]

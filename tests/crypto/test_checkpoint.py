"""Checkpoints: vectors, the digest, and what a device concludes."""

from __future__ import annotations

import hmac
from base64 import b64decode
from hashlib import sha256
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad import errors
from soledad.crypto.checkpoint import (
    KEPT_DEVICES,
    MAX_DEVICES,
    MAX_INCIDENTS,
    Checkpoint,
    Commit,
    Incident,
    IncidentKind,
    KeyringMark,
    Standing,
    begun,
    checkpoint_code,
    committed,
    contradictions,
    digest_of,
    encode,
    is_keyring_back,
    open_checkpoint,
    parse,
    replaced,
    restarted,
    seal_checkpoint,
    standing,
    term,
)
from soledad.crypto.cipher import KeyMaterial
from soledad.crypto.kdf import Mac
from soledad.crypto.keyring import create, open_body
from soledad.errors import MalformedCheckpoint
from soledad.model.ids import RecordName, user_id
from soledad.wire.changes import CHECKPOINT_LIMIT
from tests.vectors import load
from tests.vectors.make import CODE, KEY, ROOT, Counter
from tests.vectors.sync import DIGEST_KEY, FIRST, HASHES, MANY, ONE, TWO, USER

NAMES = st.binary(min_size=32, max_size=32).map(lambda data: RecordName(data.hex()))
DIGESTS = st.binary(min_size=32, max_size=32)
IDS = st.binary(min_size=16, max_size=16).map(bytes.hex)
NUMBERS = st.integers(0, 2**64 - 1)
COMMITS = st.builds(Commit, st.integers(1, 2**64 - 1), IDS, NUMBERS)
CHECKPOINTS = st.builds(
    Checkpoint,
    IDS,
    st.integers(1, 2**64 - 1),
    st.integers(0, 2**256 - 1),
    st.builds(KeyringMark, NUMBERS, DIGESTS),
    st.integers(0, 2**32 - 1),
    st.dictionaries(IDS, COMMITS, min_size=1, max_size=4),
    st.lists(st.builds(Incident, NUMBERS, IDS, st.sampled_from(IncidentKind)), max_size=3).map(tuple),
)


class VectorTests(SynchronousTestCase):
    """The files of vectors mean the same to everyone."""

    def opened(self, case: dict[str, Any]) -> Checkpoint:
        """Open the checkpoint of a case."""
        root = KeyMaterial(bytes.fromhex(case["secret"]), bytes.fromhex(case["account_id"]))
        return open_checkpoint({root.key_id: root}, user_id(case["user"]), b64decode(case["checkpoint"]))

    def test_open(self) -> None:
        """What must open, opens to the same statement, and its inside is what is written."""
        for case in load("checkpoint.json", "open"):
            opened = self.opened(case)
            self.assertEqual(encode(opened), b64decode(case["inside"]))
            told = (opened.history, opened.number, f"{opened.digest:064x}", opened.restarts, checkpoint_code(opened))
            self.assertEqual(told, tuple(case[key] for key in ("history", "number", "digest", "restarts", "code")))
            self.assertEqual([opened.keyring.generation, opened.keyring.hash.hex()], case["keyring"])
            devices = {name: [one.count, one.commit_id, one.time] for name, one in opened.devices.items()}
            self.assertEqual(devices, case["devices"])
            incidents = [[one.time, one.device, one.kind.name] for one in opened.incidents]
            self.assertEqual(incidents, case["incidents"])

    def test_refuse(self) -> None:
        """What must not open fails with the error that is told."""
        for case in load("checkpoint.json", "refuse"):
            with self.assertRaises(getattr(errors, case["error"]), msg=case["name"]):
                self.opened(case)


class InsideTests(SynchronousTestCase):
    """There and back."""

    @given(CHECKPOINTS)
    def test_round_trip(self, checkpoint: Checkpoint) -> None:
        """Any checkpoint comes out as it went in."""
        self.assertEqual(parse(encode(checkpoint)), checkpoint)

    @given(CHECKPOINTS, st.data())
    def test_mutated(self, checkpoint: Checkpoint, data: st.DataObject) -> None:
        """However bytes are changed, what is still read has just this encoding."""
        inside = encode(checkpoint)
        at = data.draw(st.integers(0, len(inside) - 1))
        count, replacement = data.draw(st.integers(0, 49)), data.draw(st.binary(max_size=49))
        changed = inside[:at] + replacement + inside[at + count :]
        try:
            parsed = parse(changed)
        except MalformedCheckpoint:
            return
        self.assertEqual(encode(parsed), changed)

    def test_largest(self) -> None:
        """The largest one is one that the server takes; a larger one is refused where it is made."""
        devices = {f"{number:032x}": Commit(1, ONE, 0) for number in range(MAX_DEVICES)}
        incident = Incident(0, ONE, IncidentKind.STATE_BACK)
        largest = evolve(MANY, devices=devices, incidents=(incident,) * MAX_INCIDENTS)
        sealed = seal_checkpoint(ROOT, USER, bytes(24), largest)
        self.assertLessEqual(len(sealed), CHECKPOINT_LIMIT)
        self.assertEqual(open_checkpoint({ROOT.key_id: ROOT}, USER, sealed), largest)
        with self.assertRaises(MalformedCheckpoint):
            encode(evolve(largest, devices={**devices, "ff" * 16: Commit(1, ONE, 0)}))


class DigestTests(SynchronousTestCase):
    """One number over all records."""

    def test_term(self) -> None:
        """A term is the HMAC of name and hash."""
        name, value = next(iter(HASHES.items()))
        expected = hmac.new(DIGEST_KEY, bytes.fromhex(name) + value, "sha256").hexdigest()
        self.assertEqual(f"{term(Mac(DIGEST_KEY), name, value):064x}", expected)
        self.assertEqual(digest_of(DIGEST_KEY, {}), 0)

    @given(st.lists(st.tuples(NAMES, st.none() | DIGESTS), max_size=12))
    def test_replaced(self, changes: list[tuple[RecordName, bytes | None]]) -> None:
        """Replacing one after the other comes to the same as adding up all that are there in the end."""
        hashes: dict[RecordName, bytes] = {}
        digest = 0
        for name, new in [*changes, *changes[::-1]]:
            digest = replaced(digest, Mac(DIGEST_KEY), name, hashes.pop(name, None), new)
            if new is not None:
                hashes[name] = new
        self.assertEqual(digest, digest_of(DIGEST_KEY, hashes))

    def test_swapped(self) -> None:
        """Two records that change places are not the same state."""
        names, values = list(HASHES), list(HASHES.values())
        swapped = dict(zip(names, reversed(values), strict=True))
        self.assertNotEqual(digest_of(DIGEST_KEY, HASHES), digest_of(DIGEST_KEY, swapped))
        self.assertNotEqual(digest_of(DIGEST_KEY, HASHES), digest_of(bytes(32), HASHES))


class CommitTests(SynchronousTestCase):
    """What commits and restarts make of a checkpoint."""

    def test_first(self) -> None:
        """The first commit of a history."""
        made = committed(begun(FIRST.history), ONE, FIRST.devices[ONE], 0, FIRST.keyring)
        self.assertEqual(made, FIRST)

    def test_next(self) -> None:
        """A commit counts on, says what is true after it, and leaves the others' entries alone."""
        found = Incident(5, TWO, IncidentKind.STATE_DIFFERS)
        keyring = KeyringMark(2, bytes(32))
        made = committed(FIRST, TWO, Commit(1, "c5" * 16, 7), 99, keyring, (found,))
        self.assertEqual((made.number, made.digest, made.keyring, made.restarts), (2, 99, keyring, 0))
        self.assertEqual(made.devices, {ONE: FIRST.devices[ONE], TWO: Commit(1, "c5" * 16, 7)})
        self.assertEqual((made.history, made.incidents), (FIRST.history, (found,)))

    def test_oldest_incidents_go(self) -> None:
        """There is room for so many incidents; the oldest go."""
        many = tuple(Incident(number, ONE, IncidentKind.STATE_BACK) for number in range(MAX_INCIDENTS + 2))
        head = evolve(FIRST, incidents=many[:MAX_INCIDENTS])
        made = committed(head, ONE, Commit(2, ONE, 0), 0, FIRST.keyring, many[MAX_INCIDENTS:])
        self.assertEqual(made.incidents, many[2:])

    def test_restart(self) -> None:
        """After a restart there is one more of them, and no device's entry went back."""
        head = evolve(FIRST, number=4, restarts=1, devices={ONE: Commit(3, "c3" * 16, 0), "cc" * 16: Commit(1, ONE, 0)})
        known = evolve(FIRST, number=9, restarts=0, devices={ONE: Commit(2, "c2" * 16, 0), TWO: Commit(5, ONE, 0)})
        made = restarted(known, head)
        self.assertEqual((made.number, made.restarts), (9, 2))
        self.assertEqual({device: one.count for device, one in made.devices.items()}, {ONE: 3, TWO: 5, "cc" * 16: 1})
        self.assertEqual(restarted(evolve(known, restarts=7), head).restarts, 8)
        after = committed(made, TWO, Commit(6, "c6" * 16, 0), 0, FIRST.keyring)
        self.assertEqual(contradictions(known, after), {IncidentKind.RESTARTED})

    def test_restart_makes_room(self) -> None:
        """Of too many devices a restart keeps those that wrote last; of many, but not too many, all."""
        devices = {f"{number:032x}": Commit(1, ONE, number // 2) for number in range(MAX_DEVICES - 1)}
        some = evolve(FIRST, devices=devices)
        self.assertEqual(restarted(some, some).devices, devices)
        others = {f"{number:032x}": Commit(2, ONE, number // 2) for number in range(1, MAX_DEVICES)}
        made = restarted(some, evolve(FIRST, devices=others))
        first = MAX_DEVICES - KEPT_DEVICES
        self.assertEqual(made.devices, {f"{number:032x}": Commit(2, ONE, number // 2) for number in range(first, 1024)})
        self.assertEqual(parse(encode(made)), made)
        known = evolve(FIRST, devices={f"{1:032x}": Commit(9, TWO, 0)})
        self.assertEqual(contradictions(known, made), {IncidentKind.RESTARTED})

    def test_code(self) -> None:
        """The code is four groups of four, and another one for anything else that is stated."""
        code = checkpoint_code(MANY)
        self.assertRegex(code, r"^[A-Z2-7]{4}(-[A-Z2-7]{4}){3}$")
        others = evolve(MANY, number=1), evolve(MANY, digest=1), evolve(MANY, restarts=1)
        self.assertEqual(len({code, *map(checkpoint_code, others)}), 4)


class ContradictionTests(SynchronousTestCase):
    """What a head must not say to a device that knows another checkpoint."""

    known = evolve(FIRST, number=5, restarts=2, devices={ONE: Commit(3, "c1" * 16, 9), TWO: Commit(2, "c2" * 16, 9)})

    def check(self, *kinds: IncidentKind, devices: dict[str, Commit] | None = None, **changes: Any) -> None:
        """See what is found in the known checkpoint with some changes."""
        entries = self.known.devices if devices is None else {**self.known.devices, **devices}
        head = evolve(self.known, devices=entries, **changes)
        self.assertEqual(contradictions(self.known, head), set(kinds))

    def test_same(self) -> None:
        """The same is fine."""
        self.check()

    def test_next(self) -> None:
        """So is what comes after it: commits of known devices and of a new one, incidents, a newer keyring."""
        incident = Incident(5, TWO, IncidentKind.STATE_BACK)
        entries = {TWO: Commit(4, "c4" * 16, 0), "cc" * 16: Commit(1, ONE, 0)}
        keyring = KeyringMark(2, bytes(32))
        self.check(number=8, digest=7, devices=entries, keyring=keyring, incidents=(incident,))

    def test_older(self) -> None:
        """An older number, fewer restarts, a device that went back."""
        self.check(IncidentKind.STATE_BACK, number=4)
        self.check(IncidentKind.STATE_BACK, restarts=1, number=9)
        self.check(IncidentKind.STATE_BACK, number=6, devices={ONE: Commit(2, "c1" * 16, 9)})

    def test_missing_device(self) -> None:
        """A device that is not there any more."""
        head = evolve(self.known, number=6, devices={ONE: self.known.devices[ONE]})
        self.assertEqual(contradictions(self.known, head), {IncidentKind.STATE_BACK})

    def test_split(self) -> None:
        """Another history; one count with two commits; one number with two."""
        self.check(IncidentKind.HISTORY_SPLIT, history="cd" * 16, number=1)
        self.check(IncidentKind.HISTORY_SPLIT, number=6, devices={ONE: Commit(3, "c9" * 16, 9)})
        self.check(IncidentKind.HISTORY_SPLIT, digest=8)
        self.check(IncidentKind.HISTORY_SPLIT, devices={ONE: Commit(4, "c9" * 16, 9)})

    def test_restart(self) -> None:
        """More restarts excuse what went back, and are told; another history they do not excuse."""
        self.check(IncidentKind.RESTARTED, restarts=3, number=1, devices={ONE: Commit(1, "c9" * 16, 9)})
        other = evolve(self.known, restarts=3, history="cd" * 16)
        found = {IncidentKind.HISTORY_SPLIT, IncidentKind.RESTARTED}
        self.assertEqual(contradictions(self.known, other), found)

    def test_keyring(self) -> None:
        """A keyring that is older, or another one of the same generation; a restart does not excuse it."""
        older, other = KeyringMark(0, self.known.keyring.hash), KeyringMark(1, bytes(32))
        self.check(IncidentKind.KEYRING_BACK, number=6, keyring=older)
        self.check(IncidentKind.KEYRING_BACK, number=6, keyring=other)
        self.check(IncidentKind.KEYRING_BACK, IncidentKind.RESTARTED, restarts=3, keyring=older)
        self.assertFalse(is_keyring_back(self.known.keyring, KeyringMark(2, bytes(32))))


class StandingTests(SynchronousTestCase):
    """What a device's own entry tells it."""

    last, pending = Commit(3, "c3" * 16, 9), Commit(4, "c4" * 16, 9)

    def check(self, expected: Standing, entry: Commit | None, last: Commit | None, pending: Commit | None) -> None:
        """See how an entry stands."""
        head = evolve(FIRST, devices={} if entry is None else {ONE: entry})
        self.assertIs(standing(head, ONE, last, pending), expected)

    def test_every_case(self) -> None:
        """Each entry, with a push under way and without."""
        ahead = Commit(4, "c9" * 16, 9)
        self.check(Standing.LAST, self.last, self.last, None)
        self.check(Standing.LAST, self.last, self.last, self.pending)
        self.check(Standing.LAST, None, None, None)
        self.check(Standing.LAST, None, None, self.pending)
        self.check(Standing.PENDING, self.pending, self.last, self.pending)
        self.check(Standing.PENDING, self.pending, None, self.pending)
        self.check(Standing.MISSING, None, self.last, None)
        self.check(Standing.MISSING, Commit(2, "c2" * 16, 9), self.last, self.pending)
        self.check(Standing.MISSING, Commit(3, "c9" * 16, 9), self.last, None)
        self.check(Standing.AHEAD, ahead, self.last, None)
        self.check(Standing.AHEAD, ahead, self.last, self.pending)
        self.check(Standing.AHEAD, ahead, None, None)


class KeyringMarkTests(SynchronousTestCase):
    """Which keyring a checkpoint names."""

    def test_every_device_has_the_same(self) -> None:
        """However often a keyring is sealed, and whoever opens it, the mark is the same; a change makes another."""
        entropy = Counter("mark")
        keyring = create(USER, KEY, entropy)
        mark = KeyringMark.of(keyring)
        again = keyring.resealed(keyring.keyring, keyring.slots, entropy)
        self.assertNotEqual(again.shared, keyring.shared)
        opened = open_body(USER, again.shared, keyring.key)
        self.assertEqual(KeyringMark.of(evolve(keyring, keyring=opened, device_key=bytes(32), slot_id=None)), mark)
        self.assertEqual(mark.generation, keyring.keyring.generation)
        slots = (*keyring.slots, CODE.wrap(USER, keyring.key, entropy))
        self.assertNotEqual(KeyringMark.of(keyring.resealed(opened, slots, entropy)), mark)
        self.assertNotEqual(KeyringMark.of(evolve(keyring, keyring=evolve(opened, generation=2))), mark)

    def test_hash(self) -> None:
        """The hash is that of the body as the keyring's format has it."""
        keyring = create(USER, KEY, Counter("mark"))
        body = keyring.keyring.encode(keyring.shared.slots_hash)
        self.assertEqual(KeyringMark.of(keyring).hash, sha256(body).digest())

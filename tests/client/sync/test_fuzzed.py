"""Answers in which anything is altered, dropped, repeated or in another order: right data or an error, nothing else."""

from __future__ import annotations

from random import Random
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from soledad.deferreds import unawaited
from soledad.errors import SoledadError, StaleToken
from soledad.wire.changes import (
    Idle,
    NamesPage,
    SyncPage,
    decode_names,
    decode_page,
    encode_names,
    encode_page,
)
from tests.client.sync.devices import Between, DevicesTestCase, put_between
from tests.limits import examples

TRUTH: dict[str, Any] = {"a": {"n": 1}, "b": None, "c": {"n": 2}, "d": {"n": 3}}


class FuzzedTests(DevicesTestCase):
    """A device that knows an older state, and one that knows nothing."""

    def setUp(self) -> None:
        """Have something to be synced."""
        super().setUp()
        self.two = self.another()
        self.put(self.one, "a", {"n": 0})
        self.put(self.one, "b", {"n": 0})
        self.sync(self.one, self.two)
        self.behind = self.copy(self.two)
        self.put(self.one, "a", {"n": 1})
        self.put(self.one, "b", None)
        self.put(self.one, "c", {"n": 2})
        self.put(self.one, "d", {"n": 3})
        self.sync(self.one)

    @settings(max_examples=examples(25))
    @given(st.integers(0, 2**32))
    def test_any_answer(self, seed: int) -> None:
        """Whatever is done to answers, no document is ever wrong; afterwards all is well."""
        # Not drawn one by one: how many there are depends on names, which are random.
        chance = Random(seed)
        self.folders[self.two] = self.behind
        store = self.open(self.copy(self.two)) if chance.random() < 0.5 else self.another()
        before = {doc_id: self.content(store, doc_id) for doc_id in TRUTH}
        self.addCleanup(store.close)

        def distort(name: str, number: int, answer: Any) -> Any:
            return answer if chance.random() < 0.5 else self.distorted(chance, answer)

        put_between(store, after=distort)
        for _ in range(chance.randint(1, 2)):
            self.attempt(store)
            for doc_id, content in TRUTH.items():
                self.assertIn(self.content(store, doc_id), (before[doc_id], content))
        put_between(store)
        self.sync(store)
        if self.now(store.incidents()):
            # A device that was deceived may have sent what is older in the place of what was hidden from it.
            self.now(self.one.accept_server_restore())
            self.sync(store, self.one)
        for device in (store, self.one):
            self.assertEqual({doc_id: self.content(device, doc_id) for doc_id in TRUTH}, TRUTH)
        self.assertEqual(self.now(store.sync_problems()), [])
        self.now(store.close())

    @settings(max_examples=examples(25))
    @given(st.integers(0, 2**32))
    def test_any_keyring(self, seed: int) -> None:
        """Whatever is done to the keyring on its way, no other is taken; afterwards the right one is."""
        chance = Random(seed)
        self.folders[self.two] = self.behind
        store = self.open(self.copy(self.two))
        self.addCleanup(store.close)
        before, remote = store._local.keyring, store._keys._remote
        older = before.shared.encode()
        change: Any = chance.choice((self.one.rotate_root, self.one.create_recovery_code))
        self.now(change())
        self.sync(self.one)
        after = self.one._local.keyring

        def distort(name: str, number: int, answer: Any) -> Any:
            is_left = name != "get" or chance.random() < 0.3
            return answer if is_left else chance.choice((older, self.with_noise(chance, answer)))

        lying: Any = Between(remote, after=distort)
        store._keys._remote = lying
        possible = [before.keyring, after.keyring]
        for _ in range(3):
            self.attempt(store)
            settling = Deferred.fromCoroutine(store._keys.settle())
            self.now(settling.addErrback(lambda failure: failure.trap(SoledadError)))
            # What was newer once is not given up again.
            possible = possible[possible.index(store._local.keyring.keyring) :]
        self.assertIn("get", lying.calls)
        store._keys._remote = remote
        self.sync(store, self.one)
        for device in (store, self.one):
            self.assertEqual(device._local.keyring.shared, after.shared)
            self.assertEqual({doc_id: self.content(device, doc_id) for doc_id in TRUTH}, TRUTH)
        self.now(store.close())

    def with_noise(self, chance: Random, data: bytes) -> bytes:
        """Return bytes of which one is another one, or that end early."""
        at, noise = chance.randrange(len(data)), chance.randint(0, 255)
        return data[:at] + (bytes([data[at] ^ noise]) + data[at + 1 :] if noise else b"")

    def attempt(self, store: Any) -> None:
        """Sync, which succeeds, or fails with an error of ours."""
        outcome: list[Any] = []
        unawaited(store.sync().addBoth(outcome.append))
        for _ in range(20):
            store._reactor.advance(5)
        if not isinstance(outcome[0], int):
            outcome[0].trap(SoledadError)

    def distorted(self, chance: Random, answer: Any) -> Any:
        """Return an answer to which something was done."""
        if chance.random() < 0.1:
            raise StaleToken()
        if isinstance(answer, Idle):
            return Idle(chance.choice(("", "c.aa.1", answer.blobs[:-1], answer.blobs + "0")))
        if isinstance(answer, str):
            return chance.choice(("", "1.0", answer))
        if chance.random() < 0.5:
            return self.altered(chance, answer)
        if isinstance(answer, NamesPage):
            return evolve(answer, names=tuple(self.some(chance, answer.names)), more=False)
        return evolve(answer, records=tuple(self.some(chance, answer.records)))

    def some(self, chance: Random, items: Any) -> list[Any]:
        """Return items in another order, some not, some several times, some under the names of others."""
        if not items:
            return []
        picked = chance.choices(items, k=chance.randint(0, len(items) + 2))
        is_moved = chance.random() < 0.5
        return [evolve(one, name=chance.choice(items).name) if is_moved else one for one in picked]

    def altered(self, chance: Random, answer: Any) -> Any:
        """Return an answer with a byte that is another one."""
        encode, decode = (encode_page, decode_page) if isinstance(answer, SyncPage) else (encode_names, decode_names)
        body = bytearray(encode(answer))
        body[chance.randrange(len(body))] ^= chance.randint(1, 255)
        return decode(bytes(body))

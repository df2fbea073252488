"""Tests of the keyring: what is in it, and what opens it."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from soledad import errors
from soledad.crypto.kdf import Database
from soledad.crypto.keyring import Keyring, OpenKeyring, SharedPart, create, encode_file, open_body, parse_file, unlock
from soledad.crypto.slots import (
    Credential,
    HandedInKey,
    Passphrase,
    RecoveryCode,
    Slot,
    SlotType,
    encode_argon2,
)
from soledad.errors import MalformedKeyring, WrongPassphrase
from soledad.model.ids import user_id
from tests.vectors import load
from tests.vectors.make import CODE, FAST, KEY, ROOT, USER, Counter


def credential_of(case: dict[str, Any]) -> Credential:
    """Return the secret that a vector is opened with."""
    if "passphrase" in case:
        return Passphrase(case["passphrase"])
    if "recovery_code" in case:
        return RecoveryCode.parse(case["recovery_code"])
    return HandedInKey(bytes.fromhex(case["key"]))


class VectorTests(SynchronousTestCase):
    """The files of vectors mean the same to everyone."""

    def test_open(self) -> None:
        """What must open does, to the keys told."""
        for case in load("keyring.json", "open"):
            keyring = unlock(user_id(case["uuid"]), b64decode(case["file"]), credential_of(case))
            held = keyring.keyring
            self.assertEqual(
                (held.generation, held.names_key.hex(), held.digest_key.hex(), held.current_id.hex()),
                (case["generation"], case["names_key"], case["digest_key"], case["current"]),
            )
            roots = {
                key_id.hex(): {"secret": root.secret.hex(), "account_id": root.account_id.hex()}
                for key_id, root in held.roots.items()
            }
            self.assertEqual(roots, case["roots"])
            databases = {database.value: keyring.database_key(database).hex() for database in Database}
            self.assertEqual(databases, case["database_keys"])

    def test_refuse(self) -> None:
        """What must not open does not, for the reason given."""
        for case in load("keyring.json", "refuse"):
            with self.assertRaises(getattr(errors, case["error"]), msg=case["name"]):
                unlock(user_id(case["uuid"]), b64decode(case["file"]), credential_of(case))


class FileTests(SynchronousTestCase):
    """The bytes of the file."""

    def setUp(self) -> None:
        """Make a small keyring."""
        self.entropy = Counter("keyring")
        self.keyring = create(USER, KEY, self.entropy)
        self.data = self.keyring.seal(self.entropy)

    def test_round_trip(self) -> None:
        """It opens to what it was made of, each time it is sealed."""
        again = self.keyring.seal(self.entropy)
        self.assertNotEqual(again, self.data)
        self.assertEqual(unlock(USER, self.data, KEY), self.keyring)
        self.assertEqual(unlock(USER, again, KEY), self.keyring)

    def test_every_byte(self) -> None:
        """A flipped bit in any byte is told from a wrong secret: the file is damaged."""
        for at in range(len(self.data)):
            damaged = self.data[:at] + bytes((self.data[at] ^ 1,)) + self.data[at + 1 :]
            with self.assertRaises(MalformedKeyring, msg=str(at)):
                unlock(USER, damaged, KEY)

    def test_every_cut(self) -> None:
        """So is a file that ends early, anywhere."""
        for size in range(len(self.data)):
            with self.assertRaises(MalformedKeyring, msg=str(size)):
                unlock(USER, self.data[:size], KEY)

    def test_too_long(self) -> None:
        """More than any keyring has is not looked at."""
        with self.assertRaises(MalformedKeyring) as caught:
            parse_file(bytes(2**20 + 1))
        self.assertEqual(caught.exception.reason, "too long")

    def test_not_shown(self) -> None:
        """No key is in the text of any object."""
        held = self.keyring.keyring
        secrets = [self.keyring.key.secret, self.keyring.device_key, held.names_key, held.digest_key]
        secrets += [root.secret for root in held.roots.values()]
        shown = repr((self.keyring, held, KEY, CODE, parse_file(self.data)))
        for secret in secrets:
            self.assertNotIn(repr(secret)[2:-1], shown)
            self.assertNotIn(secret.hex(), shown)


class BodyTests(SynchronousTestCase):
    """The sealed part that all devices share."""

    def setUp(self) -> None:
        """Make a keyring with two roots."""
        self.entropy = Counter("body")
        keyring = create(USER, KEY, self.entropy)
        roots = {**keyring.keyring.roots, ROOT.key_id: ROOT}
        self.keyring = keyring.resealed(evolve(keyring.keyring, roots=roots), (), self.entropy)

    def test_shared_part(self) -> None:
        """What the server keeps is enough to have the keys of the account, with the keyring key."""
        shared = SharedPart.parse(self.keyring.shared.encode())
        self.assertEqual(open_body(USER, shared, self.keyring.key), self.keyring.keyring)
        self.assertNotIn(self.keyring.device_key, shared.encode())

    def test_other_user(self) -> None:
        """A body opens for its own user only."""
        shared = self.keyring.shared
        with self.assertRaises(MalformedKeyring):
            open_body(user_id("user-2"), shared, self.keyring.key)

    def test_other_slots(self) -> None:
        """Slots that were added by someone without the keyring key are noticed."""
        shared = self.keyring.shared
        slot = CODE.wrap(USER, self.keyring.key, self.entropy)
        with self.assertRaises(MalformedKeyring):
            open_body(USER, evolve(shared, slots=(slot,)), self.keyring.key)

    def test_malformed(self) -> None:
        """A body that contradicts itself is refused, though it was sealed."""
        held, digest = self.keyring.keyring, b"h" * 32
        good = held.encode(digest)
        roots = [held.roots[key_id] for key_id in sorted(held.roots)]
        encoded = [root.account_id + root.secret for root in roots]
        self.assertEqual(Keyring.parse(good, digest), held)
        for name, bad in {
            "generation 0": bytes(8) + good[8:],
            "no roots": good[:72] + b"\0\0" + held.current_id + digest,
            "the same root twice": good[:74] + encoded[0] * 2 + good[74 + 96 :],
            "roots in another order": good[:74] + encoded[1] + encoded[0] + good[74 + 96 :],
            "a current root that is not there": good[: 74 + 96] + b"nobody's" + digest,
            "cut": good[:-1],
            "more": good + b"\0",
            "nothing": b"",
        }.items():
            with self.assertRaises(MalformedKeyring, msg=name):
                Keyring.parse(bad, digest)

    def test_slots_of_a_shared_part(self) -> None:
        """Four slots for passphrases, or two with one id, are refused before any is tried."""
        passphrase = Slot(SlotType.PASSPHRASE, bytes(16), encode_argon2(FAST), bytes(16), bytes(12), bytes(48))
        slots = [evolve(passphrase, slot_id=bytes((number,)) * 16) for number in range(4)]
        three = SharedPart(tuple(slots[:3]), b"body")
        self.assertEqual(SharedPart.parse(three.encode()), three)
        for count, bad in ((4, slots), (2, slots[:1] * 2)):
            with self.assertRaises(MalformedKeyring):
                SharedPart.parse(bytes((1, count)) + b"".join(slot.encode() for slot in bad) + b"body")


class PassphraseChangeTests(SynchronousTestCase):
    """Another passphrase for the same keys."""

    def opened(self, keyring: OpenKeyring, credential: Credential) -> OpenKeyring:
        """Return the keyring after a round through its file."""
        return unlock(USER, keyring.seal(Counter("change")), credential)

    def test_change(self) -> None:
        """The new one opens the next generation of the same keys, the old one nothing."""
        entropy = Counter("passphrase")
        old, new = Passphrase("old", FAST), Passphrase("new", FAST)
        first = create(USER, old, entropy)
        second = first.with_passphrase(new, entropy)
        opened = self.opened(second, new)
        self.assertEqual(opened, second)
        self.assertEqual(opened.keyring, evolve(first.keyring, generation=2))
        self.assertEqual((opened.key, opened.device_key), (first.key, first.device_key))
        self.assertEqual(len(opened.slots), 1)
        with self.assertRaises(WrongPassphrase):
            self.opened(second, old)

    def test_other_slots_stay(self) -> None:
        """All slots for passphrases are replaced, so that none of them opens it any more; a recovery code does."""
        entropy = Counter("others")
        first = create(USER, CODE, entropy)
        slot = Slot(SlotType.PASSPHRASE, b"p" * 16, encode_argon2(FAST), bytes(16), bytes(12), bytes(48))
        three = first.resealed(first.keyring, (*first.slots, slot, evolve(slot, slot_id=b"q" * 16)), entropy)
        changed = three.with_passphrase(Passphrase("new", FAST), entropy)
        self.assertEqual([slot.type for slot in changed.slots], [SlotType.RECOVERY, SlotType.PASSPHRASE])
        self.assertEqual(self.opened(changed, CODE).keyring, changed.keyring)

    def test_recovery_code(self) -> None:
        """A recovery code replaces the one before, and nothing else; the store is still the one of its passphrase."""
        entropy = Counter("code")
        slot = Slot(SlotType.PASSPHRASE, b"p" * 16, encode_argon2(FAST), bytes(16), bytes(12), bytes(48))
        keyring = create(USER, KEY, entropy)
        keyring = evolve(keyring.resealed(keyring.keyring, (slot,), entropy), slot_id=slot.slot_id)
        second = keyring.with_recovery_code(CODE, entropy).with_recovery_code(RecoveryCode(b"n" * 16), entropy)
        self.assertEqual((second.slot_id, second.keyring.generation), (slot.slot_id, 3))
        self.assertEqual(second.slots[0], slot)
        self.assertEqual(len(second.slots), 2)
        self.assertEqual(self.opened(second, RecoveryCode(b"n" * 16)).keyring, second.keyring)
        with self.assertRaises(WrongPassphrase):
            self.opened(second, CODE)

    def test_too_many(self) -> None:
        """The ninth slot is refused, when it is made as when it is read."""
        entropy = Counter("many")
        keyring = create(USER, KEY, entropy)
        slots = tuple(RecoveryCode(bytes((number,)) * 16).wrap(USER, keyring.key, entropy) for number in range(9))
        keyring = keyring.resealed(keyring.keyring, slots[:8], entropy)
        self.assertEqual(len(self.opened(keyring, RecoveryCode(b"\7" * 16)).slots), 8)
        with self.assertRaises(MalformedKeyring):
            keyring.resealed(keyring.keyring, slots, entropy)
        shared, device = parse_file(keyring.seal(entropy))
        nine = bytearray(encode_file(shared, device))
        nine[10] = 9
        with self.assertRaises(MalformedKeyring):
            SharedPart.parse(bytes(nine[9:]))

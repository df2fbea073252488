"""Tests of what becomes of two keyrings of one user."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from soledad.crypto.keyring import Known, OpenKeyring, create, open_shared, unlock
from soledad.crypto.merging import Standing, adopt, compare, join, merge
from soledad.crypto.slots import HandedInKey, RecoveryCode, Slot, SlotType, encode_argon2
from soledad.errors import KeyringRolledBack, MalformedKeyring
from tests.vectors.make import CODE, FAST, KEY, USER, Counter

OTHER_CODE = RecoveryCode(b"some other code.")


class Case(SynchronousTestCase):
    """A keyring that the server has, too."""

    def setUp(self) -> None:
        """Make it."""
        self.entropy = Counter("merging")
        self.base = create(USER, CODE, self.entropy).backed_up()

    def rotated(self, keyring: OpenKeyring, times: int = 1) -> OpenKeyring:
        """Return a keyring after new roots."""
        for _ in range(times):
            keyring = keyring.with_new_root(self.entropy)
        return keyring


class StandingTests(Case):
    """How the server's keyring stands to this device's."""

    def test_same(self) -> None:
        """The same bytes are the same keyring, known or not."""
        for mine in (self.base, evolve(self.base, known=None)):
            self.assertIs(compare(mine, self.base.shared), Standing.SAME)

    def test_older(self) -> None:
        """What the server had when it was last seen, this device may replace."""
        self.assertIs(compare(self.rotated(self.base), self.base.shared), Standing.OLDER)

    def test_newer(self) -> None:
        """A later body is taken."""
        newer = self.rotated(self.base, 2)
        self.assertIs(compare(self.base, newer.shared), Standing.NEWER)
        adopted = adopt(self.base, newer.shared)
        self.assertEqual(adopted, newer.backed_up())
        self.assertEqual(unlock(USER, adopted.seal(self.entropy), CODE), adopted)

    def test_newer_without_a_root(self) -> None:
        """A later body that lacks a root is not taken as it is: what is sealed under it stays readable."""
        more = self.rotated(self.base)
        mine, theirs = self.rotated(more).backed_up(), self.rotated(more, 2)
        self.assertIs(compare(mine, theirs.shared), Standing.DIVERGED)

    def test_rolled_back(self) -> None:
        """An older body than the known one, or another of the same generation, is an attack or a restored server."""
        mine = self.rotated(self.base, 2).backed_up()
        for theirs, generation in ((self.base, 1), (self.rotated(self.base), 2), (self.rotated(self.base, 2), 3)):
            with self.assertRaises(KeyringRolledBack) as caught:
                compare(mine, theirs.shared)
            self.assertEqual((caught.exception.found, caught.exception.known), (generation, 3))

    def test_diverged(self) -> None:
        """Two changes of one keyring, made apart."""
        self.assertIs(compare(self.rotated(self.base), self.rotated(self.base).shared), Standing.DIVERGED)
        unknown = evolve(self.base, known=None)
        self.assertIs(compare(unknown, self.rotated(self.base).shared), Standing.DIVERGED)

    def test_foreign(self) -> None:
        """Another keyring key is another beginning, whatever generation it has."""
        other = self.rotated(create(USER, KEY, self.entropy), 5)
        self.assertIs(compare(self.base, other.shared), Standing.FOREIGN)

    def test_not_ours(self) -> None:
        """A body that claims to be under the keyring key, and is not, is refused."""
        forged = evolve(self.base.shared, body=self.base.shared.body[:-1] + b"\0")
        with self.assertRaises(MalformedKeyring):
            compare(self.rotated(self.base), forged)


class JoinTests(Case):
    """Two keyrings of one key."""

    def joined(self, mine: OpenKeyring, theirs: OpenKeyring) -> OpenKeyring:
        """Join them, and see that the result can replace the server's."""
        joined = join(mine, theirs.shared, self.entropy)
        self.assertEqual(joined.known, Known(theirs.keyring.generation, theirs.shared.digest))
        self.assertEqual(joined.keyring.generation, max(mine.keyring.generation, theirs.keyring.generation) + 1)
        self.assertLessEqual({*mine.roots, *theirs.roots}, set(joined.roots))
        self.assertEqual(joined.device_key, mine.device_key)
        opened = unlock(USER, joined.seal(self.entropy), HandedInKey(mine.key.secret))
        self.assertEqual(evolve(opened, slot_id=joined.slot_id), joined)
        return joined

    def test_current(self) -> None:
        """The root that one of them changed to is current; of two such, the server's."""
        mine, theirs = self.rotated(self.base), self.rotated(self.base)
        relabelled = self.base.with_recovery_code(OTHER_CODE, self.entropy)
        self.assertEqual(self.joined(mine, theirs).current, theirs.current)
        self.assertEqual(self.joined(mine, relabelled).current, mine.current)
        self.assertEqual(self.joined(relabelled, theirs).current, theirs.current)

    def test_slots(self) -> None:
        """Whatever opened either opens the result."""
        mine = self.base.with_recovery_code(OTHER_CODE, self.entropy)
        joined = self.joined(mine, self.rotated(self.base))
        for code in (CODE, OTHER_CODE):
            self.assertEqual(open_shared(USER, joined.shared, code, b"").keyring, joined.keyring)

    def test_too_many_slots(self) -> None:
        """Of passphrases there are three at most, this device's first."""
        slots = [Slot(SlotType.PASSPHRASE, bytes((n,)) * 16, encode_argon2(FAST), bytes(16), bytes(12), bytes(48))
                 for n in range(5)]  # fmt: skip
        mine = self.base.resealed(self.rotated(self.base).keyring, tuple(slots[:2]), self.entropy)
        theirs = self.base.resealed(self.rotated(self.base).keyring, tuple(slots[1:4]), self.entropy)
        self.assertEqual(self.joined(mine, theirs).slots, tuple(slots[:3]))


class MergeTests(Case):
    """Two keyrings that began apart."""

    def setUp(self) -> None:
        """Make the server's, and this device's."""
        super().setUp()
        self.mine = self.rotated(create(USER, OTHER_CODE, self.entropy), 2)
        self.theirs = open_shared(USER, self.rotated(self.base).shared, CODE, b"")

    def test_merge(self) -> None:
        """The server's account keys, current root and slots; the roots of both; this device's key."""
        merged = merge(self.mine, self.theirs, self.entropy)
        held = merged.keyring
        self.assertEqual((held.names_key, held.digest_key), (self.base.keyring.names_key, self.base.keyring.digest_key))
        self.assertEqual((held.account, held.current_id), (self.base.keyring.account, self.theirs.keyring.current_id))
        self.assertEqual(held.roots, {**self.mine.roots, **self.theirs.roots})
        self.assertEqual(held.generation, 4)
        self.assertEqual((merged.key, merged.slots), (self.base.key, self.theirs.slots))
        self.assertEqual(merged.device_key, self.mine.device_key)
        self.assertEqual(merged.known, Known(2, self.theirs.shared.digest))
        self.assertEqual(unlock(USER, merged.seal(self.entropy), CODE), merged)

    def test_again(self) -> None:
        """What has all roots already is taken as it is: this device was killed between the server and its file."""
        merged = merge(self.mine, self.theirs, self.entropy)
        again = merge(self.mine, open_shared(USER, merged.shared, CODE, b""), self.entropy)
        self.assertEqual(again, merged.backed_up())
        self.assertTrue(again.is_backed_up)

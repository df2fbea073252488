"""Tests of the secrets that open slots."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.crypto.cipher import KeyMaterial
from soledad.crypto.slots import Fields, Passphrase, RecoveryCode, Slot
from soledad.errors import InvalidPassphrase, InvalidRecoveryCode, WrongPassphrase
from soledad.model.ids import user_id
from tests.vectors.make import Counter

USER = user_id("user-1")


class PassphraseTests(SynchronousTestCase):
    """What a person types."""

    def test_refused(self) -> None:
        """Nothing, half a character and what is not text are the caller's mistake; the error does not show them."""
        for bad in ("", "secret\ud800", b"secret", None):
            with self.assertRaises(InvalidPassphrase) as caught:
                Passphrase(bad)  # type: ignore[arg-type]
            self.assertNotIn("secret", repr((caught.exception, str(caught.exception))))
            self.assertIs(caught.exception.__cause__, None)

    def test_not_shown(self) -> None:
        """The text of the object does not have it."""
        self.assertNotIn("secret", repr(Passphrase("secret")))


class RecoveryCodeTests(SynchronousTestCase):
    """What a person keeps on paper."""

    def test_text(self) -> None:
        """Eight groups of four characters, the last of which check the others."""
        self.assertEqual(RecoveryCode(bytes(16)).as_text(), "AAAA-AAAA-AAAA-AAAA-AAAA-AAAA-AAX4-FYVQ")

    @given(st.binary(min_size=16, max_size=16))
    def test_read_back(self, secret: bytes) -> None:
        """It is read as it is written, in small letters, without hyphens, and with digits for letters."""
        code = RecoveryCode(secret)
        text = code.as_text()
        for copied in (text, text.lower(), text.replace("-", " "), text.replace("O", "0").replace("L", "1")):
            self.assertEqual(RecoveryCode.parse(copied), code)

    def test_mistyped(self) -> None:
        """Every single character counts."""
        text = RecoveryCode(bytes(range(16))).as_text()
        for at, letter in enumerate(text):
            if letter != "-":
                wrong = text[:at] + ("B" if letter != "B" else "C") + text[at + 1 :]
                for bad in (wrong, text[:at] + text[at + 1 :]):
                    with self.assertRaises(InvalidRecoveryCode):
                        RecoveryCode.parse(bad)
        for bad in ("", "é" * 32, text + "AAAAAAAA", "=" * 32):
            with self.assertRaises(InvalidRecoveryCode):
                RecoveryCode.parse(bad)

    def test_slot(self) -> None:
        """It opens its own slot, among others and for this user, and nothing else."""
        entropy = Counter("slots")
        key = KeyMaterial(b"k" * 32)
        codes = [RecoveryCode.random(entropy) for _ in range(2)]
        slots = [code.wrap(USER, key, entropy) for code in codes]
        for code, slot in zip(codes, slots, strict=True):
            self.assertEqual(code.find_key(USER, slots, b""), (key, slot.slot_id))
        with self.assertRaises(WrongPassphrase):
            codes[0].find_key(USER, slots[1:], b"")
        with self.assertRaises(WrongPassphrase):
            codes[0].find_key(user_id("user-2"), slots, b"")

    def test_every_byte_of_a_slot(self) -> None:
        """All fields of a slot are authenticated: one that was changed does not open."""
        entropy = Counter("slots")
        code = RecoveryCode.random(entropy)
        slot = code.wrap(USER, KeyMaterial(b"k" * 32), entropy)
        encoded = slot.encode()
        self.assertEqual(Slot.parse(Fields(encoded)), slot)
        # The type and the length of the parameters change how it is read: the keyring's tests have these.
        for at in set(range(1, len(encoded))) - {17}:
            changed = encoded[:at] + bytes((encoded[at] ^ 1,)) + encoded[at + 1 :]
            with self.assertRaises(WrongPassphrase, msg=str(at)):
                code.find_key(USER, [Slot.parse(Fields(changed))], b"")

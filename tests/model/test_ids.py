"""Identifiers: what is one, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import InvalidDocId, InvalidIdentifier
from soledad.model import ids

#: What no identifier may have in it.
NEVER = ("", "a/b", "../b", "a\0", "a\n", "\na", "a b", "ä", "\uff21", "\u0661", "a\ud800", "a%2f", None, 7, b"a")


class FormTests(SynchronousTestCase):
    """Each form: the shortest, the longest, one more, and what is never one."""

    def check(self, parse: Callable[[object], str], good: tuple[str, ...], bad: tuple[object, ...]) -> None:
        """See that ``parse`` takes what is good as it is, and refuses what is bad."""
        for text in good:
            self.assertEqual(parse(text), text)
        for value in bad:
            with self.assertRaises(InvalidIdentifier, msg=repr(value)):
                parse(value)

    def test_user_id(self) -> None:
        """1 to 64 letters, digits, underscores and hyphens."""
        self.check(ids.user_id, ("a", "-", "_Az09", "x" * 64), ("x" * 65, "a.b", *NEVER))

    def test_blob_id(self) -> None:
        """1 to 128 letters, digits, underscores and hyphens."""
        self.check(ids.blob_id, ("a", "-_Az09", "x" * 128), ("x" * 129, "a.b", "..", *NEVER))

    def test_namespace(self) -> None:
        """1 to 64 lower-case letters, digits, underscores and hyphens, the first no mark."""
        self.check(ids.namespace, ("a", "0", "a-_9", "x" * 64, "default"), ("x" * 65, "-a", "_a", "A", "aB", *NEVER))

    def test_doc_id(self) -> None:
        """Letters, digits and ``. % _ -``, any number but none."""
        for text in ("a", "D-0.%_", "x" * 10_000):
            self.assertEqual(ids.doc_id(text), text)
        for value in NEVER:
            if value != "a%2f":
                with self.assertRaises(InvalidDocId, msg=repr(value)):
                    ids.doc_id(value)

    def test_attachment_name(self) -> None:
        """Any text that is text, up to 255 characters."""
        self.check(ids.attachment_name, ("a", "ä/b\n", "x" * 255), ("", "x" * 256, "\ud800", None, b"a"))

    @given(st.text(), st.sampled_from([ids.user_id, ids.blob_id, ids.namespace]))
    def test_safe_in_paths(self, text: str, parse: Callable[[object], str]) -> None:
        """What is an identifier needs no quoting, in a path, a URL or a header."""
        try:
            parsed = parse(text)
        except InvalidIdentifier:
            return
        self.assertTrue(parsed.isascii())
        self.assertTrue(parsed.replace("-", "").replace("_", "").isalnum() or not parsed.strip("-_"))

    def test_errors_are_short(self) -> None:
        """An error shows some of a bad identifier, and of what is no text only the type."""
        self.assertLess(len(str(self.assertRaises(InvalidIdentifier, ids.user_id, "ä" * 10_000))), 300)
        self.assertIn("bytes", str(self.assertRaises(InvalidIdentifier, ids.user_id, b"secret")))
        self.assertNotIn("secret", str(self.assertRaises(InvalidIdentifier, ids.user_id, b"secret")))


class RandomTests(SynchronousTestCase):
    """Identifiers made of random bytes."""

    def test_forms(self) -> None:
        """Sixteen bytes make each of them; they are what they say."""
        entropy = bytes(range(16))
        digits = "000102030405060708090a0b0c0d0e0f"
        self.assertEqual(ids.random_doc_id(entropy), ids.doc_id("D-" + digits))
        self.assertEqual(ids.random_transaction_id(entropy), "T-" + digits)
        self.assertEqual(ids.random_blob_id(entropy), ids.blob_id(digits))
        self.assertEqual(ids.random_replica_id(entropy), digits)

    def test_too_little(self) -> None:
        """Fewer or more bytes are a mistake."""
        for size in (0, 15, 17):
            with self.assertRaises(ValueError):
                ids.random_blob_id(bytes(size))

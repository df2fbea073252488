"""Tests of the sealed statement that a blob is to go."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from soledad.crypto.container import KeyMaterial, seal
from soledad.crypto.tombstone import MOST, deleted_by, open_tombstone, seal_tombstone, tombstone_context
from soledad.errors import AuthenticationFailed, CryptoError, MalformedContainer, UnknownKey
from soledad.model.blob import BlobKey
from soledad.model.ids import DEFAULT, BlobId, Namespace
from soledad.wire.routes import TOMBSTONE_LIMIT

ROOT, OTHER = KeyMaterial(bytes(range(32)), bytes(16)), KeyMaterial(bytes(32), bytes(16))
KEYS = {ROOT.key_id: ROOT}
KEY = BlobKey(DEFAULT, BlobId("a"))
SALT = bytes(24)
ONE, TWO = b"1" * 32, b"2" * 32


class TombstoneTests(SynchronousTestCase):
    """Source: docs/spec/tombstone.rst."""

    def test_named(self) -> None:
        """What is named comes out, each once; one commitment is enough."""
        sealed = seal_tombstone(ROOT, KEY, SALT, [ONE, TWO, ONE])
        self.assertEqual(open_tombstone(KEYS, KEY, sealed), {ONE, TWO})
        self.assertEqual(deleted_by(KEYS, KEY, seal_tombstone(ROOT, KEY, SALT, [ONE])), {ONE})

    def test_size(self) -> None:
        """The longest is one that a server takes."""
        longest = seal_tombstone(ROOT, KEY, SALT, [bytes([number]) * 32 for number in range(MOST)])
        self.assertLess(len(longest), TOMBSTONE_LIMIT)
        self.assertEqual(len(longest), 2144)
        self.assertEqual(len(open_tombstone(KEYS, KEY, longest)), MOST)

    def test_elsewhere(self) -> None:
        """It opens for its namespace, its id and its account only, and says nothing anywhere else."""
        sealed = seal_tombstone(ROOT, KEY, SALT, [ONE])
        for key in (BlobKey(Namespace("mails"), KEY.blob_id), BlobKey(DEFAULT, BlobId("b"))):
            self.assertRaises(AuthenticationFailed, open_tombstone, KEYS, key, sealed)
            self.assertEqual(deleted_by(KEYS, key, sealed), frozenset())
        self.assertRaises(UnknownKey, open_tombstone, {OTHER.key_id: OTHER}, KEY, sealed)

    def test_damaged(self) -> None:
        """Any other bytes are no tombstone."""
        sealed = seal_tombstone(ROOT, KEY, SALT, [ONE])
        for at in range(len(sealed)):
            changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
            self.assertRaises(CryptoError, open_tombstone, KEYS, KEY, changed)
            self.assertEqual(deleted_by(KEYS, KEY, changed), frozenset())
        for nothing in (None, b"", sealed[:-1], sealed + b"\0"):
            self.assertEqual(deleted_by(KEYS, KEY, nothing), frozenset())

    def test_lengths(self) -> None:
        """What is sealed, but is not commitments, is no tombstone; and none is made of it."""
        for data in (b"", bytes(31), bytes(33), bytes(32 * (MOST + 1))):
            sealed = seal(ROOT, tombstone_context(KEY), SALT, data)
            self.assertRaises(MalformedContainer, open_tombstone, KEYS, KEY, sealed)
        for named in ([], [b"short"], [bytes([number]) * 32 for number in range(MOST + 1)]):
            self.assertRaises(ValueError, seal_tombstone, ROOT, KEY, SALT, named)

"""Tests of key derivation."""

from __future__ import annotations

import hmac
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.crypto.kdf import Argon2Parameters, Database, Mac, database_key, effective_salt, hkdf, info_list, key_id
from soledad.errors import MalformedKeyring
from soledad.model.ids import user_id


class HKDFTests(SynchronousTestCase):
    """One key from another."""

    def test_rfc_5869(self) -> None:
        """The first test case of the RFC."""
        okm = hkdf(b"\x0b" * 22, 42, bytes(range(0xF0, 0xFA)), bytes(range(13)))
        self.assertEqual(
            okm.hex(),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        )

    def test_key_id(self) -> None:
        """Public names of keys are derived by HKDF, with an empty salt, from an info list of one field."""
        extracted = hmac.digest(bytes(32), b"k" * 32, "sha256")
        expected = hmac.digest(extracted, b"\x00\x0esoledad/key-id\1", "sha256")[:8]
        self.assertEqual(key_id(b"k" * 32), expected)

    def test_database_keys(self) -> None:
        """Each database has a key of its own, and none is the device key."""
        keys = {database_key(b"d" * 32, database) for database in Database}
        self.assertEqual((len(keys), {len(key) for key in keys}), (2, {32}))
        self.assertNotIn(b"d" * 32, keys)


class MacTests(SynchronousTestCase):
    """Codes of many messages under one key."""

    @given(st.binary(max_size=100), st.lists(st.binary(max_size=200), max_size=3))
    def test_same(self, key: bytes, messages: list[bytes]) -> None:
        """Each is that of HMAC-SHA256, whatever came before."""
        mac = Mac(key)
        for message in messages:
            self.assertEqual(mac.of(message), hmac.digest(key, message, "sha256"))


#: What a process does that may have only so many bytes, and asks for more.
_SMALL = """
import resource
from soledad.crypto.kdf import Argon2Parameters
from soledad.errors import NotEnoughMemory
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
try:
    Argon2Parameters(memory=1 << 20).derive(b"secret", bytes(32))
except NotEnoughMemory as error:
    print(error.needed, error.__cause__, "secret" in str(error))
"""


class MemoryTests(SynchronousTestCase):
    """A machine that has not what is asked for."""

    def test_not_enough(self) -> None:
        """It is told how many bytes it takes."""
        done = subprocess.run([sys.executable, "-c", _SMALL], capture_output=True, text=True, check=True, timeout=50)
        self.assertEqual(done.stdout, f"{1 << 30} None False\n")


class InfoListTests(SynchronousTestCase):
    """The list of fields that is derived with."""

    def test_bytes(self) -> None:
        """Each field comes after its length in two bytes; text is UTF-8."""
        self.assertEqual(info_list("soledad/x", b"", "é"), b"\0\x09soledad/x\0\0\0\2\xc3\xa9")

    @given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
    def test_one_to_one(self, one: list[bytes], two: list[bytes]) -> None:
        """No two lists have the same bytes."""
        self.assertEqual(info_list(*one) == info_list(*two), one == two)


class Argon2Tests(SynchronousTestCase):
    """The key of a passphrase."""

    def test_ranges(self) -> None:
        """The borders are accepted, and what is beyond them is not."""
        mib = 1024
        for memory, passes, lanes in ((64 * mib, 3, 1), (1024 * mib, 10, 4)):
            Argon2Parameters(memory, passes, lanes)
        for memory, passes, lanes in (
            (64 * mib - 1, 3, 1),
            (1024 * mib + 1, 3, 1),
            (64 * mib, 2, 1),
            (64 * mib, 11, 1),
            (64 * mib, 3, 0),
            (64 * mib, 3, 5),
        ):
            with self.assertRaises(MalformedKeyring):
                Argon2Parameters(memory, passes, lanes)

    def test_default(self) -> None:
        """128 MiB, 3 passes and 1 lane, unless told otherwise."""
        self.assertEqual(Argon2Parameters(), Argon2Parameters(memory=131072, passes=3, lanes=1))

    def test_effective_salt(self) -> None:
        """User, type of slot and salt each make it another."""
        one, two = user_id("one"), user_id("two")
        salts = {effective_salt(*each) for each in ((one, 1, b"s"), (two, 1, b"s"), (one, 2, b"s"), (one, 1, b"t"))}
        self.assertEqual(len(salts), 4)

"""Tests of the container's inside: what is sealed opens, and nothing else does."""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Callable, Iterator
from hashlib import sha256
from itertools import pairwise
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad import errors
from soledad.crypto.container import (
    Chunks,
    Context,
    KeyMaterial,
    Opener,
    RangeOpener,
    Sealer,
    open_,
    seal,
    tail_place,
)
from soledad.errors import AuthenticationFailed, CryptoError, InvalidRange, MalformedContainer, UnknownKey
from soledad.model.blob import ByteRange
from soledad.wire.container import HEADER_SIZE, Layout, Purpose, sealed_size
from tests.limits import examples
from tests.vectors import load
from tests.vectors.make import pattern

ROOT = KeyMaterial(b"r" * 32, b"account id 16 by")
KEYS = {ROOT.key_id: ROOT}
BLOB = Context(Purpose.BLOB, "default", "blob-1")
SALT = b"s" * 24
CHUNK = 2**16
INLINE = 262144


def opened_by_the_book(secret: bytes, account: bytes, labels: tuple[str, str, str], container: bytes) -> bytes:
    """Open a container, following the specification and nothing of the code under test; no error is told apart."""

    def fields(*items: bytes) -> bytes:
        return b"".join(len(item).to_bytes(2, "big") + item for item in items)

    def hkdf(salt: bytes, info: bytes, length: int) -> bytes:
        extracted = hmac.digest(salt or bytes(32), secret, "sha256")
        block, okm = b"", b""
        for count in range(1, 9):
            block = hmac.digest(extracted, block + info + bytes((count,)), "sha256")
            okm += block
        return okm[:length]

    purpose, namespace, name = (label.encode() for label in labels)
    assert container[:6] == b"SLDC\1\1" and container[7] == 0
    assert container[8:16] == hkdf(b"", fields(b"soledad/key-id"), 8)
    okm = hkdf(container[16:40], fields(purpose, container[:16], account, namespace, name), 76)
    assert okm[44:] == container[40:72]
    size, nonce, stream = 1 << container[6], int.from_bytes(okm[32:44], "big"), b""
    sealed = [container[at : at + size + 16] for at in range(72, len(container), size + 16)]
    for index, chunk in enumerate(sealed):
        stream += AESGCM(okm[:32]).decrypt((nonce ^ index).to_bytes(12, "big"), chunk, None)
    assert len(stream) // size + 1 == len(sealed)
    length = int.from_bytes(stream[-8:], "big")
    assert not any(stream[length:-8])
    return stream[:length]


def argument(case: dict[str, Any], name: str) -> bytes | None:
    """Return an optional field of a vector."""
    return bytes.fromhex(case[name]) if case[name] else None


def open_vector(case: dict[str, Any], whole: bool) -> bytes:
    """Open a vector, at once or byte by byte."""
    material = KeyMaterial(bytes.fromhex(case["secret"]), bytes.fromhex(case["account_id"]))
    purpose = next(purpose for purpose in Purpose if purpose.label == case["purpose"])
    context = Context(purpose, case["namespace"], case["id"])
    container = b64decode(case["container"])
    expected = argument(case, "expected_commitment")
    keys = {material.key_id: material}
    if whole or case["length"] is None:
        return open_(keys, context, container, case["length"], expected)
    opener = Opener(keys, context, case["length"], expected)
    return b"".join(opener.feed(container[at : at + 1]) for at in range(len(container))) + opener.finish()


class VectorTests(SynchronousTestCase):
    """The files of vectors mean the same to everyone."""

    def test_open(self) -> None:
        """What must open does, in one piece and byte by byte, and by the book."""
        for case in load("container.json", "open"):
            data = b64decode(case["data"])
            labels = case["purpose"], case["namespace"], case["id"]
            secret, account = bytes.fromhex(case["secret"]), bytes.fromhex(case["account_id"])
            container = b64decode(case["container"])
            self.assertEqual(opened_by_the_book(secret, account, labels, container), data, case["name"])
            self.assertEqual(open_vector(case, whole=True), data, case["name"])
            self.assertEqual(open_vector(case, whole=False), data, case["name"])

    def test_refuse(self) -> None:
        """What must not open does not, for the reason given, in one piece and byte by byte."""
        for case in load("container.json", "refuse"):
            for whole in (True, False):
                with self.assertRaises(getattr(errors, case["error"]), msg=case["name"]) as caught:
                    open_vector(case, whole)
                if case["chunk"] is not None and isinstance(caught.exception, AuthenticationFailed):
                    self.assertEqual(caught.exception.chunk, case["chunk"], case["name"])


def splits(size: int) -> st.SearchStrategy[list[int]]:
    """Return ways to cut ``size`` bytes: the places to cut at, with both ends."""
    inner = st.lists(st.integers(0, size), max_size=8)
    return inner.map(lambda places: [0, *sorted(places), size])


def cut(data: bytes, places: list[int]) -> Iterator[bytes]:
    """Yield the pieces between the places."""
    for start, stop in pairwise(places):
        yield data[start:stop]


class RoundTripTests(SynchronousTestCase):
    """What was sealed comes back."""

    def test_sizes(self) -> None:
        """Nothing, one byte, and the sizes around each border, with the length known and not."""
        for length in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, INLINE, INLINE + 1):
            data = pattern(length)
            container = seal(ROOT, BLOB, SALT, data)
            self.assertEqual(len(container), sealed_size(length, BLOB.purpose.floor))
            self.assertEqual(open_(KEYS, BLOB, container), data)
            self.assertEqual(open_(KEYS, BLOB, container, length), data)

    @settings(max_examples=examples(100))
    @given(st.data(), st.integers(0, 10000))
    def test_any_split(self, data: st.DataObject, length: int) -> None:
        """However the data comes and the network cuts the container, both are the same."""
        plain = pattern(length)
        sealer = Sealer(ROOT, BLOB, SALT, 12)
        pieces = [sealer.seal(piece) for piece in cut(plain, data.draw(splits(length)))]
        container = b"".join((sealer.header, *pieces, *sealer.tail()))
        self.assertEqual(container, seal(ROOT, BLOB, SALT, plain, 12))
        opener = Opener(KEYS, BLOB, length, sealer.commitment)
        opened = [opener.feed(piece) for piece in cut(container, data.draw(splits(len(container))))]
        self.assertEqual(b"".join(opened) + opener.finish(), plain)

    def test_buffers(self) -> None:
        """One buffer of the promised room serves any piece, sealing and opening."""
        plain = pattern(300000)
        sealer = Sealer(ROOT, BLOB, SALT)
        out = bytearray(sealer.room(60001))
        container = bytearray(sealer.header)
        for at in range(0, len(plain), 60001):
            container += out[: sealer.seal_into(plain[at : at + 60001], out)]
        container += sealer.finish()
        self.assertEqual(bytes(container), seal(ROOT, BLOB, SALT, plain))
        opener = RangeOpener(Chunks.of_length(KEYS, BLOB, container, len(plain)))
        out = bytearray(opener.room(60001))
        opened = bytearray()
        for at in range(HEADER_SIZE, len(container), 60001):
            opened += out[: opener.feed_into(container[at : at + 60001], out)]
        self.assertEqual(bytes(opened) + opener.finish(), plain)

    def test_small_buffer(self) -> None:
        """A buffer that is too small is told before anything is sealed: the stream goes on as if it had not been."""
        sealer = Sealer(ROOT, BLOB, SALT, 12)
        with self.assertRaises(ValueError):
            sealer.seal_into(pattern(9000), bytearray(sealer.room(9000) - 4113))
        container = sealer.header + sealer.seal(pattern(9000)) + sealer.finish()
        self.assertEqual(container, seal(ROOT, BLOB, SALT, pattern(9000), 12))

    def test_tail_in_pieces(self) -> None:
        """The padding of something large comes in pieces of about a MiB."""
        length = 2**26 + 1
        sealer = Sealer(ROOT, BLOB, SALT)
        # As arithmetic: the sealer believes to have sealed as much.
        sealer.length, sealer._index = 2**26, 2**10
        sealer.seal(b"x")
        pieces = list(sealer.tail())
        self.assertLess(max(map(len, pieces)), 2**21)
        self.assertEqual(72 + 2**10 * 65552 + sum(map(len, pieces)), sealed_size(length, 1024))

    def test_over(self) -> None:
        """After the end nothing more is sealed: its nonce would be one that was used."""
        sealer = Sealer(ROOT, BLOB, SALT)
        sealer.finish()
        for more in (lambda: sealer.seal(b"more"), sealer.finish):
            with self.assertRaises(ValueError):
                more()

    def test_nothing_shown(self) -> None:
        """No key is in the text of any object."""
        sealer = Sealer(ROOT, BLOB, SALT)
        chunks = Chunks.of_length(KEYS, BLOB, sealer.header, 1)
        shown = repr((ROOT, BLOB, sealer, vars(sealer), chunks, vars(chunks), Opener(KEYS, BLOB, 1)))
        self.assertNotIn("rrrr", shown)
        self.assertNotIn("account id", shown)


class TamperingTests(SynchronousTestCase):
    """What was changed does not open."""

    def test_every_byte(self) -> None:
        """A flipped bit in any byte of a small container is noticed, and none of its data is given out."""
        container = bytearray(seal(ROOT, BLOB, SALT, b"secret"))
        for length in (6, None):
            for at in range(len(container)):
                container[at] ^= 1
                with self.assertRaises(CryptoError, msg=str(at)):
                    open_(KEYS, BLOB, container, length)
                container[at] ^= 1
        self.assertEqual(open_(KEYS, BLOB, container), b"secret")

    def test_every_cut(self) -> None:
        """A container that ends early, anywhere, is noticed."""
        container = seal(ROOT, BLOB, SALT, pattern(5000), 12)
        for length in (5000, None):
            for size in range(len(container)):
                with self.assertRaises(CryptoError, msg=str(size)):
                    open_(KEYS, BLOB, container[:size], length)

    def test_only_authentic(self) -> None:
        """Of a container with a bad chunk just what comes before it is given out, and the error stays."""
        container = bytearray(seal(ROOT, BLOB, SALT, pattern(12288), 12))
        container[HEADER_SIZE + 4112] ^= 1
        opener = Opener(KEYS, BLOB, 12288)
        self.assertEqual(opener.feed(container[: HEADER_SIZE + 4112]), pattern(4096))
        for again in (lambda: opener.feed(container[HEADER_SIZE + 4112 :]), opener.finish):
            with self.assertRaises(AuthenticationFailed) as caught:
                again()
            self.assertEqual(caught.exception.chunk, 1)

    def test_buffer_is_wiped(self) -> None:
        """The caller's buffer holds nothing of a chunk that failed."""
        chunks = Chunks.of_length(KEYS, BLOB, seal(ROOT, BLOB, SALT, b"x" * 4096, 12), 4096)
        sealed = bytearray(seal(ROOT, BLOB, SALT, b"x" * 4096, 12)[HEADER_SIZE : HEADER_SIZE + 4112])
        sealed[-1] ^= 1
        out = bytearray(4096)
        with self.assertRaises(AuthenticationFailed):
            chunks.open_into(0, sealed, memoryview(out))
        self.assertEqual(out, bytes(4096))

    def test_other_places(self) -> None:
        """A container of another account, namespace, id, purpose or key opens nowhere else."""
        container = seal(ROOT, BLOB, SALT, b"data")
        for context in (
            Context(Purpose.BLOB, "other", "blob-1"),
            Context(Purpose.BLOB, "default", "blob-2"),
            Context(Purpose.RECORD, "default", "blob-1"),
        ):
            with self.assertRaises(AuthenticationFailed) as caught:
                open_(KEYS, context, container, 4)
            self.assertIs(caught.exception.chunk, None)
        with self.assertRaises(AuthenticationFailed):
            open_({ROOT.key_id: KeyMaterial(ROOT.secret, b"another account!")}, BLOB, container, 4)
        other = KeyMaterial(b"o" * 32, ROOT.account_id)
        with self.assertRaises(UnknownKey) as unknown:
            open_({other.key_id: other}, BLOB, container, 4)
        self.assertEqual(unknown.exception.key_id, ROOT.key_id.hex())
        # Somebody who has both key ids cannot pass off one root for another.
        with self.assertRaises(AuthenticationFailed):
            open_({ROOT.key_id: other}, BLOB, container, 4)

    def test_expected_commitment(self) -> None:
        """An authentic container that is not the one pointed at is refused."""
        one, two = seal(ROOT, BLOB, SALT, b"one."), seal(ROOT, BLOB, b"t" * 24, b"two.")
        self.assertEqual(open_(KEYS, BLOB, one, 4, one[40:72]), b"one.")
        with self.assertRaises(AuthenticationFailed):
            open_(KEYS, BLOB, two, 4, one[40:72])


class RandomAccessTests(SynchronousTestCase):
    """Any part opens by itself."""

    def setUp(self) -> None:
        """Seal three chunks and a bit."""
        self.data = pattern(13000)
        self.container = seal(ROOT, BLOB, SALT, self.data, 12)

    def sealed(self, place: ByteRange) -> bytes:
        """Return bytes of the container."""
        assert place.length is not None
        return self.container[place.start : place.start + place.length]

    def test_behind(self) -> None:
        """From any chunk on, the rest opens and is all there has to be; the same bytes elsewhere do not."""
        chunks = Chunks.of_length(KEYS, BLOB, self.container, 13000)
        for index in chunks.layout.all_chunks:
            opener = RangeOpener.behind(chunks, index)
            self.assertEqual(opener.feed(self.sealed(opener.place)), self.data[index * chunks.layout.chunk_size :])
            self.assertEqual(opener.finish(), b"")
            wrong = RangeOpener.behind(chunks, index)
            with self.assertRaises(AuthenticationFailed):
                wrong.feed(self.container[: len(self.sealed(opener.place))])
                wrong.finish()
        with self.assertRaises(AuthenticationFailed):
            RangeOpener.behind(chunks, 1).finish()

    def test_length_from_tail(self) -> None:
        """Header, size and tail are enough to know the length."""
        head, size = self.container[:HEADER_SIZE], len(self.container)
        chunks = Chunks.of_size(KEYS, BLOB, head, size, self.sealed(tail_place(BLOB, head, size)), head[40:])
        self.assertEqual(chunks.length, 13000)
        tail = bytearray(self.sealed(tail_place(BLOB, head, size)))
        tail[-1] ^= 1
        for bad in (tail, tail[1:], b""):
            with self.assertRaises(AuthenticationFailed):
                Chunks.of_size(KEYS, BLOB, head, size, bad)

    def test_chunks_in_any_order(self) -> None:
        """Each chunk opens alone, to its part of the data; in another's place it does not."""
        chunks = Chunks.of_length(KEYS, BLOB, self.container, 13000)
        for index in reversed(chunks.layout.all_chunks):
            sealed = self.sealed(chunks.layout.place_of(range(index, index + 1)))
            self.assertEqual(chunks.open(index, sealed), self.data[index * 4096 : (index + 1) * 4096])
            with self.assertRaises(AuthenticationFailed):
                chunks.open((index + 1) % 3, sealed)

    @settings(max_examples=examples(100))
    @given(st.data())
    def test_any_range(self, data: st.DataObject) -> None:
        """Any range of the data comes from just the chunks that hold it, however they arrive."""
        container, plain = seal(ROOT, BLOB, SALT, pattern(13000), 12), pattern(13000)
        start, stop = sorted(data.draw(st.tuples(st.integers(0, 13000), st.integers(0, 13000))))
        opener = RangeOpener(Chunks.of_length(KEYS, BLOB, container, 13000), ByteRange(start, stop - start))
        assert opener.place.length is not None
        sealed = container[opener.place.start : opener.place.start + opener.place.length]
        pieces = cut(sealed, data.draw(splits(len(sealed))))
        self.assertEqual(b"".join(map(opener.feed, pieces)) + opener.finish(), plain[start:stop])

    def test_range_outside(self) -> None:
        """A range that begins behind the data is the caller's mistake."""
        with self.assertRaises(InvalidRange):
            RangeOpener(Chunks.of_length(KEYS, BLOB, self.container, 13000), ByteRange(13001))

    def test_unfinished_range(self) -> None:
        """A range that stops arriving, or does not stop, is noticed."""
        opener = RangeOpener(Chunks.of_length(KEYS, BLOB, self.container, 13000), ByteRange(5000, 100))
        sealed = self.sealed(opener.place)
        opener.feed(sealed[:-1])
        with self.assertRaises(AuthenticationFailed):
            opener.finish()
        opener.feed(sealed[-1:])
        opener.finish()
        with self.assertRaises(MalformedContainer):
            opener.feed(b"x")

    def test_five_gib(self) -> None:
        """The far end of 5 GiB, of which nothing else exists, opens: numbers of chunks and places are right."""
        length = 5 * 2**30 + 12345
        layout = Layout.of_data(length, BLOB.purpose.floor)
        sealer = Sealer(ROOT, BLOB, SALT)
        source = made_up(length, layout)
        chunks = Chunks.of_size(
            KEYS, BLOB, sealer.header, layout.size, sealed_alone(sealer, source, layout, layout.chunks - 1)
        )
        self.assertEqual(chunks.length, length)
        opener = RangeOpener(chunks, ByteRange(length - 70000))
        indexes = layout.chunks_of(length - 70000, length)
        self.assertEqual(opener.place, layout.place_of(indexes))
        opened = b"".join(opener.feed(sealed_alone(sealer, source, layout, index)) for index in indexes)
        self.assertEqual(opened + opener.finish(), source(length - 70000, length))


def made_up(length: int, layout: Layout) -> Callable[[int, int], bytes]:
    """Return what gives any part of a stream that is nowhere: blocks of 4 KiB are made of their number's hash."""

    def block(number: int) -> bytes:
        return sha256(number.to_bytes(8, "big")).digest() * 128

    def part(start: int, stop: int) -> bytes:
        blocks = b"".join(block(number) for number in range(start // 4096, stop // 4096 + 1))
        data = blocks[start % 4096 :][: max(0, min(stop, length) - start)]
        padded = data + bytes(stop - start - len(data))
        if stop < layout.stream:
            return padded
        return padded[:-8] + length.to_bytes(8, "big")

    return part


def sealed_alone(sealer: Sealer, source: Callable[[int, int], bytes], layout: Layout, index: int) -> bytes:
    """Return one sealed chunk of a made-up source."""
    piece = source(*layout.stream_part(index))
    out = bytearray(len(piece) + 16)
    sealer._cipher.seal_into(index, piece, memoryview(out))
    return bytes(out)

"""Tests of the container's outside: header, sizes and places."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import MalformedContainer
from soledad.model.blob import ByteRange
from soledad.wire.container import HEADER_SIZE, Header, Layout, Purpose, padme, sealed_size

GIB = 2**30
LENGTHS = st.one_of(st.integers(0, 2**14), st.integers(0, 2**40))
FLOORS = st.sampled_from(sorted({purpose.floor for purpose in Purpose}))
EXPONENTS = st.integers(12, 20)


class HeaderTests(SynchronousTestCase):
    """A header says what it should, or is refused."""

    def setUp(self) -> None:
        """Make a header."""
        self.header = Header(key_id=b"k" * 8, salt=b"s" * 24, commitment=b"c" * 32, log2=16)
        self.data = b"SLDC\1\1\x10\0" + b"k" * 8 + b"s" * 24 + b"c" * 32

    def test_bytes(self) -> None:
        """Its 72 bytes are those of the specification, both ways."""
        self.assertEqual(self.header.encode(), self.data)
        self.assertEqual(Header.parse(self.data + b"more"), self.header)
        self.assertEqual(self.header.prefix, self.data[:16])

    def test_refused(self) -> None:
        """Whatever is not of this version is refused, field by field."""
        good = {0: b"S", 1: b"L", 2: b"D", 3: b"C", 4: b"\1", 5: b"\1", 6: bytes(range(12, 21)), 7: b"\0"}
        for at, values in good.items():
            for value in set(range(256)) - set(values):
                with self.assertRaises(MalformedContainer):
                    Header.parse(self.data[:at] + bytes((value,)) + self.data[at + 1 :])

    def test_every_chunk_size(self) -> None:
        """Chunks of 4 KiB to 1 MiB are read."""
        for log2 in range(12, 21):
            self.assertEqual(Header.parse(self.data[:6] + bytes((log2,)) + self.data[7:]).log2, log2)

    def test_short(self) -> None:
        """Less than a header is refused."""
        for size in range(HEADER_SIZE):
            with self.assertRaises(MalformedContainer):
                Header.parse(self.data[:size])


class PadmeTests(SynchronousTestCase):
    """How lengths are rounded up."""

    def test_known(self) -> None:
        """Values worked out by hand."""
        for length, padded in ((0, 0), (1, 1), (2, 2), (9, 10), (1000, 1024), (1025, 1088), (5 * GIB, 5 * GIB)):
            self.assertEqual(padme(length), padded)
        self.assertEqual(padme(5 * GIB + 1), 5 * GIB + 2**26)

    @given(LENGTHS)
    def test_rule(self, length: int) -> None:
        """It adds at most 12 %, is done once, and leaves a multiple of 16 above every floor."""
        padded = padme(length)
        self.assertTrue(length <= padded <= length * 1.12)
        self.assertEqual(padme(padded), padded)
        if padded >= 256:
            self.assertEqual(padded % 16, 0)


class LayoutTests(SynchronousTestCase):
    """Where things are."""

    def test_sizes(self) -> None:
        """Sizes worked out by hand, at the borders of the floor, the chunk and the inline limit."""
        chunk = 2**16
        for length, size in (
            (0, 72 + 1024 + 8 + 16),
            (1024, 72 + 1024 + 8 + 16),
            (1025, 72 + 1088 + 8 + 16),
            (chunk - 1, 72 + chunk + 8 + 2 * 16),
            (chunk, 72 + chunk + 8 + 2 * 16),
            (chunk + 1, 72 + chunk + 2048 + 8 + 2 * 16),
            (262144, 72 + 262144 + 8 + 5 * 16),
            (262145, 72 + 262144 + 8192 + 8 + 5 * 16),
        ):
            self.assertEqual(sealed_size(length, 1024), size, length)

    def test_five_gib(self) -> None:
        """Places beyond 32 bits are right."""
        layout = Layout.of_data(5 * GIB, 1024)
        self.assertEqual(layout.chunks, 81921)
        self.assertEqual(layout.size, 72 + 5 * GIB + 8 + 81921 * 16)
        self.assertEqual(layout.chunks_of(5 * GIB - 1, 5 * GIB), range(81919, 81920))
        self.assertEqual(layout.place_of(range(81919, 81920)), ByteRange(72 + 81919 * 65552, 65552))
        self.assertEqual(layout.place_of(layout.tail), ByteRange(72 + 81920 * 65552, 24))
        self.assertEqual(layout.place_of(layout.all_chunks), ByteRange(72, layout.size - 72))

    @given(LENGTHS, FLOORS, EXPONENTS)
    def test_size_both_ways(self, length: int, floor: int, log2: int) -> None:
        """The size tells the layout that the length gave; the last chunk is short and has the whole trailer."""
        layout = Layout.of_data(length, floor, log2)
        self.assertEqual(Layout.of_size(layout.size, floor, log2), layout)
        start, stop = layout.stream_part(layout.chunks - 1)
        self.assertTrue(8 <= stop - start < layout.chunk_size)
        self.assertEqual(stop, layout.stream)

    def test_impossible_sizes(self) -> None:
        """A size is accepted if and only if some length has it."""
        possible = {sealed_size(length, 1024, 12) for length in range(20000)}
        for size in range(max(possible) + 1):
            if size in possible:
                self.assertEqual(Layout.of_size(size, 1024, 12).size, size)
            else:
                with self.assertRaises(MalformedContainer):
                    Layout.of_size(size, 1024, 12)

    def test_too_many_chunks(self) -> None:
        """The chunk after the last possible one is refused."""
        most = (2**31 - 1) << 12
        self.assertEqual(Layout(most, 12).chunks, 2**31)
        with self.assertRaises(MalformedContainer):
            Layout(most + 2**12, 12)

    @given(st.data(), st.integers(0, 2**40), EXPONENTS)
    def test_ranges(self, data: st.DataObject, length: int, log2: int) -> None:
        """The chunks of a range hold it, none of them needlessly, and lie where the specification says."""
        layout = Layout.of_data(length, 1024, log2)
        start = data.draw(st.integers(0, length))
        stop = data.draw(st.integers(start, length))
        chunks = layout.chunks_of(start, stop)
        place = layout.place_of(chunks)
        if start == stop:
            self.assertEqual((len(chunks), place.length), (0, 0))
            return
        self.assertTrue(chunks.start << log2 <= start < chunks.start + 1 << log2)
        self.assertTrue(chunks.stop - 1 << log2 < stop <= chunks.stop << log2)
        self.assertEqual(place.start, 72 + chunks.start * ((1 << log2) + 16))
        opened = layout.stream_part(chunks.stop - 1)[1] - layout.stream_part(chunks.start)[0]
        self.assertEqual(place.length, opened + 16 * len(chunks))

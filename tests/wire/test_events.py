"""Tests of events: what is written is read, however it is cut; what is none is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import UnexpectedAnswer
from soledad.wire.events import DATA_LIMIT, HEARTBEAT, LINE_LIMIT, EventParser, Heads

FIRST, SECOND = Heads("0123", "c.aa.1", "4567"), Heads(None, "c.aa.2", None)
GOOD = b'{"documents":null,"blobs":"x","keyring":null}'
READ = Heads(None, "x", None)


def read(data: bytes) -> list[Heads]:
    """Read a stream that comes in one piece."""
    return EventParser().feed(data)


class EventsTests(SynchronousTestCase):
    """Writing and reading."""

    def test_bytes(self) -> None:
        """An event looks as the specification says."""
        expected = b'event: heads\ndata: {"documents":"0123","blobs":"c.aa.1","keyring":"4567"}\n\n'
        self.assertEqual(FIRST.encode(), expected)

    @given(st.data())
    def test_any_split(self, data: st.DataObject) -> None:
        """However the network cuts the stream, and however lines end, the events are the same."""
        end = data.draw(st.sampled_from([b"\n", b"\r", b"\r\n"]))
        stream = (FIRST.encode() + HEARTBEAT + SECOND.encode()).replace(b"\n", end)
        cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
        parser = EventParser()
        pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
        self.assertEqual([heads for piece in pieces for heads in parser.feed(piece)], [FIRST, SECOND])

    @given(st.integers(0, 2**16), st.integers(1, 255))
    def test_any_byte(self, place: int, noise: int) -> None:
        """Whatever a byte becomes, events are read, or the stream is refused; no other event is spoiled."""
        stream = bytearray(SECOND.encode())
        stream[place % len(stream)] ^= noise
        try:
            found = read(FIRST.encode() + bytes(stream) + HEARTBEAT + b"\n" + FIRST.encode())
        except UnexpectedAnswer:
            return
        self.assertEqual((found[0], found[-1]), (FIRST, FIRST))
        self.assertLessEqual(len(found), 3)

    def test_left_out(self) -> None:
        """Comments, other fields, other events, and what does not end, are no events."""
        for stream in (
            HEARTBEAT,
            b": a comment\n\n",
            b"id: 1\nretry: 5\n\n",
            b"data: " + GOOD + b"\n\n",
            b"event: other\ndata: rubbish\n\n",
            b"event: heads\n\n",
            b"event: heads\ndata: " + GOOD + b"\n",
        ):
            self.assertEqual(read(stream), [], stream)

    def test_read(self) -> None:
        """Data may have several lines, no space before it, and members nobody knows."""
        for stream in (
            b"event: heads\ndata: " + GOOD + b"\n\n",
            b"event:heads\ndata:" + GOOD + b"\n\n",
            b"data: " + GOOD + b"\nid: 7\nevent: heads\n\n",
            b'event: heads\ndata: {"blobs":\ndata: "x"}\n\n',
            b'event: heads\ndata: {"blobs": "x", "more": [1]}\n\n',
        ):
            self.assertEqual(read(stream), [READ], stream)

    def test_refused(self) -> None:
        """What is not of the protocol is refused, and so is what is too long, before it is kept."""
        for data in (b"rubbish", b"[]", b"{}", b'{"blobs": 1}', b'{"blobs": null}', b'{"blobs": "x", "keyring": {}}',
                     b'{"blobs": "' + b"x" * 257 + b'"}', b"[" * 3000, b"\xff"):  # fmt: skip
            with self.assertRaises(UnexpectedAnswer, msg=str(data[:20])):
                read(b"event: heads\ndata: " + data + b"\n\n")
        line = b"data: " + b"x" * (LINE_LIMIT - 10) + b"\n"
        for endless in (b"x" * (LINE_LIMIT + 1), line * (DATA_LIMIT // LINE_LIMIT + 1)):
            with self.assertRaises(UnexpectedAnswer):
                read(endless)

    def test_long_line_in_pieces(self) -> None:
        """A line that never ends is refused when it is too long, not when it ends."""
        parser = EventParser()
        with self.assertRaises(UnexpectedAnswer):
            for _ in range(LINE_LIMIT + 1):
                parser.feed(b"x")

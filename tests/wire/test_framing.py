"""Many blobs in one body: frames and what is in them, however they arrive."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import BlobExists, BlobNotFound, MalformedStream, QuotaExceeded, SoledadError, TooLarge
from soledad.wire.framing import (
    END,
    HEAD_SIZE,
    LIMITS,
    MAX_BLOBS,
    MAX_BYTES,
    FrameReader,
    Kind,
    decode_failure,
    decode_ids,
    decode_listed,
    decode_results,
    encode_failure,
    encode_ids,
    encode_listed,
    encode_results,
    frame,
    frame_head,
)

FRAMES = st.lists(st.tuples(st.sampled_from([Kind.LIST, Kind.BLOB, Kind.ERROR]), st.binary(max_size=40)), max_size=6)


def read(pieces: list[bytes]) -> list[tuple[Kind, bytes]]:
    """Return the frames of a body that comes in pieces."""
    reader, frames = FrameReader(), list[tuple[Kind, bytes]]()
    payload = b""
    for data in pieces:
        for piece in reader.feed(data):
            assert piece.begins is (payload == b"")
            payload += piece.data
            if piece.ends:
                assert len(payload) == piece.length
                frames.append((piece.kind, payload))
                payload = b""
    reader.finish()
    return frames


class FrameTests(SynchronousTestCase):
    """Frames."""

    @given(FRAMES, st.data())
    def test_any_split(self, frames: list[tuple[Kind, bytes]], data: st.DataObject) -> None:
        """However the network cuts a body, its frames are the same."""
        body = b"".join(frame(*one) for one in frames) + END
        cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=20)))
        pieces = [body[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        self.assertEqual(read(pieces), [*frames, (Kind.END, b"")])

    @given(FRAMES, st.data())
    def test_cut_short(self, frames: list[tuple[Kind, bytes]], data: st.DataObject) -> None:
        """A body that ends before its end frame does is noticed, wherever that is."""
        body = b"".join(frame(*one) for one in frames) + END
        with self.assertRaises(MalformedStream):
            read([body[: data.draw(st.integers(0, len(body) - 1))]])

    @given(st.lists(st.binary(max_size=12), max_size=8))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Whatever comes, it is frames or the one error."""
        try:
            frames = read(pieces)
        except MalformedStream:
            return
        self.assertEqual(b"".join(frame(*one) for one in frames), b"".join(pieces))

    def test_form(self) -> None:
        """The bytes are the specification's."""
        self.assertEqual(frame(Kind.BLOB, b"abc"), bytes([2, 0, 0, 0, 3]) + b"abc")
        self.assertEqual(END, bytes(5))
        self.assertEqual([LIMITS[kind] for kind in Kind], [0, 1048576, 1048576, 4096])
        self.assertEqual((MAX_BLOBS, MAX_BYTES, HEAD_SIZE), (4096, 67108864, 5))

    def test_refused_at_the_head(self) -> None:
        """Unknown kinds, frames that are too long, and what follows the end are refused before they come."""
        for head in (
            bytes([4, 0, 0, 0, 0]),
            bytes([255, 0, 0, 0, 1]),
            bytes([0, 0, 0, 0, 1]),
            *(bytes([kind]) + (LIMITS[kind] + 1).to_bytes(4, "big") for kind in Kind),
            END + b"\0",
        ):
            with self.assertRaises(MalformedStream):
                list(FrameReader().feed(head))

    def test_longest(self) -> None:
        """A frame may be as long as the limit, and is passed on as it comes."""
        reader = FrameReader()
        self.assertEqual(list(reader.feed(frame_head(Kind.BLOB, LIMITS[Kind.BLOB]))), [])
        half = bytes(LIMITS[Kind.BLOB] // 2)
        self.assertEqual(
            [(p.begins, p.ends) for _ in range(2) for p in reader.feed(half)], [(True, False), (False, True)]
        )


class ListTests(SynchronousTestCase):
    """What is in the frames."""

    @given(st.lists(st.tuples(st.text(), st.integers(0, LIMITS[Kind.BLOB])), max_size=5))
    def test_lists(self, blobs: list[tuple[str, int]]) -> None:
        """Lists come back as they went."""
        self.assertEqual(decode_listed(encode_listed(blobs)), blobs)
        ids = [blob for blob, _ in blobs]
        self.assertEqual(decode_ids(encode_ids(ids)), ids)

    def test_no_lists(self) -> None:
        """What is no list is refused."""
        entries: list[object] = [
            1,
            ["a"],
            ["a", 1, 2],
            ["a", "1"],
            ["a", True],
            ["a", -1],
            [1, 1],
            ["a", LIMITS[Kind.BLOB] + 1],
        ]
        values: list[object] = [{}, None, 1, "x", *([entry] for entry in entries)]
        for value in values:
            self.assertRaises(MalformedStream, decode_listed, json.dumps(value).encode())
        for payload in (b"", b"\xff", '["é"]'.encode(), b"[" * 100_000, b'["a"', b"[1]", b"{}"):
            self.assertRaises(MalformedStream, decode_ids, payload)

    def test_too_much(self) -> None:
        """Both the number of blobs and their bytes together have a limit."""
        self.assertEqual(len(decode_ids(encode_ids(["a"] * MAX_BLOBS))), MAX_BLOBS)
        self.assertRaises(TooLarge, decode_ids, encode_ids(["a"] * (MAX_BLOBS + 1)))
        self.assertRaises(TooLarge, decode_listed, encode_listed([("a", 0)] * (MAX_BLOBS + 1)))
        full = [("a", LIMITS[Kind.BLOB])] * (MAX_BYTES // LIMITS[Kind.BLOB])
        self.assertEqual(decode_listed(encode_listed(full)), full)
        self.assertRaises(TooLarge, decode_listed, encode_listed([*full, ("a", 1)]))

    def test_results(self) -> None:
        """Tags and errors come back, with their fields; each must be for the blob that was sent."""
        results: list[tuple[str, str | SoledadError]] = [
            ("a", "0" * 64),
            ("b", BlobExists("b", "default")),
            ("c", QuotaExceeded(5, 3)),
        ]
        body = encode_results(results)
        told = decode_results(body, ["a", "b", "c"], "default")
        self.assertEqual(repr(told), repr([outcome for _, outcome in results]))
        for ids in (["a", "b"], ["a", "c", "b"], ["a", "b", "c", "d"]):
            self.assertRaises(MalformedStream, decode_results, body, ids, "default")

    def test_no_results(self) -> None:
        """What is no answer to an upload is refused."""
        values: list[object] = [
            [],
            {},
            {"results": 1},
            {"results": [1]},
            {"results": [{"etag": "0" * 64}]},
            {"results": [{"id": "a"}]},
            {"results": [{"id": "a", "etag": 1}]},
            {"results": [{"id": "a", "status": 200}]},
            {"results": [{"id": "a", "status": "409", "error": "blob_exists"}]},
        ]
        for value in values:
            self.assertRaises(MalformedStream, decode_results, json.dumps(value).encode(), ["a"], "default")

    def test_failures(self) -> None:
        """An error frame tells an error of the blob that was asked for."""
        payload = encode_failure(BlobNotFound("a", "default"))
        self.assertEqual(repr(decode_failure(payload, "a", "default")), repr(BlobNotFound("a", "default")))
        for bad in (b"[]", b"{}", b"x"):
            self.assertRaises(MalformedStream, decode_failure, bad, "a", "default")

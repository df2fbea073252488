"""Lists of blobs as JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import InvalidFlags, UnexpectedAnswer
from soledad.model.blob import BlobInfo, Flag
from soledad.model.ids import BlobId, Namespace
from soledad.wire.listing import (
    Namespaces,
    Page,
    decode_count,
    decode_flags,
    decode_namespaces,
    decode_page,
    encode_count,
    encode_flags,
    encode_namespaces,
    encode_page,
)
from soledad.wire.routes import NAMESPACES_LIMIT, TOMBSTONE_LIMIT

ETAG = "0123456789abcdef" * 4

INFOS = st.builds(
    BlobInfo,
    st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True).map(BlobId),
    st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True).map(Namespace),
    st.integers(0, 2**62),
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.lists(st.sampled_from(Flag), unique=True).map(tuple),
    st.integers(0, 2**62),
    st.booleans(),
    st.none() | st.binary(max_size=200),
)


class PageTests(SynchronousTestCase):
    """Pages."""

    @given(st.builds(Page, st.lists(INFOS, max_size=5).map(tuple), st.none() | st.text(), st.text()))
    def test_round_trip(self, page: Page) -> None:
        """Any page comes out as it went in."""
        self.assertEqual(decode_page(encode_page(page)), page)

    def test_long(self) -> None:
        """A page is encoded a few entries at a time, whatever their number."""
        info = BlobInfo(BlobId("b"), Namespace("n"), 5, ETAG)
        for number in (0, 49, 50, 51, 100, 101):
            page = Page((info,) * number, "next", "head")
            self.assertEqual(decode_page(encode_page(page)), page)

    def test_form(self) -> None:
        """The names are the specification's."""
        info = BlobInfo(BlobId("b"), Namespace("n"), 5, ETAG, (Flag.PENDING,), 7, True, b"sealed")
        self.assertEqual(
            json.loads(encode_page(Page((info,), None, "head"))),
            {
                "blobs": [
                    {
                        "id": "b",
                        "namespace": "n",
                        "length": 5,
                        "etag": ETAG,
                        "flags": ["PENDING"],
                        "changed": 7,
                        "deleted": True,
                        "tombstone": "c2VhbGVk",
                    }
                ],
                "next": None,
                "head": "head",
            },
        )

    def test_refused(self) -> None:
        """An entry that is not exactly of its form spoils the page."""
        good: dict[str, Any] = {"id": "b", "namespace": "n", "length": 5, "etag": ETAG, "flags": [], "changed": 1}
        good |= {"deleted": False, "tombstone": None}
        self.assertEqual(len(decode_page(self.page(good)).blobs), 1)
        for name, value in (
            ("id", "../b"),
            ("id", 1),
            ("namespace", "N"),
            ("length", -1),
            ("length", "5"),
            ("length", 5.0),
            ("length", True),
            ("etag", ETAG + "0"),
            ("etag", ETAG.upper()),
            ("etag", None),
            ("flags", ["DONE"]),
            ("flags", [["PENDING"]]),
            ("flags", 1),
            ("changed", None),
            ("deleted", "no"),
            ("tombstone", "!"),
            ("tombstone", 1),
            ("tombstone", "A" * (TOMBSTONE_LIMIT * 2)),
        ):
            with self.assertRaises(UnexpectedAnswer, msg=f"{name}: {value!r}"):
                decode_page(self.page({**good, name: value}))
        for name in good:
            with self.assertRaises(UnexpectedAnswer, msg=name):
                decode_page(self.page({key: value for key, value in good.items() if key != name}))

    def page(self, entry: dict[str, Any]) -> bytes:
        """Return a page with one entry."""
        return json.dumps({"blobs": [entry], "next": None, "head": "h"}).encode()

    @given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
    def test_anything(self, body: bytes | str) -> None:
        """Whatever a server sends is a page, or not one."""
        try:
            decode_page(body if isinstance(body, bytes) else body.encode())
        except UnexpectedAnswer:
            return

    def test_deep(self) -> None:
        """Nesting without end is not a page."""
        with self.assertRaises(UnexpectedAnswer):
            decode_page(b"[" * 200_000)

    def test_errors_quote_nothing(self) -> None:
        """What the server sent does not get into an error's text."""
        self.assertNotIn("secret", str(self.assertRaises(UnexpectedAnswer, decode_page, b'{"secret": "secret"}')))


class CountTests(SynchronousTestCase):
    """Counts."""

    def test_round_trip(self) -> None:
        """A count comes out as it went in."""
        self.assertEqual(decode_count(encode_count(5, "head")), 5)

    def test_refused(self) -> None:
        """What is no count is none."""
        for body in (b"", b"5", b"[]", b'{"count": -1}', b'{"count": "5"}', b'{"count": true}', b'{"head": "x"}'):
            with self.assertRaises(UnexpectedAnswer, msg=repr(body)):
                decode_count(body)


class NamespacesTests(SynchronousTestCase):
    """Names of namespaces."""

    def test_round_trip(self) -> None:
        """They come out as they went in: none, some, and as many as there may be."""
        for count in (0, 1, 3, NAMESPACES_LIMIT):
            names = tuple(Namespace(f"n{number:063}") for number in range(count))
            self.assertEqual(decode_namespaces(encode_namespaces(Namespaces(names, "head"))), Namespaces(names, "head"))

    def test_refused(self) -> None:
        """What is no name, twice there, out of order, or too much, is no answer; nothing of it gets into the error."""
        answers: list[Any] = [
            [],
            {"namespaces": ["a"]},
            {"namespaces": ["a"], "head": None},
            {"namespaces": "ab", "head": ""},
            {"namespaces": {"a": 1}, "head": ""},
            *({"namespaces": [name], "head": ""} for name in ("", "UPPER", "../secret", "a" * 65, "\u00e4", "a\n", 5)),
            {"namespaces": ["a", ["b"]], "head": ""},
            {"namespaces": ["a", "a"], "head": ""},
            {"namespaces": ["b", "a"], "head": ""},
            {"namespaces": [f"{number:04}" for number in range(NAMESPACES_LIMIT + 1)], "head": ""},
        ]
        for body in (b"", b"[" * 100_000, *(json.dumps(value).encode() for value in answers)):
            with self.assertRaises(UnexpectedAnswer, msg=repr(body[:80])) as raised:
                decode_namespaces(body)
            self.assertNotIn("secret", str(raised.exception))


class FlagTests(SynchronousTestCase):
    """Flags."""

    @given(st.lists(st.sampled_from(Flag), unique=True).map(tuple))
    def test_round_trip(self, flags: tuple[Flag, ...]) -> None:
        """Flags come out as they went in."""
        self.assertEqual(decode_flags(encode_flags(flags)), flags)

    def test_refused(self) -> None:
        """What is no list of flags, each once, is refused."""
        for body in (b"", b"{}", b'"PENDING"', b'["pending"]', b"[[]]", b'["FAILED","FAILED"]', b"[" * 100_000):
            self.assertRaises(InvalidFlags, decode_flags, body)

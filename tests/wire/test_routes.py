"""Paths and queries: what the client builds is what the server parses."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import BadRequest, Unauthorized
from soledad.model.blob import ByteRange
from soledad.model.ids import BlobId, Namespace, RecordName, UserId
from soledad.wire.changes import CHOSEN_LIMIT, NAMES_LIMIT, RECORDS_LIMIT
from soledad.wire.routes import (
    CLAIM_LIMIT,
    PAGE,
    PAGE_LIMIT,
    BlobRoute,
    ListRoute,
    StreamRoute,
    SyncRoute,
    authorization,
    format_range,
    parse_authorization,
    parse_range,
)

USER = UserId("alice")


def taken_apart(path: str) -> tuple[list[str], dict[str, str]]:
    """Return what a server makes of a path: segments behind the first, and the query."""
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=True)
    return [unquote(part) for part in parts.path.split("/")[2:]], {name: values[0] for name, values in query.items()}


class BlobRouteTests(SynchronousTestCase):
    """One blob."""

    def test_path(self) -> None:
        """The path is the specification's."""
        route = BlobRoute(USER, BlobId("b-1"), Namespace("other"))
        self.assertEqual(route.path, "/blobs/alice/b-1?namespace=other")

    @given(
        st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
        st.from_regex(r"[A-Za-z0-9_-]{1,128}", fullmatch=True),
        st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True),
    )
    def test_round_trip(self, user: str, blob_id: str, namespace: str) -> None:
        """Any route comes out of its path."""
        route = BlobRoute(UserId(user), BlobId(blob_id), Namespace(namespace))
        self.assertEqual(BlobRoute.parse(*taken_apart(route.path)), route)

    @given(st.none() | st.integers(1, CLAIM_LIMIT), st.booleans())
    def test_arguments(self, claim: int | None, only_flags: bool) -> None:
        """So do its arguments."""
        route = BlobRoute(USER, BlobId("b"), claim=claim, only_flags=only_flags)
        self.assertEqual(BlobRoute.parse(*taken_apart(route.path)), route)

    def test_default_namespace(self) -> None:
        """Without a namespace it is the default one."""
        self.assertEqual(BlobRoute.parse(["alice", "b"], {}).namespace, "default")

    def test_refused(self) -> None:
        """What is no identifier, too few of them, or too many, is a bad request."""
        for segments, query in (
            (["alice"], {}),
            (["alice", "b", "c"], {}),
            (["alice", ""], {}),
            (["alice", ".."], {}),
            (["al/ice", "b"], {}),
            (["alice", "b\0"], {}),
            (["alice", "b"], {"namespace": "Other"}),
            (["alice", "b"], {"namespace": ""}),
            (["alice", "b"], {"claim": "0"}),
            (["alice", "b"], {"claim": ""}),
            (["alice", "b"], {"claim": str(CLAIM_LIMIT + 1)}),
            (["alice", "b"], {"only_flags": "yes"}),
        ):
            with self.assertRaises(BadRequest, msg=repr((segments, query))):
                BlobRoute.parse(segments, query)


class StreamRouteTests(SynchronousTestCase):
    """Many blobs in one body."""

    def test_path(self) -> None:
        """The path is the specification's, and comes out of itself."""
        route = StreamRoute(USER, "upload", Namespace("other"))
        self.assertEqual(route.path, "/stream/alice?direction=upload&namespace=other")
        self.assertEqual(StreamRoute.parse(*taken_apart(route.path)), route)
        self.assertEqual(StreamRoute.parse(["alice"], {"direction": "download"}).namespace, "default")

    def test_refused(self) -> None:
        """A direction there must be, and nothing that is not known."""
        both = {"direction": "upload"}
        for segments, query in (
            (["alice"], {}),
            (["alice"], {"direction": "up"}),
            (["alice"], both | {"other": "1"}),
            (["alice"], both | {"namespace": "Other"}),
            (["al/ice"], both),
            ([], both),
            (["alice", "b"], both),
        ):
            with self.assertRaises(BadRequest, msg=repr((segments, query))):
                StreamRoute.parse(segments, query)


class ListRouteTests(SynchronousTestCase):
    """A list of blobs."""

    @given(
        st.builds(
            ListRoute,
            st.just(USER),
            st.sampled_from([Namespace("default"), Namespace("a-b_0")]),
            st.sampled_from([None, "date", "+date", "-date"]),
            st.sampled_from([None, "PENDING", "PROCESSING", "PROCESSED", "FAILED"]),
            st.booleans(),
            st.booleans(),
            st.integers(1, PAGE_LIMIT),
            st.none(),
            st.none() | st.text(st.characters(codec="ascii")),
        )
    )
    def test_round_trip(self, route: ListRoute) -> None:
        """Any route comes out of its path, whatever is in its token."""
        self.assertEqual(ListRoute.parse(*taken_apart(route.path)), route)

    def test_since(self) -> None:
        """Changes since a token go without an order."""
        route = ListRoute(USER, since="c.1&x=y")
        self.assertEqual(ListRoute.parse(*taken_apart(route.path)), route)

    def test_namespaces(self) -> None:
        """Which namespaces there are is asked for with nothing else."""
        route = ListRoute(USER, namespaces=True)
        self.assertEqual(route.path, "/blobs/alice?namespaces=true")
        self.assertEqual(ListRoute.parse(*taken_apart(route.path)), route)
        self.assertEqual(ListRoute.parse(["alice"], {"namespaces": "false", "limit": "5"}), ListRoute(USER, limit=5))

    def test_defaults(self) -> None:
        """What is not said is as usual."""
        route = ListRoute.parse(["alice"], {})
        self.assertEqual((route.namespace, route.limit, route.deleted, route.since), ("default", PAGE, False, None))

    def test_refused(self) -> None:
        """What is unknown, not of its form, or does not go together is a bad request."""
        queries: list[dict[str, str]] = [
            {"order_by": "name"},
            {"filter_flag": "pending"},
            {"deleted": "yes"},
            {"only_count": "1"},
            {"limit": "0"},
            {"limit": str(PAGE_LIMIT + 1)},
            {"limit": "-1"},
            {"limit": ""},
            {"limit": "1e3"},
            {"limit": "\u0661"},
            {"limit": "9" * 30},
            {"namespace": "../x"},
            {"sort": "date"},
            {"since": "x", "order_by": "date"},
            {"since": "x", "after": "y"},
            {"namespaces": "1"},
            {"namespaces": "true", "namespace": "mails"},
            {"namespaces": "true", "limit": "5"},
            {"namespaces": "true", "since": "x"},
        ]
        for query in queries:
            with self.assertRaises(BadRequest, msg=repr(query)):
                ListRoute.parse(["alice"], query)
        for segments in ([], ["a b"], ["alice", "b"]):
            with self.assertRaises(BadRequest):
                ListRoute.parse(segments, {})


class AuthorizationTests(SynchronousTestCase):
    """Who asks."""

    def test_value(self) -> None:
        """It is the word ``Token`` and the base64 of user and token."""
        self.assertEqual(authorization(USER, "secret"), "Token YWxpY2U6c2VjcmV0")

    @given(st.text(st.characters(codec="utf-8"), min_size=1))
    def test_round_trip(self, token: str) -> None:
        """Any token comes out as it went in, colons included."""
        self.assertEqual(parse_authorization(authorization(USER, token)), (USER, token))

    def test_scheme_in_any_case(self) -> None:
        """The scheme's case does not matter (RFC 9110, section 11.1)."""
        self.assertEqual(parse_authorization("tOKEN YWxpY2U6c2VjcmV0"), (USER, "secret"))

    def test_refused(self) -> None:
        """Anything else is nobody, and the error does not tell what was shown."""
        for value in (
            "",
            "Token",
            "Basic YWxpY2U6c2VjcmV0",
            "Token alice:secret",
            "Token YWxpY2U6",
            "Token YWxpY2U=",
            "Token !!!!",
            "Token /////w==",
            "Token " + "OnNlY3JldA==",
            "Token \udcff",
            "Token é",
        ):
            error = self.assertRaises(Unauthorized, parse_authorization, value)
            self.assertNotIn("secret", str(error))


class RangeTests(SynchronousTestCase):
    """The ``Range`` header (RFC 9110, section 14)."""

    def test_format(self) -> None:
        """The last byte is named, not the one behind it."""
        self.assertEqual(format_range(ByteRange(0, 10)), "bytes=0-9")
        self.assertEqual(format_range(ByteRange(5)), "bytes=5-")

    @given(st.integers(0, 2**40), st.integers(1, 2**40), st.integers(0, 2**40))
    def test_round_trip(self, start: int, length: int, size: int) -> None:
        """A range comes out cut at the end of what there is; with nothing left it has no length."""
        parsed = parse_range(format_range(ByteRange(start, length)), size)
        self.assertEqual(parsed, ByteRange(start, max(0, min(start + length, size) - start)))

    def test_parse(self) -> None:
        """Each form that there is."""
        for value, expected in (
            ("bytes=0-", ByteRange(0, 10)),
            ("bytes=3-5", ByteRange(3, 3)),
            ("bytes=3-50", ByteRange(3, 7)),
            ("bytes=-3", ByteRange(7, 3)),
            ("bytes=-30", ByteRange(0, 10)),
            ("bytes=10-", ByteRange(10, 0)),
            ("bytes=-0", ByteRange(10, 0)),
            ("Bytes = 3-5", ByteRange(3, 3)),
        ):
            self.assertEqual(parse_range(value, 10), expected, value)

    def test_ignored(self) -> None:
        """What is another unit, several ranges, or no range is to be ignored."""
        values: tuple[Any, ...] = ("", "bytes", "bytes=", "bytes=-", "bytes=5-3", "bytes=0-1,3-4", "lines=0-1")
        for value in (*values, "bytes=a-b", "bytes=+1-2", "bytes=\u0661-", "bytes=" + "9" * 19 + "-", "bytes=--1"):
            self.assertIsNone(parse_range(value, 10), value)


NAMES = st.binary(min_size=32, max_size=32).map(lambda data: RecordName(data.hex()))


class SyncRouteTests(SynchronousTestCase):
    """A user's records."""

    def test_paths(self) -> None:
        """Paths are the specification's."""
        one, two = RecordName("01" * 32), RecordName("02" * 32)
        for route, path in (
            (SyncRoute(USER), "/sync/alice"),
            (SyncRoute(USER, since="7.ab"), "/sync/alice?since=7.ab"),
            (SyncRoute(USER, since="7.ab", limit=0), "/sync/alice?since=7.ab&limit=0"),
            (SyncRoute(USER, records=(one, two)), f"/sync/alice?records={one},{two}"),
            (SyncRoute(USER, names=True, after=one, limit=5), f"/sync/alice?names=true&after={one}&limit=5"),
        ):
            self.assertEqual(route.path, path)

    @given(
        st.from_regex(r"[0-9A-Za-z.]{0,64}", fullmatch=True),
        st.none() | st.integers(0, RECORDS_LIMIT),
        st.sets(NAMES, max_size=CHOSEN_LIMIT),
        st.none() | st.integers(1, NAMES_LIMIT),
    )
    def test_round_trip(self, since: str, limit: int | None, names: set[RecordName], most: int | None) -> None:
        """What is built is what is parsed."""
        for route in (
            SyncRoute(USER, since, limit=limit),
            SyncRoute(USER, records=tuple(sorted(names))),
            SyncRoute(USER, names=True, after=min(names, default=RecordName("")), limit=most),
        ):
            path = route.path if "?" in route.path else f"{route.path}?names=false"
            self.assertEqual(SyncRoute.parse(*taken_apart(path)), route)

    def test_most(self) -> None:
        """Without a limit it is the largest; of names there may be more than of records."""
        limits = [SyncRoute(USER).most, SyncRoute(USER, names=True).most, SyncRoute(USER, limit=0).most]
        self.assertEqual(limits, [RECORDS_LIMIT, NAMES_LIMIT, 0])

    def test_bad(self) -> None:
        """A user or a name that cannot be one, and a path of another length."""
        for segments, query in ((["a/b"], {}), ([], {}), (["alice", "x"], {}), (["alice"], {"records": "AB" * 32})):
            with self.assertRaises(BadRequest):
                SyncRoute.parse(segments, query)

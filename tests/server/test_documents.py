"""What the server answers under ``/sync``; docs/spec/documents-sync.rst, case by case."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from soledad.model.ids import UserId
from soledad.server import documents
from soledad.server.database import Database
from soledad.server.records import Records
from soledad.server.service import make_root, make_site
from soledad.wire.changes import (
    CHOSEN_LIMIT,
    PUSH_LIMIT,
    Push,
    SealedRecord,
    decode_names,
    decode_page,
    encode_push,
)
from soledad.wire.routes import authorization
from tests.contracts.records_backend import record
from tests.limits import examples
from tests.server.support import USER, Connection, ServerTestCase, code, content, headers, status

PATH = f"/sync/{USER}"
FIRST: dict[str, Any] = {"If_None_Match": "*"}


class DocumentsCase(ServerTestCase):
    """A server that takes documents."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        database: Database = self.accounts._database
        self.records = Records(database)
        self.root = make_root(self.backend, self.accounts, records=self.records, worker=self.worker)
        self.site = make_site(self.root, self.clock, self.budget)

    def post(self, *records: SealedRecord, checkpoint: bytes = b"checkpoint", **more: str) -> bytes:
        """Push; return the answer."""
        return self.ask(f"POST {PATH}", encode_push(Push(records, checkpoint)), **more)

    def stored(self) -> list[SealedRecord]:
        """Return all records there are."""
        return list(decode_page(content(self.ask(f"GET {PATH}"))).records)


class PushTests(DocumentsCase):
    """Pushing."""

    def test_stored(self) -> None:
        """What was pushed is there, and the answer has the tag and the cursor of the head."""
        answer = self.post(record(1), record(2), **FIRST)
        head = self.successResultOf(self.records.head(USER))
        self.assertEqual(status(answer), 204)
        told = headers(answer)
        self.assertEqual((told["etag"], told["soledad-cursor"]), (f'"{head.tag}"', head.cursor))
        answer = self.post(record(2, b"new"), checkpoint=b"2", If_Match=told["etag"])
        self.assertEqual(status(answer), 204)
        self.assertEqual(self.stored(), [record(1), record(2, b"new")])

    def test_conditions(self) -> None:
        """A push says what it follows: one tag, or that it is the first."""
        tag = headers(self.post(record(1), **FIRST))["etag"]
        conditions: tuple[dict[str, Any], ...] = (
            {},
            {"If_Match": "*"},
            {"If_Match": tag[1:-1]},
            {"If_Match": "W/" + tag},
            {"If_Match": f'{tag}, "{"0" * 64}"'},
            {"If_None_Match": tag},
            {"If_Match": tag, **FIRST},
        )
        for more in conditions:
            answer = self.post(record(2), checkpoint=b"2", **more)
            self.assertEqual((status(answer), code(answer)), (400, "bad_request"), more)
        for more in (FIRST, {"If_Match": f'"{"0" * 64}"'}):
            answer = self.post(record(2), checkpoint=b"2", **more)
            self.assertEqual((status(answer), code(answer)), (412, "precondition_failed"), more)
        self.assertEqual(self.stored(), [record(1)])

    def test_nonsense(self) -> None:
        """What is no push is refused, and nothing of it is stored."""
        good = encode_push(Push((record(1),), b"c"))
        for body in (b"", b"{}", good[:-1], good + b"x", good[:5] + b"\1" + good[6:], encode_push(Push((), b""))):
            answer = self.ask(f"POST {PATH}", body, **FIRST)
            self.assertEqual((status(answer), code(answer)), (400, "bad_request"), body)
        unordered = encode_push(Push((record(2), record(1)), b"c"))
        self.assertEqual(code(self.ask(f"POST {PATH}", unordered, **FIRST)), "bad_request")
        self.assertEqual(self.stored(), [])

    @settings(max_examples=examples(40))
    @given(st.data())
    def test_mutated(self, data: st.DataObject) -> None:
        """However a push is changed on its way, what is stored is a push, whole: or it is refused."""
        self.setUp()
        good = encode_push(Push((record(1), record(2, b"two")), b"checkpoint"))
        at = data.draw(st.integers(0, len(good) - 1))
        changed = good[:at] + data.draw(st.binary(max_size=9)) + good[at + data.draw(st.integers(0, 9)) :]
        answer = self.ask(f"POST {PATH}", changed, **FIRST)
        page = decode_page(content(self.ask(f"GET {PATH}")))
        if status(answer) == 204:
            assert page.head.checkpoint is not None
            self.assertEqual(encode_push(Push(page.records, page.head.checkpoint)), changed)
        else:
            self.assertEqual((status(answer), page.head.checkpoint), (400, None))

    def test_quota(self) -> None:
        """What goes beyond the quota is refused, with how much that is."""
        self.successResultOf(self.accounts.set_quota(USER, 100))
        answer = self.post(record(1, bytes(60)), checkpoint=bytes(41), **FIRST)
        self.assertEqual((status(answer), code(answer)), (507, "quota_exceeded"))
        told = json.loads(content(answer))
        self.assertEqual((told["asked"], told["available"]), (101, 100))


class RefusalTests(DocumentsCase):
    """What is refused before the body is read."""

    def begun(self, size: int = 1000, **more: str) -> tuple[Connection, bytes]:
        """Send the head of a push; return the connection and the answer."""
        connection = self.connect()
        return connection, connection.request(f"POST {PATH}", self.auth(Content_Length=str(size), **more))

    def test_too_large(self) -> None:
        """A push that is too large."""
        for size in (PUSH_LIMIT + 1, 10**15):
            _, answer = self.begun(size, **FIRST)
            self.assertEqual((status(answer), code(answer)), (413, "too_large"))
            self.assertEqual(json.loads(content(answer))["limit"], PUSH_LIMIT)
        connection, answer = self.begun(PUSH_LIMIT, **FIRST)
        self.assertEqual(answer, b"")
        connection.lose()

    def test_stale(self) -> None:
        """A push that follows another head."""
        self.post(record(1), **FIRST)
        _, answer = self.begun(**FIRST)
        self.assertEqual((status(answer), code(answer)), (412, "precondition_failed"))
        _, answer = self.begun(If_Match=f'"{"1" * 64}"')
        self.assertEqual(status(answer), 412)
        self.assertEqual(headers(answer)["connection"], "close")

    def test_no_length(self) -> None:
        """A push of unknown length."""
        connection = self.connect()
        answer = connection.request(f"POST {PATH}", self.auth(Transfer_Encoding="chunked", **FIRST))
        self.assertEqual((status(answer), code(answer)), (411, "length_required"))

    def test_who(self) -> None:
        """Without a token, or on another's path, nothing is told."""
        self.successResultOf(self.accounts.add_user(UserId("bob")))
        for method in ("GET", "HEAD", "POST"):
            answer = self.connect().request(f"{method} {PATH}", {"Content-Length": "9"} if method == "POST" else {})
            self.assertEqual(status(answer), 401)
            for other in ("bob", "nobody", "..", "alice%0a"):
                connection = self.connect()
                answer = connection.request(f"{method} /sync/{other}", self.auth(Content_Length="9", **FIRST))
                self.assertEqual(status(answer), 403, other)

    def test_held(self) -> None:
        """No more than so many bytes of pushes are held at a time: another one may come later."""
        whole = documents.PUSHES_HELD // PUSH_LIMIT
        begun = [self.begun(PUSH_LIMIT, **FIRST) for _ in range(whole)]
        self.assertEqual([answer for _, answer in begun], [b""] * whole)
        _, answer = self.begun(**FIRST)
        self.assertEqual((status(answer), code(answer)), (503, "unavailable"))
        for connection, _ in begun:
            connection.lose()
        self.assertEqual(status(self.post(record(1), **FIRST)), 204)

    def test_lost(self) -> None:
        """A client that goes away in the middle of a push leaves nothing."""
        body = encode_push(Push((record(1),), b"c"))
        connection, _ = self.begun(len(body), **FIRST)
        connection.send(body[:-1])
        connection.lose()
        self.assertEqual(self.stored(), [])
        self.successResultOf(self.root.idle())

    def test_methods(self) -> None:
        """Other methods, and other paths."""
        for method in ("PUT", "DELETE", "PATCH"):
            answer = self.ask(f"{method} {PATH}")
            self.assertEqual((status(answer), code(answer)), (405, "method_not_allowed"))
            self.assertEqual(headers(answer)["allow"], "GET, HEAD, POST")
        for path in ("/sync", f"{PATH}/x"):
            self.assertEqual(status(self.ask(f"GET {path}")), 404, path)

    def test_arguments(self) -> None:
        """Arguments that are unknown, are not of their form, or do not go with each other."""
        one, two = record(1).name, record(2).name
        for query in (
            "x=1",
            "since=",
            "since=a-b",
            f"since={'1' * 65}",
            "limit=1001",
            "limit=-1",
            "limit=x",
            "names=yes",
            "names=true&limit=0",
            "names=true&limit=10001",
            "names=true&since=1.a",
            "names=true&after=1",
            "after=" + one,
            "records=",
            "records=" + one.upper().replace("0", "A"),
            f"records={two},{one}",
            f"records={one},{one}",
            f"records={one},",
            f"records={one}&limit=1",
            "records=" + ",".join(record(at).name for at in range(CHOSEN_LIMIT + 1)),
            "limit=1&limit=2",
        ):
            answer = self.ask(f"GET {PATH}?{query}")
            self.assertEqual((status(answer), code(answer)), (400, "bad_request"), query)
        self.assertEqual(status(self.post(record(1), **FIRST)), 204)
        answer = self.ask(f"POST {PATH}?limit=1", b"", **FIRST)
        self.assertEqual((status(answer), code(answer)), (400, "bad_request"))


class PullTests(DocumentsCase):
    """Pulling."""

    def setUp(self) -> None:
        """Push some."""
        super().setUp()
        told = headers(self.post(*map(record, range(5)), **FIRST))
        self.tag, self.cursor = told["etag"], told["soledad-cursor"]

    def get(self, query: str, **more: Any) -> tuple[Any, dict[str, str]]:
        """Return the page and the headers."""
        answer = self.ask(f"GET {PATH}?{query}", **more)
        self.assertEqual(status(answer), 200)
        return decode_page(content(answer)), headers(answer)

    def test_pages(self) -> None:
        """Page by page, each with the head's tag and the blobs' head."""
        page, told = self.get("limit=3")
        self.assertEqual((list(page.records), page.more), ([record(at) for at in range(3)], True))
        self.assertEqual(told["content-type"], "application/octet-stream")
        self.assertEqual((told["etag"], told["soledad-blobs"]), (self.tag, self.successResultOf(self.blobs_head())))
        page, _ = self.get(f"since={page.head.cursor}")
        self.assertEqual((list(page.records), page.more), ([record(3), record(4)], False))
        self.assertEqual(page.head.cursor, self.cursor)

    def blobs_head(self) -> Any:
        """Return the head of the blobs."""
        return self.backend.list_blobs(USER).addCallback(lambda page: page.head)

    def test_nothing(self) -> None:
        """Before the first push there is no tag."""
        bob = UserId("bob")
        self.token = self.successResultOf(self.accounts.add_user(bob))
        answer = self.connect().request("GET /sync/bob", {"Authorization": authorization(bob, self.token)})
        self.assertEqual((status(answer), headers(answer).get("etag")), (200, None))
        self.assertIn("soledad-blobs", headers(answer))
        self.assertIsNone(decode_page(content(answer)).head.checkpoint)

    def test_idle(self) -> None:
        """To who has the head, nothing is sent but its tag, and the head of the blobs."""
        for condition in (self.tag, "W/" + self.tag, "*", f'"{"0" * 64}", {self.tag}'):
            answer = self.ask(f"GET {PATH}?since={self.cursor}", If_None_Match=condition)
            told = headers(answer)
            self.assertEqual((status(answer), content(answer), told["etag"]), (304, b"", self.tag), condition)
            self.assertEqual(told["soledad-blobs"], self.successResultOf(self.blobs_head()))
        page, _ = self.get(f"since={self.cursor}", If_None_Match=f'"{"0" * 64}"')
        self.assertEqual((page.records, page.head.cursor), ((), self.cursor))

    def test_stale(self) -> None:
        """A cursor of another history is told, also to who has the head."""
        for cursor in ("9.0123456789abcdef", "x"):
            answer = self.ask(f"GET {PATH}?since={cursor}", If_None_Match=self.tag)
            self.assertEqual((status(answer), code(answer)), (410, "stale_token"))

    def test_head(self) -> None:
        """``HEAD`` has what ``GET`` has, without the body."""
        answers = [self.ask(f"{method} {PATH}?limit=2") for method in ("GET", "HEAD")]
        got, head = map(headers, answers)
        self.assertEqual({**got, "date": ""}, {**head, "date": ""})
        self.assertEqual(content(answers[1]), b"")

    def test_fetch(self) -> None:
        """Chosen records; a condition makes no difference."""
        chosen = ",".join(record(at).name for at in (1, 3, 9))
        page, told = self.get(f"records={chosen}", If_None_Match=self.tag)
        self.assertEqual((page.records, page.more, told["etag"]), ((record(1), record(3)), False, self.tag))

    def test_names(self) -> None:
        """Names and hashes; of another head than the one that is asked for there are none."""
        conditions: tuple[dict[str, Any], ...] = ({}, {"If_Match": self.tag}, {"If_None_Match": self.tag})
        for more in conditions:
            answer = self.ask(f"GET {PATH}?names=true&limit=2&after={record(1).name}", **more)
            self.assertEqual((status(answer), headers(answer)["etag"]), (200, self.tag))
            page = decode_names(content(answer))
            self.assertEqual([one.name for one in page.names], [record(2).name, record(3).name])
            self.assertTrue(page.more)
        answer = self.ask(f"GET {PATH}?names=true", If_Match=f'"{"0" * 64}"')
        self.assertEqual((status(answer), code(answer)), (412, "precondition_failed"))


class GreetingTests(DocumentsCase):
    """What the server is said to offer."""

    def test_offers(self) -> None:
        """That it takes documents."""
        self.assertIn("sync", json.loads(content(self.ask("GET /")))["offers"])

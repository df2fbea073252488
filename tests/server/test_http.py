"""What the server answers; docs/spec/blobs-http.rst, case by case."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256

from soledad.errors import StorageFailed
from soledad.model.ids import BlobId, UserId
from soledad.wire.listing import decode_count, decode_namespaces, decode_page
from soledad.wire.routes import TOMBSTONE_LIMIT, authorization
from tests.server.support import QUOTA, USER, ServerTestCase, code, content, headers, status


class WhoTests(ServerTestCase):
    """Who may ask what."""

    def test_greeting(self) -> None:
        """Anybody may ask what the server is."""
        answer = self.connect().request("GET /")
        self.assertEqual(status(answer), 200)
        told = json.loads(content(answer))
        offers = ["blobs", "events", "keys", "stream", "uploads"]
        self.assertEqual((told["name"], told["protocol"], told["offers"]), ("soledad", 1, offers))

    def test_unauthorized(self) -> None:
        """Without a token that is right, nothing is told; how it is wrong makes no difference."""
        other = UserId("Bob")
        self.successResultOf(self.accounts.add_user(other))
        wrong = [
            None,
            "",
            "Token",
            "Token x",
            "Basic " + b64encode(f"{USER}:{self.token}".encode()).decode(),
            authorization(USER, "x"),
            authorization(other, self.token),
            authorization(UserId("nobody"), self.token),
            "Token " + b64encode(b"\xff:\xff").decode(),
            "Token " + b64encode(f"{USER}:".encode()).decode(),
            "Token " + b64encode(f"../{USER}:{self.token}".encode()).decode(),
        ]
        for value in wrong:
            for path in (f"/blobs/{USER}", f"/blobs/{USER}/x", "/blobs", "/nothing", "/blobs/%00"):
                answer = self.connect().request(f"GET {path}", {} if value is None else {"Authorization": value})
                self.assertEqual((status(answer), code(answer)), (401, "unauthorized"), (value, path))
                self.assertEqual(headers(answer)["www-authenticate"], 'Token realm="soledad"')

    def test_revoked(self) -> None:
        """A token that is revoked is refused from then on, also on a connection that is open."""
        connection = self.connect()
        self.assertEqual(status(connection.request(f"GET /blobs/{USER}", self.auth())), 200)
        self.successResultOf(self.accounts.revoke_tokens(USER))
        self.assertEqual(status(connection.request(f"GET /blobs/{USER}", self.auth())), 401)

    def test_forbidden(self) -> None:
        """Another user's path is refused, whether there is one or not."""
        self.successResultOf(self.accounts.add_user(UserId("bob")))
        for user in ("bob", "nobody", "Alice", "..", "%2e%2e", "alice%00", "alice%0a"):
            for line in (f"GET /blobs/{user}", f"GET /blobs/{user}/x", f"DELETE /blobs/{user}/x"):
                answer = self.ask(line)
                self.assertEqual((status(answer), code(answer)), (403, "forbidden"), line)

    def test_methods(self) -> None:
        """Other methods are refused, and the right ones told."""
        for path, allowed in (
            ("/", "GET, HEAD"),
            (f"/blobs/{USER}", "GET, HEAD"),
            (f"/blobs/{USER}/x", "DELETE, GET, HEAD, POST, PUT"),
            (f"/stream/{USER}?direction=upload", "POST"),
        ):
            for method in ("PATCH", "OPTIONS", "FETCH"):
                answer = self.ask(f"{method} {path}")
                self.assertEqual((status(answer), code(answer)), (405, "method_not_allowed"))
                self.assertEqual(headers(answer)["allow"], allowed)

    def test_unexpected(self) -> None:
        """What nobody expected is logged and is not told."""
        self.backend.store = None  # type: ignore[assignment]
        answer = self.ask(f"PUT /blobs/{USER}/x", b"secret")
        self.assertEqual((status(answer), code(answer)), (500, "internal_error"))
        self.assertNotIn(b"NoneType", answer)
        self.assertEqual(len(self.flushLoggedErrors(AttributeError)), 1)


class TargetTests(ServerTestCase):
    """Paths and queries that are not what they should be."""

    def test_bad_blob_ids(self) -> None:
        """Whatever stands where an id should, it is refused and nothing else happens."""
        bad = [
            "",
            ".",
            "..",
            "%2e%2e",
            "a%2Fb",
            "a%00",
            "a%0a",
            "%0d%0aX:y",
            "a.b",
            "%ff",
            "%C3%A9",
            "a b",
            "a" * 129,
            "~",
        ]
        for text in bad:
            for method in ("GET", "PUT", "DELETE"):
                answer = self.ask(f"{method} /blobs/{USER}/{text}", b"" if method == "PUT" else None)
                self.assertIn(status(answer), (400, 404), text)
        self.assertEqual(self.successResultOf(self.store.list()), [])

    def test_bad_namespaces(self) -> None:
        """The same for namespaces."""
        for text in ("", ".", "..", "a%2Fb", "a%00", "a%0a", "A", "-a", "a" * 65, "%ff"):
            for line in (f"GET /blobs/{USER}?namespace={text}", f"PUT /blobs/{USER}/x?namespace={text}"):
                answer = self.ask(line, b"x" if line.startswith("PUT") else None)
                self.assertEqual((status(answer), code(answer)), (400, "bad_request"), line)

    def test_bad_paths(self) -> None:
        """What is not in the table of paths is not found."""
        for path in (
            "/blobs",
            "/blobs/",
            f"/blobs/{USER}/x/y",
            f"/BLOBS/{USER}",
            f"//blobs/{USER}",
            "/sync/alice",
            "/%2e",
        ):
            self.assertIn(status(self.ask(f"GET {path}")), (403, 404), path)
        self.assertEqual(status(self.ask(f"GET /blobs/{USER}/")), 400)

    def test_bad_lines(self) -> None:
        """What is hardly HTTP is answered as such, and the connection closed."""
        for data in (b"\0 / HTTP/1.1\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1\r\nA: \0\r\n\r\n", b"x" * 20_000):
            connection = self.connect()
            answer = connection.send(data)
            self.assertIn(answer[:12], (b"HTTP/1.1 400", b""), data)
            self.assertTrue(connection.transport.disconnecting)

    def test_two_lengths(self) -> None:
        """Two lengths are an attack: nothing of the request is done."""
        self.put("x", b"")
        lengths = "0\r\nContent-Length: 5"
        answer = self.ask(f"DELETE /blobs/{USER}/x", None, Content_Length=lengths)
        self.assertEqual(status(answer), 400)
        self.successResultOf(self.backend.stat_blob(USER, BlobId("x")))

    def test_bad_arguments(self) -> None:
        """Arguments that are unknown, doubled or do not go together."""
        bad = (
            "x=1 limit=0 limit=10001 limit=%C2%B2 limit=1&limit=2 order_by=size deleted=1 filter_flag=X since=x after="
        )
        for query in [*bad.split(), "since=a&after=b", "since=a&order_by=date", "%ff=1"]:
            answer = self.ask(f"GET /blobs/{USER}?{query}")
            self.assertEqual((status(answer), code(answer)), (400, "bad_request"), query)
        self.assertEqual(status(self.ask(f"GET /blobs/{USER}/x?limit=1")), 400)


class BlobTests(ServerTestCase):
    """One blob."""

    def test_put_get_head(self) -> None:
        """A blob comes back as it was, with its tag."""
        answer = self.ask(f"PUT /blobs/{USER}/x", b"hello")
        tag = f'"{sha256(b"hello").hexdigest()}"'
        self.assertEqual((status(answer), content(answer), headers(answer)["etag"]), (201, b"", tag))
        answer = self.ask(f"GET /blobs/{USER}/x")
        self.assertEqual((status(answer), content(answer)), (200, b"hello"))
        for told in (headers(answer), headers(self.ask(f"HEAD /blobs/{USER}/x"))):
            self.assertEqual((told["etag"], told["content-length"], told["accept-ranges"]), (tag, "5", "bytes"))
        self.assertEqual(content(self.ask(f"HEAD /blobs/{USER}/x")), b"")

    def test_namespace(self) -> None:
        """The same id in another namespace is another blob."""
        self.ask(f"PUT /blobs/{USER}/x?namespace=attachments", b"hello")
        self.assertEqual(status(self.ask(f"GET /blobs/{USER}/x")), 404)
        self.assertEqual(content(self.ask(f"GET /blobs/{USER}/x?namespace=attachments")), b"hello")

    def test_refused(self) -> None:
        """Each refusal of a write has its status, its code and its members."""
        self.put("x", b"first")
        cases = [
            (self.ask(f"PUT /blobs/{USER}/x", b"second"), 409, "blob_exists", {"blob_id": "x", "namespace": "default"}),
            (self.ask(f"PUT /blobs/{USER}/y", b"y" * QUOTA), 507, "quota_exceeded", {"available": QUOTA - 5}),
            (self.ask(f"PUT /blobs/{USER}/y", b"y" * (2 * QUOTA + 1)), 413, "too_large", {"limit": 2 * QUOTA}),
            (self.ask(f"PUT /blobs/{USER}/y", None, Transfer_Encoding="chunked"), 411, "length_required", {}),
            (self.ask(f"PUT /blobs/{USER}/y", b"y", If_Match='"x"'), 412, "precondition_failed", {}),
            (self.ask(f"PUT /blobs/{USER}/x", b"y", If_Match="*"), 409, "blob_exists", {}),
        ]
        for answer, expected, name, members in cases:
            self.assertEqual((status(answer), code(answer)), (expected, name))
            self.assertEqual(json.loads(content(answer)) | members, json.loads(content(answer)))
        self.assertEqual(content(self.ask(f"GET /blobs/{USER}/x")), b"first")
        self.assertEqual(status(self.ask(f"PUT /blobs/{USER}/y", b"y", If_None_Match="*")), 201)

    def test_ranges(self) -> None:
        """One range is given; several and nonsense are ignored; behind the end is an error."""
        self.put("x", b"0123456789")
        for value, part, told in (
            ("bytes=0-0", b"0", "bytes 0-0/10"),
            ("bytes=2-4", b"234", "bytes 2-4/10"),
            ("bytes=8-", b"89", "bytes 8-9/10"),
            ("bytes=8-99", b"89", "bytes 8-9/10"),
            ("bytes=-3", b"789", "bytes 7-9/10"),
            ("bytes=-99", b"0123456789", "bytes 0-9/10"),
        ):
            answer = self.ask(f"GET /blobs/{USER}/x", Range=value)
            self.assertEqual((status(answer), content(answer)), (206, part), value)
            self.assertEqual(headers(answer)["content-range"], told)
        for value in ("bytes=0-1,3-4", "lines=1-2", "bytes=4-2", "bytes=x", "bytes=-"):
            answer = self.ask(f"GET /blobs/{USER}/x", Range=value)
            self.assertEqual((status(answer), len(content(answer))), (200, 10), value)
        for value in ("bytes=10-", "bytes=-0", "bytes=99-100"):
            answer = self.ask(f"GET /blobs/{USER}/x", Range=value)
            self.assertEqual((status(answer), code(answer)), (416, "unsatisfiable_range"))
            self.assertEqual(headers(answer)["content-range"], "bytes */10")

    def test_conditions(self) -> None:
        """Reading can depend on the tag."""
        tag = f'"{self.put("x", b"0123456789")}"'
        for name, value, expected in (
            ("If_None_Match", tag, 304),
            ("If_None_Match", f'"other", W/{tag}', 304),
            ("If_None_Match", "*", 304),
            ("If_None_Match", '"other"', 200),
            ("If_Match", tag, 200),
            ("If_Match", "*", 200),
            ("If_Match", f"W/{tag}", 412),
            ("If_Match", '"other"', 412),
        ):
            answer = self.ask(f"GET /blobs/{USER}/x", None, **{name: value})
            self.assertEqual(status(answer), expected, (name, value))
        for value, expected in ((tag, 206), ('"other"', 200), ("Sun, 06 Nov 1994 08:49:37 GMT", 200)):
            self.assertEqual(status(self.ask(f"GET /blobs/{USER}/x", Range="bytes=1-", If_Range=value)), expected)

    def test_delete(self) -> None:
        """Deleting takes a tombstone of limited size, and can depend on the tag."""
        tag = self.put("x", b"bytes")
        self.assertEqual(status(self.ask(f"DELETE /blobs/{USER}/x", None, If_Match='"other"')), 412)
        answer = self.ask(f"DELETE /blobs/{USER}/x", b"t" * (TOMBSTONE_LIMIT + 1))
        self.assertEqual((status(answer), code(answer)), (413, "too_large"))
        self.assertEqual(status(self.ask(f"DELETE /blobs/{USER}/x", None, Transfer_Encoding="chunked")), 411)
        answer = self.ask(f"DELETE /blobs/{USER}/x", b"t" * TOMBSTONE_LIMIT, If_Match=f'"{tag}"')
        self.assertEqual((status(answer), content(answer)), (204, b""))
        (info,) = decode_page(content(self.ask(f"GET /blobs/{USER}?deleted=true"))).blobs
        self.assertEqual(info.tombstone, b"t" * TOMBSTONE_LIMIT)
        for method in ("GET", "HEAD", "DELETE"):
            self.assertEqual(status(self.ask(f"{method} /blobs/{USER}/x")), 404)

    def test_storage_failure(self) -> None:
        """What failed in the server is logged, not told."""
        self.put("x", b"bytes")
        self.store._kept.clear()
        answer = self.ask(f"GET /blobs/{USER}/x")
        self.assertEqual((status(answer), code(answer)), (507, "storage_failed"))
        self.assertNotIn(b"missing", answer)
        self.assertEqual(len(self.flushLoggedErrors(StorageFailed)), 1)


class ListTests(ServerTestCase):
    """Lists as the wire has them."""

    def test_list(self) -> None:
        """Pages, orders and counts go through."""
        for blob in ("a", "b", "c"):
            self.put(blob, b"")
        page = decode_page(content(self.ask(f"GET /blobs/{USER}?limit=2&order_by=-date")))
        self.assertEqual([info.blob_id for info in page.blobs], ["c", "b"])
        page = decode_page(content(self.ask(f"GET /blobs/{USER}?order_by=-date&after={page.next}")))
        self.assertEqual(([info.blob_id for info in page.blobs], page.next), (["a"], None))
        self.assertEqual(decode_count(content(self.ask(f"GET /blobs/{USER}?only_count=true"))), 3)
        page = decode_page(content(self.ask(f"GET /blobs/{USER}?since={page.head}")))
        self.assertEqual(page.blobs, ())

    def test_namespaces(self) -> None:
        """Which namespaces there are is an answer of its own."""
        for namespace in ("mails", "default"):
            put = f"PUT /blobs/{USER}/a?namespace={namespace}"
            self.assertEqual(status(self.ask(put, body=b"bytes")), 201)
        told = decode_namespaces(content(self.ask(f"GET /blobs/{USER}?namespaces=true")))
        self.assertEqual(told.names, ("default", "mails"))
        self.assertEqual(told.head, decode_page(content(self.ask(f"GET /blobs/{USER}"))).head)
        answer = self.ask(f"GET /blobs/{USER}?namespaces=true&limit=5")
        self.assertEqual((status(answer), code(answer)), (400, "bad_request"))

    def test_stale(self) -> None:
        """A token of another history says so."""
        head = decode_page(content(self.ask(f"GET /blobs/{USER}"))).head
        stale = head.replace(head.split(".")[1], "0" * 32)
        answer = self.ask(f"GET /blobs/{USER}?since={stale}")
        self.assertEqual((status(answer), code(answer)), (410, "stale_token"))

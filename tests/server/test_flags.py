"""Flags and claims over HTTP; docs/spec/blobs-http.rst, "Flags"."""

from __future__ import annotations

import json

from soledad.wire.routes import CLAIM_LIMIT
from tests.server.support import USER, ServerTestCase, code, content, headers, status

PATH = f"/blobs/{USER}/x"


class FlagTests(ServerTestCase):
    """What services and devices tell each other about an item."""

    def setUp(self) -> None:
        """Store an item."""
        super().setUp()
        self.put("x", b"item")

    def post(self, body: bytes = b"", query: str = "", path: str = PATH) -> tuple[int, str]:
        """Change flags; return the status, and the code of an error."""
        answer = self.ask(f"POST {path}{query}", body)
        return status(answer), "" if status(answer) == 204 else code(answer)

    def flags(self) -> object:
        """Ask for the flags."""
        answer = self.ask(f"GET {PATH}?only_flags=true")
        self.assertEqual((status(answer), headers(answer)["content-type"]), (200, "application/json"))
        return json.loads(content(answer))

    def test_set(self) -> None:
        """Flags are replaced as a whole; the bytes stay as they are, and what is not asked for is not told."""
        self.assertEqual(self.flags(), [])
        for flags in (["PENDING"], ["FAILED", "PROCESSED"], []):
            self.assertEqual(self.post(json.dumps(flags).encode()), (204, ""))
            self.assertEqual(sorted(self.flags()), flags)  # type: ignore[call-overload]
        self.assertEqual(content(self.ask(f"GET {PATH}?only_flags=false")), b"item")
        answer = self.ask(f"HEAD {PATH}?only_flags=true")
        self.assertEqual((status(answer), headers(answer)["content-length"], content(answer)), (200, "2", b""))

    def test_invalid(self) -> None:
        """What is no list of flags changes nothing."""
        self.post(b'["PENDING"]')
        for body in (
            b"",
            b"x",
            b"{}",
            b'"PENDING"',
            b'["DONE"]',
            b"[1]",
            b"[[]]",
            b"[{}]",
            b'["FAILED","FAILED"]',
            b"\xff",
        ):
            self.assertEqual(self.post(body), (422, "invalid_flags"), body)
        self.assertEqual(self.post(b"[" * 60_000), (422, "invalid_flags"))
        self.assertEqual(self.post(b" " * 70_000), (413, "too_large"))
        self.assertEqual(self.flags(), ["PENDING"])

    def test_missing(self) -> None:
        """A blob that is not there has no flags."""
        missing = f"/blobs/{USER}/none"
        self.assertEqual(self.post(b"[]", path=missing), (404, "blob_not_found"))
        self.assertEqual(self.post(query="?claim=1", path=missing), (404, "blob_not_found"))
        self.assertEqual(status(self.ask(f"GET {missing}?only_flags=true")), 404)

    def test_claim(self) -> None:
        """An item is taken by one, for as long as was asked."""
        self.assertEqual(self.post(query="?claim=60"), (204, ""))
        self.assertEqual(self.post(query="?claim=60"), (409, "blob_busy"))
        self.assertEqual(self.flags(), ["PROCESSING"])
        self.clock.advance(60)
        self.assertEqual(self.flags(), ["PENDING"])
        self.assertEqual(self.post(query=f"?claim={CLAIM_LIMIT}"), (204, ""))

    def test_arguments(self) -> None:
        """Times that are none, bodies that are of no use, and arguments of other methods are mistakes."""
        for query in ("?claim=0", "?claim=-1", "?claim=x", "?claim=", f"?claim={CLAIM_LIMIT + 1}", "?only_flags=true"):
            self.assertEqual(self.post(b"", query), (400, "bad_request"), query)
        self.assertEqual(self.post(b"[]", "?claim=1"), (400, "bad_request"))
        for line in (f"GET {PATH}?claim=1", f"GET {PATH}?only_flags=1", f"DELETE {PATH}?only_flags=true"):
            self.assertEqual(status(self.ask(line)), 400, line)
        self.assertEqual(self.flags(), [])

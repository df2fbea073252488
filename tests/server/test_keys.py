"""What the server answers about keyrings; docs/spec/keys-http.rst, case by case."""

from __future__ import annotations

import json
from hashlib import sha256

from soledad.model.ids import UserId
from soledad.wire.routes import KEYRING_LIMIT
from tests.server.support import USER, ServerTestCase, code, content, head, headers, status

PATH = f"/keys/{USER}"


def tag(data: bytes) -> str:
    """Return the tag of a keyring, as it is written."""
    return f'"{sha256(data).hexdigest()}"'


class KeysTests(ServerTestCase):
    """One user's keyring."""

    def create(self, data: bytes = b"first") -> bytes:
        """Create it; return the answer."""
        return self.ask(f"PUT {PATH}", data, If_None_Match="*")

    def test_create_and_read(self) -> None:
        """It comes back as it went, with its tag, to `GET`, and without its bytes to `HEAD`."""
        answer = self.create()
        self.assertEqual((status(answer), headers(answer)["etag"]), (201, tag(b"first")))
        answer = self.ask(f"GET {PATH}")
        self.assertEqual((status(answer), content(answer), headers(answer)["etag"]), (200, b"first", tag(b"first")))
        self.assertEqual(headers(answer)["content-type"], "application/octet-stream")
        answer = self.ask(f"HEAD {PATH}")
        self.assertEqual((status(answer), content(answer)), (200, b""))
        self.assertEqual((headers(answer)["content-length"], headers(answer)["etag"]), ("5", tag(b"first")))

    def test_not_modified(self) -> None:
        """Who has it already is told so."""
        self.create()
        for condition, expected in ((tag(b"first"), 304), ("*", 304), (tag(b"other"), 200)):
            self.assertEqual(status(self.ask(f"GET {PATH}", If_None_Match=condition)), expected)

    def test_missing(self) -> None:
        """None is an error of its own."""
        for method in ("GET", "HEAD"):
            self.assertEqual(status(self.ask(f"{method} {PATH}")), 404)
        self.assertEqual(code(self.ask(f"GET {PATH}")), "keyring_not_found")

    def test_swap(self) -> None:
        """It is replaced by who names its tag."""
        self.create()
        answer = self.ask(f"PUT {PATH}", b"second", If_Match=tag(b"first"))
        self.assertEqual((status(answer), headers(answer)["etag"]), (204, tag(b"second")))
        self.assertEqual(content(self.ask(f"GET {PATH}")), b"second")

    def test_conditions_that_fail(self) -> None:
        """What is not as it was said to be stays as it is; the body is not asked for."""
        missing = self.connect().send(head(f"PUT {PATH}", self.auth(If_Match=tag(b"x"), Content_Length="5")))
        self.assertEqual((status(missing), code(missing)), (412, "precondition_failed"))
        self.create()
        for condition in ({"If_Match": tag(b"other")}, {"If_Match": "*"}, {"If_Match": "x"}, {"If_None_Match": "*"}):
            answer = self.connect().send(head(f"PUT {PATH}", self.auth(**condition, Content_Length="5")))
            self.assertEqual((status(answer), code(answer)), (412, "precondition_failed"), condition)
        self.assertEqual(content(self.ask(f"GET {PATH}")), b"first")

    def test_conditions_that_are_none(self) -> None:
        """Nobody writes a keyring without saying what is to be replaced."""
        both = {"If_Match": tag(b"first"), "If_None_Match": "*"}
        conditions: list[dict[str, str]] = [{}, both, {"If_None_Match": tag(b"first")}]
        for condition in conditions:
            answer = self.ask(f"PUT {PATH}", b"second", **condition)
            self.assertEqual((status(answer), code(answer)), (400, "bad_request"), condition)
        self.assertEqual(status(self.ask(f"GET {PATH}")), 404)

    def test_size(self) -> None:
        """It has at least one byte, at most 1 MiB, and a length."""
        self.assertEqual(code(self.create(b"")), "bad_request")
        length = {"Content_Length": str(KEYRING_LIMIT + 1), "If_None_Match": "*"}
        answer = self.connect().send(head(f"PUT {PATH}", self.auth(**length)))
        self.assertEqual((status(answer), code(answer)), (413, "too_large"))
        self.assertEqual(json.loads(content(answer))["limit"], KEYRING_LIMIT)
        chunked = self.auth(Transfer_Encoding="chunked", If_None_Match="*")
        self.assertEqual(code(self.connect().send(head(f"PUT {PATH}", chunked))), "length_required")
        self.assertEqual(status(self.create(bytes(KEYRING_LIMIT))), 201)

    def test_cut(self) -> None:
        """A body that does not come to its end changes nothing."""
        connection = self.connect()
        connection.send(head(f"PUT {PATH}", self.auth(Content_Length="5", If_None_Match="*")) + b"fir")
        connection.lose()
        self.assertEqual(status(self.ask(f"GET {PATH}")), 404)

    def test_late_loser(self) -> None:
        """Of two that began at the same time one is second, when its body has come."""
        connection = self.connect()
        connection.send(head(f"PUT {PATH}", self.auth(Content_Length="5", If_None_Match="*")) + b"sec")
        self.create()
        answer = connection.send(b"nd")
        self.assertEqual((status(answer), code(answer)), (412, "precondition_failed"))
        self.assertEqual(content(self.ask(f"GET {PATH}")), b"first")

    def test_who(self) -> None:
        """Another user's is forbidden, whether there is one or not; a revoked token opens nothing."""
        self.successResultOf(self.accounts.add_user(UserId("bob")))
        for user in ("bob", "nobody", "..", "Alice"):
            for line in (f"GET /keys/{user}", f"PUT /keys/{user}"):
                self.assertEqual(code(self.ask(line, b"x" if "PUT" in line else None)), "forbidden")
        self.successResultOf(self.accounts.revoke_tokens(USER))
        self.assertEqual(code(self.ask(f"GET {PATH}")), "unauthorized")

    def test_other_lines(self) -> None:
        """Other methods, paths and arguments are refused."""
        for method in ("POST", "DELETE", "PATCH"):
            answer = self.ask(f"{method} {PATH}")
            self.assertEqual((status(answer), headers(answer)["allow"]), (405, "GET, HEAD, PUT"))
        self.assertEqual(status(self.ask("GET /keys")), 404)
        self.assertEqual(status(self.ask(f"GET {PATH}/more")), 404)
        self.assertEqual(status(self.ask(f"GET {PATH}?version=1")), 400)

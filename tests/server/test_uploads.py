"""Uploads that can be resumed, over HTTP: what tus asks of a server, and what is refused."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha1, sha256

from hypothesis import given
from hypothesis import strategies as st

from soledad.model.ids import BlobId
from soledad.server.pending import UPLOAD_LIFETIME
from soledad.wire.routes import authorization
from soledad.wire.uploads import OFFSET_STREAM, Metadata, encode_metadata
from tests.server.support import QUOTA, USER, Connection, ServerTestCase, code, content, head, headers, status

DATA = b"0123456789"
TUS = {"Tus_Resumable": "1.0.0"}
PATCH = {**TUS, "Content_Type": OFFSET_STREAM}


def b64(data: bytes) -> str:
    """Return base64."""
    return b64encode(data).decode("ascii")


class UploadsTestCase(ServerTestCase):
    """A server in memory, and what a tus client says to it."""

    def tus(self, line: str, body: bytes | None = None, /, **more: str) -> bytes:
        """Send one request; return the answer."""
        return self.ask(line, body, **more)

    def create(self, length: int = len(DATA), body: bytes | None = None, blob: str = "b", **more: str) -> bytes:
        """Begin an upload; return the answer."""
        told = {**TUS, "Upload_Length": str(length), "Upload_Metadata": encode_metadata(Metadata(BlobId(blob)))}
        return self.tus(f"POST /uploads/{USER}", body, **(told | more))

    def path(self, answer: bytes) -> str:
        """Return the path of a new upload."""
        self.assertEqual(status(answer), 201)
        return "/uploads/" + headers(answer)["location"]

    def patch_it(self, path: str, offset: int, data: bytes, **more: str) -> bytes:
        """Send bytes; return the answer."""
        return self.tus(f"PATCH {path}", data, **(PATCH | {"Upload_Offset": str(offset)} | more))

    def head_it(self, path: str) -> bytes:
        """Ask for the state of an upload."""
        return self.tus(f"HEAD {path}", **TUS)

    def patching(self, path: str, offset: int, length: int) -> Connection:
        """Send the head of a ``PATCH``; return the connection."""
        connection = self.connect()
        told = self.auth(**PATCH, Upload_Offset=str(offset), Content_Length=str(length))
        connection.send(head(f"PATCH {path}", told))
        return connection

    def get(self, blob: str = "b") -> bytes:
        """Return a blob."""
        return content(self.tus(f"GET /blobs/{USER}/{blob}"))


class ProtocolTests(UploadsTestCase):
    """What a conforming client relies on."""

    def test_options(self) -> None:
        """A client can ask what is offered, for all uploads and for one, and needs no version for that."""
        for path in (f"/uploads/{USER}", f"/uploads/{USER}/x"):
            answer = self.tus(f"OPTIONS {path}")
            told = headers(answer)
            self.assertEqual((status(answer), told["tus-resumable"], told["tus-version"]), (204, "1.0.0", "1.0.0"))
            self.assertEqual(told["tus-extension"], "creation,creation-with-upload,termination,checksum,expiration")
            self.assertEqual(told["tus-checksum-algorithm"], "sha1,sha256")
            self.assertEqual(told["tus-max-size"], str(2 * QUOTA))

    def test_in_parts(self) -> None:
        """Create, send, ask, send the rest: each answer tells where it is, and when it ends."""
        created = self.create()
        expires = "Fri, 02 Jan 1970 00:00:00 GMT"
        self.assertEqual(headers(created)["upload-expires"], expires)
        self.assertEqual(headers(created)["upload-offset"], "0")
        path = self.path(created)
        answer = self.patch_it(path, 0, DATA[:4])
        told = headers(answer)
        self.assertEqual((status(answer), told["upload-offset"], told["tus-resumable"]), (204, "4", "1.0.0"))
        self.assertEqual(told["upload-expires"], expires)
        told = headers(self.head_it(path))
        self.assertEqual((told["upload-offset"], told["upload-length"]), ("4", "10"))
        self.assertEqual((told["cache-control"], told["tus-resumable"]), ("no-store", "1.0.0"))
        self.assertEqual(status(self.tus(f"GET /blobs/{USER}/b")), 404)
        told = headers(self.patch_it(path, 4, DATA[4:]))
        self.assertEqual((told["upload-offset"], "upload-expires" in told), ("10", False))
        self.assertEqual(self.get(), DATA)
        answer = self.head_it(path)
        self.assertEqual((status(answer), headers(answer)["upload-offset"]), (200, "10"))

    def test_metadata(self) -> None:
        """Names that mean nothing here are kept and told, byte for byte."""
        value = f"filename {b64('ü'.encode())},blob_id {b64(b'b')},is_confidential,namespace {b64(b'n')}"
        path = self.path(self.create(Upload_Metadata=value))
        self.assertEqual(headers(self.head_it(path))["upload-metadata"], value)
        self.patch_it(path, 0, DATA)
        self.assertEqual(content(self.tus(f"GET /blobs/{USER}/b?namespace=n")), DATA)

    def test_creation_with_upload(self) -> None:
        """The first bytes, or all, may come with the creation."""
        answer = self.create(body=DATA[:4], Content_Type=OFFSET_STREAM)
        self.assertEqual(headers(answer)["upload-offset"], "4")
        self.patch_it(self.path(answer), 4, DATA[4:])
        self.assertEqual(self.get(), DATA)
        answer = self.create(body=DATA, blob="c", Content_Type=OFFSET_STREAM)
        self.assertEqual((status(answer), headers(answer)["upload-offset"]), (201, "10"))
        self.assertEqual(self.get("c"), DATA)

    def test_empty(self) -> None:
        """An upload of nothing is a blob when it is created."""
        self.assertEqual(headers(self.create(0, b""))["upload-offset"], "0")
        self.assertEqual(status(self.tus(f"GET /blobs/{USER}/b")), 200)

    def test_termination(self) -> None:
        """What is deleted is gone, with its room."""
        path = self.path(self.create(QUOTA))
        answer = self.tus(f"DELETE {path}", **TUS)
        self.assertEqual((status(answer), headers(answer)["tus-resumable"]), (204, "1.0.0"))
        for line in (f"HEAD {path}", f"DELETE {path}"):
            answer = self.tus(line, **TUS)
            self.assertEqual((status(answer), headers(answer)["tus-resumable"]), (404, "1.0.0"))
            self.assertNotIn("upload-offset", headers(answer))
        self.path(self.create(QUOTA))

    def test_expiration(self) -> None:
        """When the time that was told is over, the upload is gone."""
        path = self.path(self.create())
        self.clock.advance(UPLOAD_LIFETIME)
        self.assertEqual(code(self.patch_it(path, 0, DATA)), "upload_not_found")

    def test_checksum(self) -> None:
        """Bytes with the right checksum are taken; with another none."""
        path = self.path(self.create())
        right, wrong = f"sha256 {b64(sha256(DATA).digest())}", f"sha1 {b64(bytes(20))}"
        answer = self.patch_it(path, 0, DATA, Upload_Checksum=wrong)
        self.assertEqual((status(answer), code(answer)), (460, "checksum_mismatch"))
        self.assertEqual(headers(answer)["tus-resumable"], "1.0.0")
        self.assertEqual(headers(self.head_it(path))["upload-offset"], "0")
        for value in ("md5 AAAA", "sha256", "sha256 x", f"sha1 {b64(sha256(DATA).digest())}"):
            self.assertEqual(code(self.patch_it(path, 0, DATA, Upload_Checksum=value)), "bad_request")
        self.assertEqual(status(self.patch_it(path, 0, DATA[:4], Upload_Checksum=f"sha1 {b64(SHA1)}")), 204)
        right = f"sha256 {b64(sha256(DATA[4:]).digest())}"
        self.assertEqual(status(self.patch_it(path, 4, DATA[4:], Upload_Checksum=right)), 204)
        self.assertEqual(self.get(), DATA)

    def test_override(self) -> None:
        """A client that cannot say PATCH or DELETE says POST, and which it means."""
        path = self.path(self.create())
        told = {**PATCH, "Upload_Offset": "0", "X_HTTP_Method_Override": "PATCH"}
        self.assertEqual(status(self.tus(f"POST {path}", DATA[:1], **told)), 204)
        self.assertEqual(status(self.tus(f"POST {path}", b"", **TUS, X_HTTP_Method_Override="DELETE")), 204)
        self.assertEqual(status(self.head_it(path)), 404)

    def test_cut(self) -> None:
        """What came before the connection broke counts; the rest completes it."""
        path = self.path(self.create())
        connection = self.patching(path, 0, 10)
        connection.send(DATA[:7])
        connection.lose()
        self.assertEqual(headers(self.head_it(path))["upload-offset"], "7")
        self.assertEqual(status(self.patch_it(path, 7, DATA[7:])), 204)
        self.assertEqual(self.get(), DATA)

    def test_takeover(self) -> None:
        """A client that comes again ends the request that it gave up."""
        path = self.path(self.create())
        for offset, asked in ((0, self.head_it), (4, self.head_it)):
            connection = self.patching(path, offset, 10 - offset)
            connection.send(DATA[offset : offset + 4])
            self.assertEqual(headers(asked(path))["upload-offset"], str(offset + 4))
            self.assertEqual(status(connection.transport.value()), 423)
        connection = self.patching(path, 8, 2)
        self.assertEqual(status(self.patch_it(path, 8, DATA[8:])), 204)
        self.assertEqual(status(connection.transport.value()), 423)
        self.assertEqual(self.get(), DATA)


SHA1 = sha1(DATA[:4]).digest()


class RefusalTests(UploadsTestCase):
    """What is not done."""

    def test_version(self) -> None:
        """Without the version, or with another, nothing is done, and the right one is told."""
        path = self.path(self.create())
        versions: list[dict[str, str]] = [{}, {"Tus_Resumable": "0.2.2"}, {"Tus_Resumable": "1.0"}]
        for version in versions:
            for line in (f"POST /uploads/{USER}", f"HEAD {path}", f"DELETE {path}", f"PATCH {path}"):
                answer = self.tus(line, **version)
                told = headers(answer)
                self.assertEqual((status(answer), told["tus-version"]), (412, "1.0.0"))
                self.assertEqual(told["tus-resumable"], "1.0.0")
        self.assertEqual(status(self.head_it(path)), 200)

    def test_who(self) -> None:
        """Uploads are their user's; others, and nobody, learn nothing of them."""
        path = self.path(self.create())
        token = self.successResultOf(self.accounts.add_user("bob"))  # type: ignore[arg-type]
        asked = {"Authorization": authorization("bob", token), "Tus-Resumable": "1.0.0"}  # type: ignore[arg-type]
        for line, expected in (
            (f"HEAD {path}", 403),
            (f"DELETE {path}", 403),
            (f"POST /uploads/{USER}", 403),
            (f"HEAD {path.replace(USER, 'bob')}", 404),
            (f"DELETE {path.replace(USER, 'bob')}", 404),
        ):
            self.assertEqual(status(self.connect().request(line, asked)), expected)
            self.assertEqual(status(self.connect().request(line, {"Tus-Resumable": "1.0.0"})), 401)
        self.assertEqual(status(self.head_it(path)), 200)

    def test_before_the_body(self) -> None:
        """What can be refused is refused before a byte of the body is read."""
        self.put("taken", b"x")
        path = self.path(self.create())
        named = {"Upload_Metadata": encode_metadata(Metadata(BlobId("taken")))}
        creating = {**TUS, "Upload_Length": "10", "Content_Type": OFFSET_STREAM}
        posts = f"POST /uploads/{USER}"
        for line, told, expected in (
            (posts, creating | named, "blob_exists"),
            (posts, creating | {"Upload_Length": str(QUOTA)} | META, "quota_exceeded"),
            (posts, creating | {"Upload_Length": str(3 * QUOTA)} | META, "too_large"),
            (posts, creating | {"Upload_Length": "4"} | META, "too_large"),
            (posts, creating | META | {"Content_Type": "text/plain"}, "unsupported_media_type"),
            (f"PATCH {path}", PATCH | {"Upload_Offset": "1"}, "wrong_offset"),
            (f"PATCH {path}", PATCH | {"Upload_Offset": "0", "Content_Length": "11"}, "too_large"),
            (f"PATCH {path}", PATCH | {"Upload_Offset": "0", "Content_Type": "text/plain"}, "unsupported_media_type"),
            (f"PATCH {path}x", PATCH | {"Upload_Offset": "0"}, "upload_not_found"),
        ):
            answer = self.connect().request(line, self.auth(**({"Content_Length": "5"} | told)))
            self.assertEqual(code(answer), expected, line)
            self.assertEqual(headers(answer)["tus-resumable"], "1.0.0")

    def test_told(self) -> None:
        """Refusals tell what a client can use."""
        path = self.path(self.create())
        self.patch_it(path, 0, DATA[:4])
        self.assertEqual(json.loads(content(self.patch_it(path, 9, b"x")))["offset"], 4)
        self.assertEqual(json.loads(content(self.patch_it(path, 4, DATA)))["limit"], 6)
        self.assertEqual(json.loads(content(self.create(QUOTA, blob="c")))["available"], QUOTA - 10)

    def test_length(self) -> None:
        """Bodies have a length, and so has the whole."""
        path = self.path(self.create())
        told = self.auth(**PATCH, Upload_Offset="0", Transfer_Encoding="chunked")
        self.assertEqual(code(self.connect().request(f"PATCH {path}", told)), "length_required")
        self.assertEqual(code(self.tus(f"POST /uploads/{USER}", **TUS, **META, Upload_Defer_Length="1")), "bad_request")

    def test_methods(self) -> None:
        """Other methods and paths are not offered."""
        answer = self.tus(f"GET /uploads/{USER}/x", **TUS)
        self.assertEqual((status(answer), headers(answer)["allow"]), (405, "DELETE, HEAD, OPTIONS, PATCH"))
        answer = self.tus(f"HEAD /uploads/{USER}", **TUS)
        self.assertEqual((status(answer), headers(answer)["allow"]), (405, "OPTIONS, POST"))
        for path in ("/uploads", f"/uploads/{USER}/x/y"):
            self.assertEqual(status(self.tus(f"HEAD {path}", **TUS)), 404)
        self.assertEqual(code(self.tus(f"POST /uploads/{USER}?namespace=x", **TUS, **META)), "bad_request")

    def test_garbage(self) -> None:
        """Headers that cannot be understood are refused, and nothing is begun."""
        for length in ("", "-1", "x", "1.0", "0x10", "9" * 19, "\u0661"):
            answer = self.tus(f"POST /uploads/{USER}", **TUS, **META, Upload_Length=length.encode().decode("latin-1"))
            self.assertEqual(code(answer), "bad_request", length)
        for value in ("", "blob_id", "blob_id a", "blob_id YQ==,blob_id YQ==", "blob_id  YQ==", "a b c", ",", "é YQ=="):
            self.assertEqual(code(self.create(Upload_Metadata=value)), "bad_request", value)
        for blob in (b"", b"a/b", b"..", b"\r\nX: y", "é".encode(), b"a" * 129):
            self.assertEqual(code(self.create(Upload_Metadata=f"blob_id {b64(blob)}")), "bad_request", str(blob))
        self.assertEqual(code(self.create(Upload_Metadata=f"blob_id YQ==,x {'A' * 4096}")), "bad_request")
        path = self.path(self.create(QUOTA))
        for offset in ("", "-1", "x", "1 ", "1,1"):
            told = PATCH | {"Upload_Offset": offset}
            self.assertIn(code(self.tus(f"PATCH {path}", b"x", **told)), ("bad_request", "wrong_offset"), offset)

    @given(st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=40))
    def test_any_metadata(self, value: str) -> None:
        """Whatever is said of an upload, it is understood or refused."""
        self.assertIn(status(self.create(1, Upload_Metadata=value.replace("\x7f", ""))), (201, 400))


META = {"Upload_Metadata": encode_metadata(Metadata(BlobId("free")))}

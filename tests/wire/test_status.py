"""Errors on the wire: one table, read both ways."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad import errors
from soledad.errors import BlobExists, BlobNotFound, QuotaExceeded, ServerFailed, SoledadError, UnexpectedAnswer
from soledad.wire.status import ERROR_BODY_LIMIT, TABLE, Entry, decode_error, encode_error

VALUES: dict[type, Any] = {str: "some-text", int: 7}


def example(entry: Entry) -> SoledadError:
    """Return an error of a row of the table."""
    return entry.error(**{name: VALUES[kind] for name, kind in entry.fields})


class TableTests(SynchronousTestCase):
    """Both directions."""

    def test_round_trip(self) -> None:
        """Each error of the table arrives as it was sent, with its fields."""
        for entry in TABLE:
            error = example(entry)
            status, body = encode_error(error)
            self.assertEqual(status, entry.status)
            arrived = decode_error(status, body)
            self.assertIs(type(arrived), entry.error)
            for name, _ in entry.fields:
                self.assertEqual(getattr(arrived, name), getattr(error, name))
            self.assertLess(len(body), ERROR_BODY_LIMIT)

    def test_unambiguous(self) -> None:
        """Status and code together name one error, and each error has one name."""
        self.assertEqual(len({(entry.status, entry.code) for entry in TABLE}), len(TABLE))
        self.assertEqual(len({entry.error for entry in TABLE}), len(TABLE))

    def test_body(self) -> None:
        """The body is an object with a code for programs and a text for people."""
        status, body = encode_error(BlobExists("b", "default"))
        value = json.loads(body)
        self.assertEqual((status, value["error"], value["blob_id"]), (409, "blob_exists", "b"))
        self.assertTrue(value["detail"])

    def test_others_tell_nothing(self) -> None:
        """An error that is not in the table is a 500 that says nothing of the server's insides."""
        for error in (ZeroDivisionError("secret"), errors.NotADatabase("/secret"), OSError(5, "x", "secret")):
            status, body = encode_error(error)
            self.assertEqual(status, 500)
            self.assertNotIn(b"secret", body)

    def test_known_is_surer(self) -> None:
        """What the client asked for is not replaced by what the server says it was."""
        status, body = encode_error(BlobExists("forged", "forged"))
        arrived = decode_error(status, body, {"blob_id": "b", "namespace": "n"})
        self.assertEqual(repr(arrived), repr(BlobExists("b", "n")))

    def test_fields_of_a_wrong_type(self) -> None:
        """A field that is not of its type, or too long, does no harm."""
        body = json.dumps({"error": "quota_exceeded", "asked": "all", "available": True}).encode()
        self.assertEqual(repr(decode_error(507, body)), repr(QuotaExceeded(None, None)))
        body = json.dumps({"error": "blob_exists", "blob_id": "x" * 10_000, "namespace": ["n"]}).encode()
        self.assertEqual(repr(decode_error(409, body)), repr(BlobExists("x" * 200, "")))


class PlainTests(SynchronousTestCase):
    """Answers without a code of ours: proxies', and those to ``HEAD``."""

    def test_plain(self) -> None:
        """Statuses that are plain are understood."""
        for status, kind in (
            (401, errors.Unauthorized),
            (403, errors.Forbidden),
            (408, errors.TransferTimeout),
            (412, errors.PreconditionFailed),
            (413, errors.TooLarge),
            (416, errors.UnsatisfiableRange),
            (429, ServerFailed),
            (500, ServerFailed),
            (502, ServerFailed),
            (504, ServerFailed),
            (507, ServerFailed),
            (302, UnexpectedAnswer),
            (400, UnexpectedAnswer),
            (409, UnexpectedAnswer),
        ):
            self.assertIs(type(decode_error(status, b"")), kind, str(status))

    def test_not_found(self) -> None:
        """A plain 404 is about what was asked for, if a blob was."""
        known = {"blob_id": "b", "namespace": "n"}
        self.assertEqual(repr(decode_error(404, b"", known)), repr(BlobNotFound("b", "n")))
        self.assertIsInstance(decode_error(404, b""), UnexpectedAnswer)

    def test_retried(self) -> None:
        """What may be worth another try says so by its class."""
        for status in (408, 429, 500, 502, 503, 504):
            self.assertIsInstance(decode_error(status, b""), errors.RetriableTransferError)

    @given(st.integers(300, 599), st.binary() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
    def test_anything(self, status: int, body: bytes | str) -> None:
        """Whatever a server sends, it is some error of ours."""
        data = body if isinstance(body, bytes) else body.encode()
        self.assertIsInstance(decode_error(status, data), SoledadError)

    def test_deep(self) -> None:
        """A body that is nested without end does no harm."""
        self.assertIsInstance(decode_error(500, b"[" * ERROR_BODY_LIMIT), ServerFailed)

"""The paths and headers of uploads that can be resumed."""

from __future__ import annotations

from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from soledad.errors import BadRequest
from soledad.model.ids import BlobId, Namespace, UserId
from soledad.wire.uploads import (
    METADATA_LIMIT,
    Metadata,
    UploadRoute,
    decode_checksum,
    decode_metadata,
    decode_number,
    encode_metadata,
    upload_of,
)

NAME = "0123456789abcdef" * 2


class RouteTests(SynchronousTestCase):
    """Paths."""

    def test_round_trip(self) -> None:
        """The server reads what the client builds."""
        for route in (UploadRoute(UserId("Al_ice")), UploadRoute(UserId("a"), NAME)):
            self.assertEqual(UploadRoute.parse(route.path.split("/")[2:], {}), route)

    def test_location(self) -> None:
        """A new upload is found from the path that it was asked at, wherever a proxy has that."""
        self.assertEqual(upload_of(UploadRoute(UserId("a"), NAME).location), NAME)
        self.assertEqual(upload_of(NAME + "\n"), None)

    def test_refused(self) -> None:
        """Users have ids; there are no arguments."""
        self.assertRaises(BadRequest, UploadRoute.parse, ["a.b"], {})
        self.assertRaises(BadRequest, UploadRoute.parse, ["a"], {"namespace": "x"})


class MetadataTests(SynchronousTestCase):
    """``Upload-Metadata``."""

    def test_as_tus_has_it(self) -> None:
        """Pairs of a name and base64, with commas between."""
        value = encode_metadata(Metadata(BlobId("a"), Namespace("ns")))
        self.assertEqual(value, "blob_id YQ==,namespace bnM=")
        self.assertEqual(decode_metadata(value), Metadata(BlobId("a"), Namespace("ns")))

    def test_others(self) -> None:
        """Names that mean nothing are passed over, with values or without; spaces around pairs too."""
        for value in ("blob_id YQ==", "x,blob_id YQ==,y eg==", "x , blob_id YQ==", "X-y.z! AAAA,blob_id YQ=="):
            self.assertEqual(decode_metadata(value), Metadata(BlobId("a")))

    def test_refused(self) -> None:
        """What is not well-formed, is said twice, has no id, or is too long."""
        long = "blob_id YQ==,x " + "A" * METADATA_LIMIT
        twice = "namespace bnM=,namespace bnM=,blob_id YQ=="
        for value in ("", "x", "blob_id", "blob_id Y", "blob_id ****", "blob_id\tYQ==", twice, long, "namespace bnM="):
            self.assertRaises(BadRequest, decode_metadata, value)

    @given(st.binary(max_size=200))
    def test_ids(self, value: bytes) -> None:
        """Only identifiers come out, whatever the base64 has."""
        try:
            told = decode_metadata(f"blob_id {b64encode(value).decode()}")
        except BadRequest:
            return
        self.assertEqual(told.blob_id.encode("ascii"), value)


class HeaderTests(SynchronousTestCase):
    """Numbers and checksums."""

    def test_numbers(self) -> None:
        """ASCII digits, not too many."""
        self.assertEqual(decode_number("0012", "X"), 12)
        for value in (None, "", "-1", "+1", "1 ", "\u0661", "1" * 19):
            self.assertRaises(BadRequest, decode_number, value, "X")

    def test_checksums(self) -> None:
        """An algorithm that is offered, and a digest of its length."""
        self.assertEqual(decode_checksum("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=")[0], "sha1")
        for value in ("", "sha1", "sha1 ", "sha1 Kq5s", "md5 Kq5sNclPz7QV2+lfQIuc6R7oRu0=", "SHA1 Kq5s", "sha256 *"):
            self.assertRaises(BadRequest, decode_checksum, value)

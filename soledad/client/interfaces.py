"""
The parts of the client, as they see each other.

Methods return Deferreds, may overlap, and can be cancelled: the Deferred then fires when nothing runs any more.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import IBodyProducer
from zope.interface import Interface

from soledad.model.blob import WHOLE, BlobInfo, ByteRange
from soledad.model.ids import DEFAULT, BlobId, Namespace
from soledad.wire.listing import Page
from soledad.wire.routes import ListRoute


class IRemoteBlobs(Interface):
    """
    One user's blobs on the server: opaque bytes, written once.

    Besides what is named, every method fails with a `TransferError`: `Unauthorized`, `ConnectionFailed`,
    `TransferTimeout`, `UnexpectedAnswer`, ...
    """

    def write_blob(blob_id: BlobId, producer: IBodyProducer, namespace: Namespace = DEFAULT) -> Deferred[None]:
        """
        Store all that ``producer`` yields; its ``length`` must be known.

        :return: fires once the server says that the blob is durable.
        :raise BlobExists: the id is taken; the stored blob is untouched.
        :raise QuotaExceeded: the server has no room for it.
        """

    def read_blob(
        blob_id: BlobId, consumer: IConsumer, namespace: Namespace = DEFAULT, wanted: ByteRange = WHOLE
    ) -> Deferred[None]:
        """
        Write the stored bytes, or a range of them, to ``consumer``, whose back-pressure is obeyed.

        :return: fires when exactly the bytes that were asked for have been written.
        :raise BlobNotFound: there is no such blob.
        :raise UnsatisfiableRange: the range begins behind the end.
        """

    def stat_blob(blob_id: BlobId, namespace: Namespace = DEFAULT) -> Deferred[BlobInfo]:
        """
        Ask what the server has, without its bytes (``flags`` and ``changed`` are not told).

        :raise BlobNotFound: there is no such blob.
        """

    def delete_blob(
        blob_id: BlobId, namespace: Namespace = DEFAULT, tombstone: bytes | None = None
    ) -> Deferred[None]:
        """
        Delete the blob; ``tombstone`` is kept and listed in its place.

        :raise BlobNotFound: there is no such blob.
        """

    def list_blobs(route: ListRoute) -> Deferred[Page]:
        """
        Return one page of a list.

        :raise StaleToken: the token is from before a restore: list from the beginning.
        """

    def count_blobs(route: ListRoute) -> Deferred[int]:
        """Return how many blobs the list would have."""

"""The parts of the server, as they see each other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import IBodyProducer
from zope.interface import Attribute, Interface

from soledad.errors import SoledadError, StorageError
from soledad.model.blob import WHOLE, BlobInfo, ByteRange, Flag
from soledad.model.ids import DEFAULT, BlobId, Namespace, RecordName, UserId
from soledad.wire.changes import Idle, NamesPage, Push, SyncHead, SyncPage
from soledad.wire.events import Heads
from soledad.wire.listing import Namespaces, Page
from soledad.wire.routes import PAGE


@frozen
class Place:
    """Where the bytes of one upload are: names are never used twice, so neither are places."""

    user: UserId
    namespace: Namespace
    blob_id: BlobId
    #: Random; tells one upload of an id from every other.
    upload: str


@frozen
class Stored:
    """What was stored: how many bytes, and their SHA-256 in hex."""

    length: int
    etag: str


@frozen
class Found:
    """One thing that a byte store holds, with its name there and how many seconds ago it was written."""

    name: str
    place: Place
    age: float
    #: Whether it was finished: else more was to come.
    complete: bool = True


@frozen
class Upload:
    """An upload that can be resumed, as it is at one moment."""

    place: Place
    #: Bytes of the whole blob.
    length: int
    #: Bytes that the server has durably.
    received: int
    #: It became a blob: all of them were received.
    done: bool
    #: What the client said of it when it began.
    described: str
    #: Unix time, seconds.
    expires: int

    @property
    def name(self) -> str:
        """What it is called."""
        return self.place.upload


@frozen
class Checksum:
    """What a part of an upload must have: the name of an algorithm of hashlib, and the digest."""

    algorithm: str
    digest: bytes


class IBlobsBackend(Interface):
    """
    Where a server keeps its users' blobs: opaque bytes, written once.

    Calls may overlap, and other processes may use the same blobs; a reader gets a whole blob or `BlobNotFound`, never
    half of one.  One user's reads and writes are linearizable.  Besides what is named, every method may fail with
    `NoSuchUser`, `StorageFull`, `StorageFailed`, and `ServerFailed` when the index is too busy.

    Cancelling a call before its commit point leaves nothing of it; after that the result stands.  Either way the
    Deferred fires when nothing runs any more.
    """

    def write_blob(
        user: UserId, blob_id: BlobId, producer: IBodyProducer, namespace: Namespace = DEFAULT
    ) -> Deferred[Stored]:
        """
        Store all that ``producer`` yields; if it fails, so does this, and nothing is stored.

        :return: fires once the blob is durable and readers can see it.
        :raise BlobExists: the id is taken; the stored blob is untouched.
        :raise QuotaExceeded: ``producer.length`` bytes are too many; none was asked for.
        :raise LengthRequired: ``producer.length`` is unknown; no byte was asked for.
        :raise WrongLength: the producer gave another number of bytes.
        """

    def write_blobs(
        user: UserId,
        wanted: Sequence[tuple[BlobId | None, int]],
        producer: IBodyProducer,
        namespace: Namespace = DEFAULT,
    ) -> Deferred[list[Stored | StorageError | None]]:
        """
        Store many blobs, whose bytes ``producer`` yields one after the other; if it fails, none is stored.

        :param wanted: the id and the number of bytes of each; of one without an id the bytes are dropped.
        :return: fires once all are durable and readers can see them, with what was stored, or `BlobExists` or
            `QuotaExceeded`, for each.  If none can be stored, the producer is not asked for a byte.
        :raise WrongLength: the producer gave another number of bytes.
        """

    def read_blobs(
        user: UserId, blob_ids: Sequence[BlobId], namespace: Namespace, limit: int, largest: int
    ) -> Deferred[list[bytes | SoledadError]]:
        """
        Return the first of many blobs: as many as have ``limit`` bytes together, one at least.

        :param largest: a blob of more bytes is `TooLarge`, and not read.
        :return: fires with the stored bytes, or an error, for each of them.
        """

    def read_blob(
        user: UserId,
        blob_id: BlobId,
        consumer: IConsumer,
        namespace: Namespace = DEFAULT,
        wanted: ByteRange = WHOLE,
        etag: str | None = None,
    ) -> Deferred[None]:
        """
        Write the stored bytes, or a range of them, to ``consumer``, whose back-pressure is obeyed.

        A blob that is deleted meanwhile is still read to its end.

        :param etag: the tag that the blob must have.
        :return: fires when the last byte was written.
        :raise BlobNotFound: there is no such blob (with that tag); nothing was written.
        :raise InvalidRange: the range begins behind the end; nothing was written.
        """

    def delete_blob(
        user: UserId,
        blob_id: BlobId,
        namespace: Namespace = DEFAULT,
        tombstone: bytes | None = None,
        etag: str | None = None,
    ) -> Deferred[None]:
        """
        Delete the blob; ``tombstone`` is kept and listed in its place until it expires.

        :param etag: the tag that the blob must have.
        :return: fires once that is durable.
        :raise BlobNotFound: there is no such blob.
        :raise PreconditionFailed: it has another tag.
        """

    def stat_blob(user: UserId, blob_id: BlobId, namespace: Namespace = DEFAULT) -> Deferred[BlobInfo]:
        """:raise BlobNotFound: there is no such blob."""

    def get_blob_size(user: UserId, blob_id: BlobId, namespace: Namespace = DEFAULT) -> Deferred[int]:
        """
        Return the number of stored bytes.

        :raise BlobNotFound: there is no such blob.
        """

    def get_tag(user: UserId, blob_id: BlobId, namespace: Namespace = DEFAULT) -> Deferred[str]:
        """
        Return the SHA-256 of the stored bytes, in hex.

        :raise BlobNotFound: there is no such blob.
        """

    def get_flags(user: UserId, blob_id: BlobId, namespace: Namespace = DEFAULT) -> Deferred[tuple[Flag, ...]]:
        """:raise BlobNotFound: there is no such blob."""

    def set_flags(
        user: UserId, blob_id: BlobId, flags: tuple[Flag, ...], namespace: Namespace = DEFAULT
    ) -> Deferred[None]:
        """
        Replace the flags.

        :raise BlobNotFound: there is no such blob.
        """

    def claim(user: UserId, blob_id: BlobId, seconds: int, namespace: Namespace = DEFAULT) -> Deferred[None]:
        """
        Take an item: its one flag is PROCESSING for so long, and PENDING after that, unless flags are set meanwhile.

        :raise BlobNotFound: there is no such blob.
        :raise BlobBusy: it is PROCESSING already.
        """

    def list_blobs(
        user: UserId,
        namespace: Namespace = DEFAULT,
        order_by: str | None = None,
        deleted: bool = False,
        filter_flag: Flag | None = None,
        after: str | None = None,
        limit: int = PAGE,
    ) -> Deferred[Page]:
        """
        Return one page of a namespace's blobs (or its tombstones), oldest first unless ``order_by`` is ``-date``.

        What is there from the first page to the last is listed exactly once.

        :param after: the ``next`` of the page before.
        :raise StaleToken: ``after`` is from before a restore.
        :raise BadRequest: ``after`` is no token.
        """

    def get_changes(user: UserId, since: str, namespace: Namespace = DEFAULT, limit: int = PAGE) -> Deferred[Page]:
        """
        Return what changed after ``since``, tombstones and flags included, in order of change.

        A blob that changed several times is listed once, with its last change.

        :param since: a ``head``, or the ``next`` of the page before.
        :raise StaleToken: ``since`` is from before a restore, or tombstones after it have expired.
        :raise BadRequest: ``since`` is no token.
        """

    def count(
        user: UserId, namespace: Namespace = DEFAULT, deleted: bool = False, filter_flag: Flag | None = None
    ) -> Deferred[tuple[int, str]]:
        """Return how many blobs the list has, and the ``head`` at that time."""

    def list_namespaces(user: UserId) -> Deferred[Namespaces]:
        """
        Return the namespaces of which the user has blobs or tombstones: the first of them, if there are many.

        How long that takes does not depend on how many blobs there are.
        """

    def get_total_storage(user: UserId) -> Deferred[int]:
        """Return the bytes of all the user's blobs together."""

    def create_upload(
        user: UserId, blob_id: BlobId, length: int, namespace: Namespace = DEFAULT, described: str = ""
    ) -> Deferred[Upload]:
        """
        Begin an upload that can be resumed, and set room for all of it aside; one of no bytes is a blob at once.

        It lasts until it becomes a blob, is abandoned, or expires, over the ends of processes.

        :param described: kept with it.
        :raise BlobExists: the id is taken.
        :raise QuotaExceeded: ``length`` bytes are too many.
        """

    def get_upload(user: UserId, upload: str) -> Deferred[Upload]:
        """
        Return what an upload has.  An `append_upload` of this process that is under way ends, so that it stays true.

        :raise UploadNotFound: there is none of that name, or it has expired.
        """

    def append_upload(
        user: UserId, upload: str, offset: int, producer: IBodyProducer, checksum: Checksum | None = None
    ) -> Deferred[Upload]:
        """
        Add what ``producer`` yields behind the first ``offset`` bytes; the last byte makes a blob of it.

        An earlier call for the same upload in this process ends.  If ``producer`` fails, or this is cancelled, what
        came until then is kept, unless there is a checksum.

        :return: fires once the bytes, or the blob, are durable.
        :raise UploadNotFound: there is none of that name, or it has expired.
        :raise UploadBusy: another process is at it, or a newer call is in this one.
        :raise WrongOffset: it has another number of bytes; none was asked for.
        :raise LengthRequired: ``producer.length`` is unknown; no byte was asked for.
        :raise TooLarge: ``producer.length`` is more than is missing; no byte was asked for.
        :raise ChecksumMismatch: the bytes have another; none of them was taken.
        :raise BlobExists: the id was taken meanwhile; nothing is left of the upload.
        """

    def abandon_upload(user: UserId, upload: str) -> Deferred[None]:
        """
        End an upload; nothing is left of it.  If it has become a blob, that stays.

        :raise UploadNotFound: there is none of that name, or it has expired.
        :raise UploadBusy: another process is at it, or a newer call is in this one.
        """


class ISocketConsumer(IConsumer):
    """A consumer of bytes that go to a socket just as they are written."""

    def socket() -> int | None:
        """
        Return a descriptor of that socket, which the caller closes; `None`: there is none, or it is not so simple.

        It may be written to whenever a producer is resumed, as then all that was written is gone, until the next
        `write`; it does not block.
        """

    def sent(size: int) -> None:
        """Count bytes that were written to the socket."""


class IByteStore(Interface):
    """
    Where the bytes are, one run of them for each `Place`: the part of a backend that another engine replaces.

    It knows nothing of quotas, users' rights, and which bytes count: that the index says.  Nothing here blocks: every
    method returns a Deferred at once and does its blocking work elsewhere.
    """

    def write(place: Place, producer: IBodyProducer) -> Deferred[Stored]:
        """
        Store all that ``producer`` yields; if it fails, or this is cancelled, nothing is kept.

        :return: fires once the bytes would survive a power cut.
        :raise StorageFull: there is no room.
        :raise StorageFailed: the bytes may not be durable.
        """

    def write_many(
        portions: Sequence[tuple[Place | None, int]], producer: IBodyProducer
    ) -> Deferred[list[Stored | None]]:
        """
        Store what ``producer`` yields, cut into portions of so many bytes; one without a place is dropped.

        :return: fires once all of it would survive a power cut.  If it fails, or is cancelled, nothing is kept.
        :raise StorageFull: there is no room.
        :raise StorageFailed: the bytes may not be durable.
        """

    def read_many(places: Sequence[tuple[Place, int]]) -> Deferred[list[bytes | StorageError]]:
        """Return all bytes of each place, so many as are named, or an error: for what is small."""

    def read(place: Place, consumer: IConsumer, start: int, length: int) -> Deferred[None]:
        """
        Write ``length`` bytes from ``start`` on to ``consumer``.

        Once it has begun, deleting the place does not disturb it.

        :raise BlobNotFound: there is nothing at that place; nothing was written.
        :raise WrongLength: there are fewer bytes than that.
        """

    def size(place: Place) -> Deferred[int]:
        """:raise BlobNotFound: there is nothing at that place."""

    def delete(place: Place) -> Deferred[None]:
        """Remove what is at the place, if there is anything."""

    def put_aside(place: Place) -> Deferred[str]:
        """
        Keep what is at the place where no place is, for a person to look at; return where.

        :raise BlobNotFound: there is nothing at that place.
        """

    def list(after: str = "", limit: int = PAGE) -> Deferred[list[Found]]:
        """Return up to ``limit`` things whose names come after ``after``, in the order of the names."""

    def begin(place: Place) -> Deferred[None]:
        """Make a place for bytes that come in parts; fires once that would survive a power cut."""

    def resume(place: Place) -> Deferred[IPart]:
        """
        Go on with bytes that come in parts.

        :raise BlobNotFound: nothing was begun at that place.
        :raise UploadBusy: somebody else is at it, perhaps in another process.
        """


class IPart(Interface):
    """Bytes that come in parts, at one place, and nobody else's until `close`.  One call at a time."""

    durable: int = Attribute("How many bytes would survive a power cut; whatever became of `append`.")

    def go_to(start: int) -> Deferred[None]:
        """
        Let what is there behind ``start`` go; to be called before anything else.

        :raise BlobNotFound: there are less than ``start`` bytes.
        """

    def append(producer: IBodyProducer, on_durable: Callable[[int], object], digest: Any = None) -> Deferred[None]:
        """
        Write all that ``producer`` yields, and begin at once.

        If ``producer`` fails, or this is cancelled, what came until then is kept.

        :param on_durable: is told now and then how many bytes would survive a power cut.
        :param digest: an object of hashlib that is fed the new bytes.
        :return: fires once all bytes would survive a power cut.
        """

    def finish() -> Deferred[Stored]:
        """Make what there is the whole, at its place; fires once that would survive a power cut."""

    def close() -> Deferred[None]:
        """Let others have it."""


class IRecordsBackend(Interface):
    """
    Where a server keeps its users' sealed records, the newest of each name, and one checkpoint over them all.

    Calls may overlap, and other processes may use the same records.  What an answer has is of one moment, the head
    with it; pushes of one user are linearizable.  Besides what is named, every method may fail with `NoSuchUser`,
    `StorageFull`, `StorageFailed`, and `ServerFailed` when the database is too busy.
    """

    def head(user: UserId) -> Deferred[SyncHead]:
        """Return the head."""

    def pull(user: UserId, since: str, known: str | None, limit: int) -> Deferred[SyncPage | Idle]:
        """
        Return the next records in the order of change, ended early if they are many bytes.

        :param since: the cursor of a page or a head; empty: from the beginning.
        :param known: a head's tag: if it is still that one, there is no page.
        :param limit: records, at most; 0: the head alone.
        :raise StaleToken: ``since`` was not given out in this history.
        """

    def names(user: UserId, after: str, limit: int) -> Deferred[NamesPage]:
        """Return names and hashes of the records whose names come after ``after``, in the order of names."""

    def fetch(user: UserId, names: Sequence[RecordName]) -> Deferred[SyncPage]:
        """Return those of the named records that there are, in the order of names, ended early as `pull` does."""

    def push(user: UserId, push: Push, follows: str | None) -> Deferred[SyncHead]:
        """
        Store records and a checkpoint, all or nothing.

        :param follows: the tag of the head that it follows; `None`: there is none yet.
        :return: fires with the new head once it is durable and readers can see it.
        :raise PreconditionFailed: the head is another one; nothing was stored.
        :raise QuotaExceeded: there is no room; nothing was stored.
        """

    def damaged(after: tuple[UserId, str] | None) -> Deferred[tuple[list[str], tuple[UserId, str] | None]]:
        """
        Look at some records and checkpoints of all users, whether they are what was stored.

        :param after: where to go on; `None`: from the beginning.
        :return: those that are not, as ``user/name``, and where to go on; `None`: that was all.
        """


class IKeyringsBackend(Interface):
    """
    Where a server keeps its users' keyrings: one for each user, opaque, of a few kilobytes.

    One user's reads and writes are linearizable, also between processes.  Besides what is named, every method may
    fail with `StorageFailed`, and with `ServerFailed` when the database is too busy.
    """

    def read_keyring(user: UserId) -> Deferred[tuple[bytes, str]]:
        """
        Return a keyring and its tag: its SHA-256 in hex.

        :raise KeyringNotFound: there is none.
        """

    def write_keyring(user: UserId, data: bytes, expected: str | None) -> Deferred[str]:
        """
        Store a keyring in the place of the one that has the tag ``expected``; `None`: of none at all.

        :return: fires with the new tag, once it is durable and readers see it.
        :raise PreconditionFailed: something else is there, which is untouched.
        :raise NoSuchUser: there is no such user.
        :raise StorageFull: there is no room for it.
        """


class IHeadsBackend(Interface):
    """What tells one state of users from another, for those that wait for a change."""

    def read_heads(wanted: Collection[UserId]) -> Deferred[dict[UserId, Heads]]:
        """Return the heads of those users that there are; of each, all of one moment."""

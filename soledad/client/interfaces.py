"""
The parts of the client, as they see each other.

Methods return Deferreds, may overlap, and can be cancelled: the Deferred then fires when nothing runs any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol, TypeAlias

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer
from twisted.web.iweb import IBodyProducer
from zope.interface import Interface

from soledad.errors import SoledadError
from soledad.model.attachment import Pointer
from soledad.model.blob import (
    WHOLE,
    BlobInfo,
    BlobKey,
    ByteRange,
    Flag,
    KnownBlob,
    Priority,
    Sealed,
    SyncEvent,
    SyncStatus,
)
from soledad.model.conflict import Applied, Versions
from soledad.model.document import Changes, Snapshot, Stored, Written
from soledad.model.ids import DEFAULT, BlobId, DocId, Namespace, RecordName
from soledad.model.index import Bound, Key, Slice
from soledad.model.retention import Condemned, Plan, Referring
from soledad.model.syncing import Following, Known, KnownRecord, Look, Outgoing, Pending, Pulled, Sent, Standing
from soledad.model.tampering import Incident, Problem, TamperPolicy
from soledad.model.transfer import Direction, Queued
from soledad.wire.changes import NAMES_LIMIT, RECORDS_LIMIT, Idle, NamesPage, SyncHead, SyncPage
from soledad.wire.events import Heads
from soledad.wire.listing import Namespaces, Page
from soledad.wire.routes import ListRoute

Buffer: TypeAlias = bytes | bytearray | memoryview


class Container(Protocol):
    """A sealed container, open for reading at any place.  Blocks, unless it is in memory; used in workers then."""

    @property
    def in_memory(self) -> bool:
        """Whether all of it is here already, and little: nothing blocks then."""

    def read_into(self, start: int, out: memoryview) -> int:
        """Fill ``out`` with the bytes from ``start`` on; return how many there were."""

    def read(self, start: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``start`` on."""

    def close(self) -> None:
        """Close it; closing twice is harmless."""


@frozen
class Spooled:
    """A complete container, durable if it is a file, though nothing refers to it yet: one of the two is set."""

    size: int
    inline: bytes | None = field(repr=False, default=None)
    file: str | None = None


class Spool(Protocol):
    """
    Takes one container as it comes.  Blocks; used in workers.

    Every method fails with `StorageFull` when the disk is full and `StorageFailed` when it fails.
    """

    def write(self, data: Buffer) -> None:
        """Take the next bytes."""

    def finish(self) -> Spooled:
        """Make it durable, and return it."""

    def discard(self) -> None:
        """Leave nothing of it."""


class Partial(Protocol):
    """
    The file with the beginning of a container that is coming.  Blocks; used in workers; errors as `Spool`.

    What is written is not durable before `finish`; whoever opens it again verifies what there is.
    """

    @property
    def size(self) -> int:
        """Bytes that there are."""

    def read_into(self, start: int, out: memoryview) -> int:
        """Fill ``out`` with the bytes from ``start`` on; return how many there were."""

    def cut(self, size: int) -> None:
        """Forget what is behind the first ``size`` bytes."""

    def write(self, data: Buffer) -> None:
        """Take the next bytes."""

    def finish(self) -> Spooled:
        """Make it durable, and return it as a whole container."""

    def close(self) -> None:
        """Leave it as it is; closing twice is harmless."""


class IDocuments(Interface):
    """
    The documents of this device.

    What changes something fires once it is durable, and fails with `StorageFull` or `StorageFailed` when nothing
    was changed.  Cancelling works until the change is under way.
    """

    def put_all(
        ids: Sequence[DocId], revs: Sequence[str], snapshots: Sequence[Snapshot], limit: int | None
    ) -> Deferred[list[Written]]:
        """
        Store what documents held, all or none.

        :param revs: the revision that each was made from; empty: none.
        :param limit: bytes of text that each may have.
        :raise InvalidContent: it has what no content may have.
        :raise DocumentTooBig: it has more.
        :raise ConflictedDoc: it is in conflict.
        :raise RevisionConflict: the stored revision is another one.
        """

    def delete(doc_id: DocId, rev: str) -> Deferred[Written]:
        """
        Leave a tombstone.

        :raise DocumentDoesNotExist: there is no such document.
        :raise RevisionConflict: the stored revision is not ``rev``.
        :raise DocumentAlreadyDeleted: it is a tombstone already.
        :raise ConflictedDoc: it is in conflict.
        """

    def apply_all(incoming: Sequence[Versions]) -> Deferred[list[Applied]]:
        """
        Join the versions of documents that another store has with those of this one, all or none.

        :return: fires with what became of each.
        """

    def resolve(
        doc_id: DocId, rev: str, snapshot: Snapshot, settled: Collection[str], limit: int | None
    ) -> Deferred[Written]:
        """
        Let what a document held be current in the place of the versions that are ``settled``; the others remain.

        :param rev: the revision that it was made from; empty: none.
        :param settled: revisions.
        :raise InvalidContent: it has what no content may have.
        :raise DocumentTooBig: it has more than ``limit`` bytes of text.
        :raise DocumentDoesNotExist: there is no such document.
        :raise RevisionConflict: the current revision is not among those that are settled.
        """

    def get_conflicts(doc_id: DocId) -> Deferred[list[Stored]]:
        """Return the current version and then the alternatives, by revision; nothing if there is no conflict."""

    def get(doc_id: DocId) -> Deferred[Stored | None]:
        """Return a document or a tombstone; `None`: there is none."""

    def get_many(doc_ids: Sequence[DocId]) -> Deferred[list[Stored]]:
        """Return documents and tombstones in the order asked; those that are missing are left out."""

    def get_all(include_deleted: bool) -> Deferred[tuple[int, list[Stored]]]:
        """Return the generation, and all documents ordered by id."""

    def get_rev(doc_id: DocId) -> Deferred[str | None]:
        """Return the stored revision."""

    def whats_changed(generation: int) -> Deferred[Changes]:
        """Return what changed after a generation, each document once, at its latest change, ascending."""


class IJournal(Interface):
    """
    What this device knows of the documents on the server, and what it has still to send there.

    What changes something fires once it is durable, and fails with `StorageFull` or `StorageFailed` when nothing
    was changed.  One sync at a time uses it.
    """

    def look() -> Deferred[Look]:
        """Return what there is to know before a sync begins."""

    def enter(server: str, account: bytes) -> Deferred[None]:
        """Begin with a server (its URL) and an account; with others than before, nothing is known of the server."""

    def history(server: str) -> Deferred[str | None]:
        """Return the history that the server had when a head of it was accepted last."""

    def known(names: Sequence[RecordName]) -> Deferred[dict[RecordName, KnownRecord]]:
        """Return what is known of records."""

    def known_and_sent(names: Sequence[RecordName]) -> Deferred[Known]:
        """Do so, and return what was counted for the push that was kept."""

    def hashes() -> Deferred[dict[RecordName, bytes]]:
        """Return names and hashes of all records that the server has, as far as is known."""

    def take(arrivals: Sequence[Pulled], now: Standing, written: Callable[[], object]) -> Deferred[list[Applied]]:
        """
        Take records, and note them and how far that is, in one transaction; fire with what became of them.

        :param written: is called when all is done but for the commit, perhaps more than once.
        """

    def missing(names: Collection[RecordName], now: Standing) -> Deferred[None]:
        """Note that the server has lost records: what is here of them is to be sent again."""

    def outgoing(records: int, size: int) -> Deferred[list[Outgoing]]:
        """
        Return documents that are to be sent: so many at most, and no more once they have ``size`` bytes of text.

        They are ordered by their ids.
        """

    def outgoing_behind(records: int, size: int, last: DocId) -> Deferred[list[Outgoing]]:
        """Do so with those behind a document; what was changed since `outgoing` may be missing."""

    def hold_back(found: Sequence[tuple[Problem, DocId]], same: Sequence[tuple[DocId, int]]) -> Deferred[None]:
        """Let documents not go out: because of problems, or because the server has them just so."""

    def keep(push: Pending, sent: Sequence[Sent]) -> Deferred[None]:
        """Keep a push, to the byte, before it is sent."""

    def settle(now: Standing) -> Deferred[None]:
        """Note that the push arrived; documents that were changed since they were read for it wait for the next one."""

    def go_on(now: Standing, following: Following, written: Callable[[], object]) -> Deferred[None]:
        """
        Do as `settle`, and keep the next push, in one transaction.

        :param written: is called when all is done but for the commit, perhaps more than once.
        """

    def replace(names: Collection[RecordName]) -> Deferred[list[RecordName]]:
        """
        Let what is here of documents be sent in the place of records that are set aside.

        :return: those of which there is something here; they are set aside no more.
        """

    def forget() -> Deferred[None]:
        """Keep no push any more: it was refused."""

    def accept(
        now: Standing, found: str | None, arrived: bool, is_over: bool, others: Sequence[Incident]
    ) -> Deferred[list[Incident]]:
        """
        Accept a head.

        :param found: its history.
        :param arrived: whether the push that was kept is in it.
        :param is_over: whether it is clear what became of that push.
        :param others: what other devices have found; fires with what of it was not known.
        """

    def note(found: Sequence[tuple[Incident, str]], told: bool = False) -> Deferred[list[Incident]]:
        """
        Note what was found, each with the evidence; fire with what was not known before.

        :param told: whether the other devices know it.
        """

    def stand(now: Standing) -> Deferred[None]:
        """Note how far this device is."""

    def become() -> Deferred[list[tuple[DocId, Written]]]:
        """
        Take a new name as a replica, as this store is a copy; count what the server has not got under it.

        :return: fires with what was written.
        """

    def problems() -> Deferred[list[Problem]]:
        """Return what is set aside."""

    def incidents() -> Deferred[list[Incident]]:
        """Return what was found, here and by other devices."""

    def policy() -> Deferred[TamperPolicy]:
        """Return what is done when something is found."""

    def set_policy(wanted: TamperPolicy) -> Deferred[None]:
        """Do something else from now on."""


class IQueries(Interface):
    """
    The indexes of this device's documents.

    What changes something fires once it is durable, and fails with `StorageFull` or `StorageFailed` when nothing
    was changed.  Expressions, fields and names were looked at before.
    """

    def create_index(name: str, expressions: Sequence[str]) -> Deferred[None]:
        """
        Make an index of all documents that there are, and will be; the same one again is no change.

        :raise IndexNameTakenError: there is another one of that name.
        :raise TooManyKeys: a document has too many keys for it.
        """

    def delete_index(name: str) -> Deferred[None]:
        """Remove an index. :raise IndexDoesNotExist: there is none of that name."""

    def list_indexes() -> Deferred[list[tuple[str, list[str]]]]:
        """Return names and expressions, in the order in which the indexes were made."""

    def get_range(name: str, start: Bound, end: Bound, some: Slice) -> Deferred[list[Stored]]:
        """
        Return the documents that have a key between two bounds, in the order of their keys, and then of their ids.

        :raise IndexDoesNotExist: there is no such index.
        :raise InvalidValueForIndex: a bound has not one value for each column.
        :raise InvalidGlobbing: something else than a wildcard stands behind a wildcard.
        """

    def count(name: str, start: Bound, end: Bound) -> Deferred[int]:
        """Return how many documents `get_range` answers with; errors as there."""

    def keys(name: str, some: Slice) -> Deferred[list[Key]]:
        """
        Return the different keys of all documents, ascending.

        :raise IndexDoesNotExist: there is no such index.
        """

    def create_text_index(name: str, fields: Sequence[str]) -> Deferred[None]:
        """Make a text index; see `create_index`."""

    def delete_text_index(name: str) -> Deferred[None]:
        """Remove a text index. :raise IndexDoesNotExist: there is none of that name."""

    def list_text_indexes() -> Deferred[list[tuple[str, list[str]]]]:
        """Return names and fields, in the order in which the indexes were made."""

    def search(name: str, query: str, some: Slice) -> Deferred[list[Stored]]:
        """
        Return the documents that match, the best first.

        :raise IndexDoesNotExist: there is no such index.
        :raise InvalidSearch: the query cannot be understood.
        """


class ILocalBlobs(Interface):
    """
    The sealed blobs of this device: what is known of them, and their bytes.

    What changes something fires once it is durable, and fails with `StorageFull` or `StorageFailed` when nothing
    was changed.  Cancelling works until the change is under way.
    """

    def get(key: BlobKey) -> Deferred[KnownBlob | None]:
        """Return what this device knows of a blob."""

    def open(key: BlobKey) -> Deferred[tuple[KnownBlob, Container]]:
        """
        Open a blob's container; it stays readable whatever becomes of the blob.

        :raise BlobNotFound: its bytes are not here; that its file was lost is noted.
        """

    def spool() -> Spool:
        """Return something to write a new container to."""

    def put(
        key: BlobKey,
        sealed: Sealed,
        spooled: Spooled,
        status: SyncStatus = SyncStatus.UNREFERENCED,
        priority: Priority = Priority.MEDIUM,
    ) -> Deferred[None]:
        """
        Add a blob of this device's.  An ``UNREFERENCED`` one is condemned until something refers to it.

        :raise BlobExists: the id is taken; nothing is left of the container.
        """

    def put_made(
        key: BlobKey, make: Callable[[], tuple[Sealed, bytes]], status: SyncStatus, priority: Priority
    ) -> Deferred[Sealed]:
        """
        Do as `put` with a small container that ``make`` returns, called in the worker: many share one way there.

        It may be called more than once.
        """

    def arrive(key: BlobKey, sealed: Sealed, spooled: Spooled) -> Deferred[SyncStatus]:
        """
        Take the verified bytes of a blob that was not here; fire with its status.

        :raise BlobNotFound: it was deleted in the meantime, or is not the same any more.
        """

    def change(key: BlobKey, event: SyncEvent) -> Deferred[SyncStatus]:
        """Note what happened to a blob that is known; fire with its status after it."""

    def learn(key: BlobKey, sealed: Sealed, event: SyncEvent) -> Deferred[SyncStatus]:
        """Note what the server says of a blob, known or not; fire with its status after it."""

    def refer(pointers: Sequence[Pointer], dropped: Collection[BlobId]) -> Deferred[None]:
        """Keep, and queue, what a saved document points at; condemn what nothing refers to since."""


@frozen
class Scope:
    """Which transfers are meant."""

    directions: frozenset[Direction]
    #: `None`: of all namespaces.
    namespace: Namespace | None = None

    def includes(self, key: BlobKey, direction: Direction) -> bool:
        """Tell whether a transfer is meant."""
        return direction in self.directions and self.namespace in (None, key.namespace)


@frozen
class Outcome:
    """What became of a transfer."""

    key: BlobKey
    #: What was sent, or came.
    commitment: bytes
    event: SyncEvent
    #: The tag on the server, as far as it is known.
    etag: str | None = None
    #: Why it failed.
    reason: str | None = None


@frozen
class Arrival:
    """A container that came, whole and verified."""

    key: BlobKey
    sealed: Sealed
    spooled: Spooled
    etag: str | None = None


@frozen
class Listed:
    """An entry of a list, and what its tombstone is worth."""

    entry: BlobInfo
    #: The commitments that the tombstone names, if the keys opened it.
    deleted: frozenset[bytes] = frozenset()


class IBlobQueue(Interface):
    """
    What is to be sent, fetched and deleted: kept with the blobs, over any end of the process; errors as `ILocalBlobs`.

    A transfer is *asked for* by giving it a time; one that went well, or failed for good, has none.
    """

    def ask(scope: Scope, now: float) -> Deferred[int]:
        """Ask for all transfers of a scope, at once, whatever they wait for; fire with how many bytes these are."""

    def due(scope: Scope | None, now: float, limit: int) -> Deferred[list[Queued]]:
        """Return transfers that were asked for and whose time has come, the most urgent, then the oldest, first."""

    def next_time(now: float) -> Deferred[float | None]:
        """Return when the next transfer is to be tried; ``now``, where `due` takes a time for the present."""

    def look_up(key: BlobKey) -> Deferred[Queued | None]:
        """Return what is known of a blob."""

    def contents(keys: Sequence[BlobKey]) -> Deferred[list[bytes | None]]:
        """Return the containers that are kept in the database; `None` for the others."""

    def note_upload(key: BlobKey, upload: str | None) -> Deferred[None]:
        """Keep the name of an upload that the server keeps."""

    def note_progress(key: BlobKey, size: int, etag: str | None) -> Deferred[None]:
        """Keep how many bytes of a transfer are done, and the tag of what is coming."""

    def note_known(key: BlobKey, sealed: Sealed, etag: str | None) -> Deferred[None]:
        """Keep what authentic bytes say of a blob that only a list had told of."""

    def partial(key: BlobKey) -> Deferred[Any]:
        """Open the file for what comes of a blob, a `Partial`, which is kept when the process ends."""

    def drop_partial(key: BlobKey) -> Deferred[None]:
        """Leave nothing of what has come of a blob."""

    def arrive(arrivals: Sequence[Arrival]) -> Deferred[list[SyncStatus | None]]:
        """Take blobs that came; fire with their statuses, `None` for those that were deleted in the meantime."""

    def settle(outcomes: Sequence[Outcome]) -> Deferred[list[SyncStatus | None]]:
        """Note what became of transfers; fire with the statuses, `None` for what is not the same blob any more."""

    def postpone(keys: Sequence[BlobKey], until: float, reason: str, failed: bool, rejected: bool) -> Deferred[None]:
        """Try transfers again later.

        :param failed: count it as an attempt.
        :param rejected: count it as a failed verification.
        """

    def postpone_all(scope: Scope | None, until: float, reason: str) -> Deferred[None]:
        """Let no transfer be tried before a time."""

    def hold(key: BlobKey) -> Deferred[None]:
        """Ask no more for a transfer, and keep what has gone or come."""

    def withdraw(key: BlobKey, event: SyncEvent | None) -> Deferred[None]:
        """Ask no more for a transfer, and leave nothing of what has come."""

    def delete(key: BlobKey) -> Deferred[bool]:
        """Let a blob be deleted, here at once; fire with whether there was one."""

    def forget(key: BlobKey, commitment: bytes) -> Deferred[None]:
        """
        Note that a deletion was carried out: nothing is left of the blob, or what replaces it may go there.

        :param commitment: of what was deleted.
        """

    def buried(key: BlobKey, limit: int) -> Deferred[list[bytes]]:
        """Return the commitments of what was deleted under an id before, the latest first."""

    def head(namespace: Namespace) -> Deferred[str | None]:
        """Return what to go on from with the list of a namespace's changes."""

    def namespaces() -> Deferred[list[Namespace]]:
        """Return all namespaces that this device knows."""

    def begin_comparing(namespace: Namespace) -> Deferred[None]:
        """Begin a full comparison: what is not listed from now on was not seen."""

    def compare(listed: Sequence[Listed]) -> Deferred[list[Queued]]:
        """Note what a list says; fire with the blobs of which only the header on the server can tell more."""

    def end_comparing(namespace: Namespace) -> Deferred[None]:
        """End a full comparison: what the server ought to have, and was not seen, is missed there."""

    def note_head(namespace: Namespace, head: str) -> Deferred[None]:
        """Keep what to go on from."""

    def is_waiting() -> Deferred[bool]:
        """Tell whether any blob waits to go, to come, or to be deleted, asked for or not."""

    def is_settled(changes: str) -> Deferred[bool]:
        """Tell whether all that the server had at that change of its blobs was looked at, and nothing waits since."""

    def note_settled(changes: str) -> Deferred[None]:
        """Keep that all that the server had at a change of its blobs was looked at."""

    def replace(key: BlobKey, commitment: bytes, size: int, etag: str | None) -> Deferred[None]:
        """
        Let a blob be another one, which is on the server under its id, and drop what is here.

        :param commitment: of what it is now; if that is not so, nothing happens.
        :param size: bytes that the other one has.
        """

    def list(namespace: Namespace, status: SyncStatus | None) -> Deferred[list[Queued]]:
        """Return the blobs of a namespace that are not deleted, by id."""

    def count(namespace: Namespace | None) -> Deferred[dict[SyncStatus, int]]:
        """Return how many blobs have which status."""

    def set_priority(key: BlobKey, priority: Priority) -> Deferred[None]:
        """Let a blob go sooner or later. :raise BlobNotFound: this device knows no such blob."""


class IRetention(Interface):
    """
    What stays on this device and what goes, among its blobs; changes as `ILocalBlobs`.

    Bytes that go, go after that is durable; who has them open reads on.
    """

    def pass_time(now: float) -> Deferred[None]:
        """Count, for all that is condemned, the time since this was called last; ``now``: what the clock shows."""

    def due(after_id: int, limit: int) -> Deferred[list[Condemned]]:
        """Return attachments whose grace period is over, by their row's number, from behind ``after_id`` on."""

    def carry_out(plan: Plan) -> Deferred[None]:
        """Do what was decided about condemned blobs, unless they were revived since."""

    def kept(after_id: BlobId, limit: int) -> Deferred[list[BlobId]]:
        """Return attachments that are not condemned, ascending, from behind ``after_id`` on."""

    def gone(blob_ids: Collection[BlobId]) -> Deferred[list[BlobId]]:
        """Return those attachments of which nothing is here any more."""

    def give_back() -> Deferred[bool]:
        """When nothing is being written, give some room back to the file system; fire with whether there is more."""

    def pin(key: BlobKey, pinned: bool) -> Deferred[SyncStatus]:
        """
        Let a blob's bytes stay here, or not any longer; fire with its status after it.

        :raise BlobNotFound: this device knows no such blob.
        """

    def evictable(key: BlobKey) -> Deferred[KnownBlob]:
        """
        Return what is known of a blob, unless its bytes have to stay.

        :raise BlobNotFound: this device knows no such blob.
        :raise NotEvictable: it is pinned, or is on this device only.
        """

    def evict(key: BlobKey) -> Deferred[SyncStatus]:
        """Drop the bytes of a blob that the server has; fire with its status after it.  Errors as `evictable`."""

    def used(key: BlobKey) -> None:
        """Remember that a blob was read just now; see `note_uses`."""

    def note_uses() -> Deferred[None]:
        """Make durable which blobs were used since this was called last."""

    def excess(budget: int, limit: int) -> Deferred[tuple[int, list[KnownBlob]]]:
        """
        Return by how many bytes the attachments that are here exceed a budget.

        :return: fires with this number, and at most ``limit`` of those that may go, the least recently used first.
        """

    def set_budget(limit: int | None) -> Deferred[None]:
        """Note how many bytes of attachments are to be here at most."""

    def on_bytes(callback: Callable[[], object]) -> None:
        """Call ``callback()`` each time bytes of a blob have come to be here."""


class IReferences(Interface):
    """What the documents of this device refer to; answers come after those of all writes that were asked for before."""

    def referring(blob_ids: Collection[BlobId]) -> Deferred[Referring]:
        """Return what the documents say of some blobs."""

    def all_dropped(after: BlobId, limit: int) -> Deferred[list[BlobId]]:
        """Return blobs that a version written here refers to no more, ascending, from behind ``after`` on."""

    def forget_dropped(blob_ids: Collection[BlobId]) -> Deferred[None]:
        """Answer no longer for blobs that are gone."""


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
        blob_id: BlobId,
        consumer: IConsumer,
        namespace: Namespace = DEFAULT,
        wanted: ByteRange = WHOLE,
        etag: str | None = None,
        on_tag: Callable[[str], object] | None = None,
    ) -> Deferred[None]:
        """
        Write the stored bytes, or a range of them, to ``consumer``, whose back-pressure is obeyed.

        :param etag: the tag that the blob must have: a range goes on with bytes that came earlier (``If-Range``).
        :param on_tag: is told the tag of the stored bytes before the first of them is written.
        :return: fires when exactly the bytes that were asked for have been written.
        :raise BlobNotFound: there is no such blob.
        :raise PreconditionFailed: the stored blob has another tag; nothing was written.
        :raise UnsatisfiableRange: the range begins behind the end.
        """

    def stat_blob(blob_id: BlobId, namespace: Namespace = DEFAULT) -> Deferred[BlobInfo]:
        """
        Ask what the server has, without its bytes (``flags`` and ``changed`` are not told).

        :raise BlobNotFound: there is no such blob.
        """

    def delete_blob(blob_id: BlobId, namespace: Namespace = DEFAULT, tombstone: bytes | None = None) -> Deferred[None]:
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

    def list_namespaces() -> Deferred[Namespaces]:
        """Return the namespaces of which the server has blobs or tombstones, `NAMESPACES_LIMIT` of them at most."""

    def get_flags(blob_id: BlobId, namespace: Namespace = DEFAULT) -> Deferred[tuple[Flag, ...]]:
        """
        Return the flags of a blob.

        :raise BlobNotFound: there is no such blob.
        """

    def set_flags(blob_id: BlobId, flags: Sequence[Flag], namespace: Namespace = DEFAULT) -> Deferred[None]:
        """
        Replace the flags of a blob; ends a claim on it.

        :raise BlobNotFound: there is no such blob.
        """

    def claim(blob_id: BlobId, seconds: int, namespace: Namespace = DEFAULT) -> Deferred[None]:
        """
        Take an item: it is PROCESSING for so many seconds (a day at most), unless its flags are set meanwhile.

        After that it is PENDING again.

        :raise BlobNotFound: there is no such blob.
        :raise BlobBusy: it is PROCESSING already.
        """


class IRemoteEvents(Interface):
    """What the server tells of one user's things; errors as `IRemoteBlobs`."""

    def listen(on_heads: Callable[[Heads], object]) -> Deferred[None]:
        """
        Call ``on_heads`` with the state of things at once, and with each later one, until this is cancelled.

        Of states that follow each other quickly some may be left out, never the last.

        :return: fires when the server has ended it: it may be begun again.
        """


class IRemoteKeys(Interface):
    """
    One user's keyring on the server: its shared part, opaque to the server; errors as `IRemoteBlobs`.

    What it is worth, who has keys has to say.
    """

    def get() -> Deferred[bytes]:
        """
        Return what the server has.

        :raise KeyringNotFound: there is none.
        """

    def put(data: bytes, replaced: bytes | None) -> Deferred[None]:
        """
        Store ``data`` in the place of what the server has.

        :param replaced: SHA-256 of what that must be; `None`: there must be nothing.
        :return: fires once it is durable.
        :raise PreconditionFailed: something else is there, which is untouched.
        :raise TooLarge: the server takes no keyring of that size.
        """


class IRemoteUploads(Interface):
    """
    Uploads to the server that can be resumed (tus 1.0); errors as `IRemoteBlobs`.

    What an upload has, outlasts connections, and both processes; it expires when nobody goes on with it.
    """

    def create(blob_id: BlobId, length: int, namespace: Namespace = DEFAULT) -> Deferred[str]:
        """
        Begin an upload of ``length`` bytes, the whole blob; fire with its name on the server.

        :raise BlobExists: the id is taken.
        :raise QuotaExceeded: the server has no room for it.
        :raise TooLarge: the server takes no blob of that size.
        """

    def offset(upload: str) -> Deferred[int]:
        """
        Return how many bytes the server has durably; a call of `append` that the server still has ends.

        :raise UploadNotFound: it has ended, or has expired.  If the answer to the last `append` was lost, the blob may
            be there: its tag tells whether it is this one.
        """

    def append(upload: str, offset: int, producer: IBodyProducer) -> Deferred[int]:
        """
        Send what follows the first ``offset`` bytes; the producer's ``length`` must be known.

        :return: fires with the offset after it, once these bytes are durable; with the last byte, once the blob is.
        :raise UploadNotFound: it has ended, or has expired.
        :raise WrongOffset: the server has another number of bytes; none was taken.
        :raise BlobExists: the id was taken meanwhile; nothing is left of the upload.
        :raise UploadBusy: an earlier connection is still at it, in another process of the server.
        """

    def abandon(upload: str) -> Deferred[None]:
        """
        End an upload; nothing is left of it.  If it has become a blob, that stays.

        :raise UploadNotFound: it was abandoned, or has expired.
        """


class IRemoteStream(Interface):
    """Many small blobs in one request; errors as `IRemoteBlobs`, and of single blobs in the results."""

    def write_blobs(
        blobs: Sequence[tuple[BlobId, bytes]], namespace: Namespace = DEFAULT, tags: Sequence[str] | None = None
    ) -> Deferred[list[SoledadError | None]]:
        """
        Store blobs, each as `IRemoteBlobs.write_blob` does.

        :param tags: the SHA-256 of each in hex, from who has them: else they are taken here, on the reactor's thread.
        :return: fires, once all of them are durable, with `None` or an error for each, in their order.  If it fails,
            all of them were stored or none.
        :raise TooLarge: there are more than 4,096 of them, or more than 64 MiB; nothing was sent.  One of more than
            1 MiB is an error of its own.
        """

    def read_blobs(
        wanted: Sequence[tuple[BlobId, int]], namespace: Namespace = DEFAULT
    ) -> Deferred[list[bytes | SoledadError]]:
        """
        Return blobs.

        :param wanted: ids, and how many bytes each must have.
        :return: fires with the stored bytes or an error for each, in their order; one of another length is an
            `UnexpectedAnswer`.
        :raise TooLarge: more is wanted than one request may have; nothing was sent.
        """


class IRemoteDocuments(Interface):
    """
    The sealed records of one user's documents on the server, and the checkpoint over them all.

    Nothing is opened here.  Besides what is named, every method fails with a `TransferError`; what is not exactly the
    protocol's, or not what was asked for, is `UnexpectedAnswer`.  Source: docs/spec/documents-sync.rst.
    """

    def pull(since: str = "", known: str | None = None, limit: int = RECORDS_LIMIT) -> Deferred[SyncPage | Idle]:
        """
        Return the next page of what changed.

        :param since: the cursor of the page before, or of the last head; empty: from the beginning.
        :param known: the tag of the head up to which this device has all: then, if it is still that, there is no page.
        :raise StaleToken: the server does not know the cursor: it was put back to an older state.
        """

    def head() -> Deferred[SyncHead]:
        """Return the head alone."""

    def names(after: str = "", tag: str | None = None, limit: int = NAMES_LIMIT) -> Deferred[NamesPage]:
        """
        Return a page of the names and hashes of all records, in the order of names.

        :param after: the last name of the page before; empty: from the beginning.
        :param tag: that of the head which it must be of: the first page's.
        :raise PreconditionFailed: the head is another one since: begin again.
        """

    def fetch(names: Collection[RecordName]) -> Deferred[SyncPage]:
        """
        Return those records of at most 100 that there are, in the order of names.

        When there are ``more``, those behind the last one have to be asked for again.
        """

    def push(push: bytes, tag: str, follows: str | None) -> Deferred[str]:
        """
        Store records and the checkpoint after them, all or nothing.

        Whether it was stored is not known when it fails with a `RetriableTransferError`, or is cancelled.

        :param push: as `soledad.wire.changes.encode_push` makes it.
        :param tag: that of the head which it makes: of its checkpoint.
        :param follows: the tag of the head that it follows; `None`: it is the first.
        :return: fires once it is durable, with the cursor of the new head.
        :raise PreconditionFailed: the head is another one; nothing was stored.
        :raise QuotaExceeded: the server has no room for it; nothing was stored.
        :raise TooLarge: it has too many bytes.
        """

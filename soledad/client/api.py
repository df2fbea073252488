"""
`Soledad`, what applications open: builds the parts, and hands each call to the one that does it.

Opening and closing are here, and which implementations are used; what documents and attachments do is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from os import urandom
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from platformdirs import user_data_dir
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from soledad.client.attachments import Attachments
from soledad.client.blob_store import BlobStore
from soledad.client.blobs import Blobs
from soledad.client.document import Document
from soledad.client.documents import Documents, new_document
from soledad.client.follow import Following
from soledad.client.held import Held
from soledad.client.interfaces import IJournal
from soledad.client.keeping import Keeping
from soledad.client.keys import Change, Keys
from soledad.client.local.journal import LocalJournal
from soledad.client.local.opening import Opening
from soledad.client.local.store import LocalStore, Workers
from soledad.client.local.transfers import BlobQueue
from soledad.client.observers import Observer, Observers, Subscription
from soledad.client.operations import Operations, local_operation, local_read, network_operation
from soledad.client.queries import Queries
from soledad.client.remote.connect import Server, check_server, connect
from soledad.client.remote.connection import KEPT
from soledad.client.sync.collect import Collector, Rounds
from soledad.client.sync.documents import Parts
from soledad.client.sync.keyring import KeyringWatch
from soledad.client.sync.remote import Here, Remote
from soledad.client.sync.syncing import ProgressCallback, Syncing
from soledad.crypto.checkpoint import checkpoint_code
from soledad.crypto.slots import Credential, Passphrase, RecoveryCode
from soledad.deferreds import Serial, ThreadWorker, deferred, outlasting, unawaited
from soledad.errors import KeyringError, NoServer, StoreClosed
from soledad.model.content import Content
from soledad.model.document import Changes
from soledad.model.ids import UserId, user_id
from soledad.model.index import Bound, Value
from soledad.model.tampering import Incident, News, Problem, TamperPolicy
from soledad.streams import Budget

_log = Logger()


@define(eq=False)
class Soledad:
    """
    A person's encrypted store on this device: JSON documents, with attachments of any size.

    Made by `open`.  Methods return Deferreds; they may be called in any number at a time, and cancelled: before a
    call's commit nothing of it is left then, after it the result stands.  Besides what is named, all fail with
    `StoreClosed` once `close` was called, and what writes fails with `StorageFull` or `StorageFailed` when the disk
    does not take it; then nothing was stored.
    """

    #: Whose store it is.
    uuid: UserId
    operations: Operations = field(repr=False)
    _reactor: Any = field(repr=False)
    _workers: Workers = field(repr=False)
    _local: LocalStore = field(repr=False)
    _documents: Documents = field(repr=False)
    _queries: Queries = field(repr=False)
    _server: Server | None = field(repr=False)
    #: Blobs without a document, and the transfers of all.
    blobs: BlobStore = field(repr=False)
    _journal: IJournal = field(repr=False)
    _syncing: Syncing | None = field(repr=False)
    _keys: Keys = field(repr=False)
    _keeping: Keeping = field(repr=False)
    _collector: Collector = field(repr=False)
    _rounds: Rounds = field(init=False, repr=False)
    _trigger: Any = field(default=None, init=False, repr=False)
    _closed: Deferred[None] | None = field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Say what is done by itself while the store is open."""
        self._rounds = Rounds(self._reactor, self.operations, self._look_after)

    # --- opening and closing --------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        uuid: str,
        passphrase: str,
        *,
        data_dir: str | Path | None = None,
        server_url: str | None = None,
        auth_token: str | None = None,
        cert_file: str | Path | None = None,
        reactor: Any = None,
    ) -> Deferred[Soledad]:
        """
        Open a user's store, or make it when there is none.  Works offline, from the very first time.

        On a new device uuid, token and passphrase are enough: if the server has the user's keyring, the new store is
        made with that.  If it cannot be reached, keys are made here, and joined with the others' later.

        :param uuid: the user's id: 1 to 64 of ``[A-Za-z0-9_-]``.
        :param passphrase: what the keys are locked with; there is no way around it.
        :param data_dir: the folder of this one store; by default a folder of the user's id where the system keeps
            the data of applications.
        :param server_url: the server, ``https://`` (or ``http://``, for tests and for servers on this machine).
            Without one it is a complete local store.
        :param auth_token: what the server knows the user by; goes with ``server_url``.
        :param cert_file: the certificates (PEM) to trust, instead of the system's.
        :param reactor: by default the global one.
        :return: fires with the open `Soledad`.
        :raise WrongPassphrase: the passphrase opens neither this device's keyring nor, if that can be asked, a newer
            one that the server has.
        :raise NotEnoughMemory: the keyring takes more for its passphrase than this machine has; nothing was made.
        :raise MalformedKeyring: the keyring's file is damaged; it was not touched.  Of a new store: what the server
            has is no keyring, or not this user's, or its parameters are not to be accepted; nothing was made.
        :raise KeyringMissing: there is a database, but no keyring; none was made.
        :raise StoreInUse: the store is open already, here or in another process.
        :raise ForeignStore: the folder has the store of another user.
        :raise NotADatabase: a database is damaged, not encrypted, or under another key.
        :raise NewerSchema: a newer version of this library wrote it.
        :raise InvalidIdentifier: the user's id is none.
        :raise InvalidPassphrase: the passphrase is empty, or no text.
        :raise InvalidServerURL: URL, token or certificates are not usable, or not all that is needed was given.
        :raise TransferError: of a new store: the server answered, but refused, or not as a server should.
        """
        place = _Place(uuid, data_dir, server_url, auth_token, cert_file, reactor)
        return _open(place, lambda: Passphrase(passphrase))

    @classmethod
    def recover(
        cls,
        uuid: str,
        code: str,
        new_passphrase: str,
        *,
        data_dir: str | Path | None = None,
        server_url: str | None = None,
        auth_token: str | None = None,
        cert_file: str | Path | None = None,
        reactor: Any = None,
    ) -> Deferred[Soledad]:
        """
        Open a user's store with a recovery code, and give it a new passphrase, everywhere; else as `open`.

        It works on a new device, with the server's keyring, and on one that has the store.  If it fails on its way,
        or is interrupted, the code opens it still.

        :param code: what `create_recovery_code` gave; spaces, hyphens and case do not matter.
        :raise InvalidRecoveryCode: it is no code, or mistyped.
        :raise WrongPassphrase: the code does not open the keyring: it was replaced by another since.
        :raise NotEnoughMemory: for the new passphrase; nothing was changed.
        :raise KeyringNotFound: this device has no store, and the server no keyring.
        :raise NoServer: this device has no store, and no server was given.
        :raise TransferError: the server cannot be reached, or refuses.
        """
        place = _Place(uuid, data_dir, server_url, auth_token, cert_file, reactor)
        return _recover(place, code, new_passphrase)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed is not None

    def close(self) -> Deferred[None]:
        """
        Close the store.

        New calls fail with `StoreClosed`; writes to this device that were accepted finish; work on the network ends,
        and goes on when the store is opened again.  Closing again waits for the same.

        :return: fires when threads, timers, connections and the lock are gone.
        """
        if self._closed is None:
            self._closed = Deferred.fromCoroutine(self._close())
        waiter: Deferred[None] = Deferred()
        unawaited(self._closed.addBoth(_pass_to, waiter))
        return outlasting(waiter, lambda: None)

    async def _close(self) -> None:
        self._documents.observers.close()
        if self._trigger is not None:
            self._reactor.removeSystemEventTrigger(self._trigger)
        self._rounds.stop()
        self._keeping.stop()
        self.blobs.stop()
        await self.operations.close()
        await self._keeping.flush()
        try:
            if self._server is not None:
                await self._server.close()
        finally:
            await self._local.close()
            self._workers.close()

    def _close_with_reactor(self) -> Deferred[None]:
        # The reactor takes its triggers off by itself while it shuts down.
        self._trigger = None
        return self.close()

    def _meet(self, credential: Credential) -> None:
        """Look at the server's keyring, while other work goes on."""
        meeting = self.operations.start(partial(self._keys.meet, credential), finishes=False)
        # Closed or cancelled before its end, it is done at the next opening.
        unawaited(meeting.addErrback(lambda failure: failure.trap(StoreClosed, CancelledError)))

    # --- documents ------------------------------------------------------------------------------------

    @local_operation
    async def create_doc(self, content: Content, doc_id: str | None = None) -> Document:
        """
        Save a new document.

        :param content: a dict that is JSON.
        :param doc_id: ASCII letters, digits and ``. % _ -``; by default a random one.
        :return: fires with the document.
        :raise InvalidContent: the content is not JSON.
        :raise InvalidDocId: the id has other characters.
        :raise RevisionConflict: the id is taken, and not by a deleted document.
        :raise DocumentTooBig: it has more bytes than `doc_size_limit`.
        """
        return await self._documents.create(new_document(content, None, doc_id))

    @local_operation
    async def create_doc_from_json(self, json: str, doc_id: str | None = None) -> Document:
        """
        Save a new document whose content is given as text, which is kept byte for byte; see `create_doc`.

        :raise InvalidJSON: the text is not a JSON object.
        """
        return await self._documents.create(new_document(None, json, doc_id))

    @local_operation
    async def put_doc(self, doc: Document) -> str:
        """
        Save what a document holds when this is called, attachments included; they are queued to be sent.

        Calls for one object are carried out in their order, each on the revision before it.  Calls that are under
        way at the same time share a commit; a refusal concerns its own call only.

        :return: fires with the new revision, which ``doc.rev`` is then, too.
        :raise ConflictedDoc: the document is in conflict: see `resolve_doc`.
        :raise RevisionConflict: the stored revision is not the one that the object was made from.
        :raise InvalidContent: the content is not JSON.
        :raise InvalidDocId: the id has characters that ids do not have.
        :raise DocumentTooBig: it has more bytes than `doc_size_limit`.
        """
        return await self._documents.put(doc)

    @local_operation
    async def put_docs(self, docs: Sequence[Document]) -> list[str]:
        """Save several documents, all of them or none; fires with their revisions.  Errors as `put_doc`."""
        return await self._documents.put_all(list(docs))

    @local_operation
    async def delete_doc(self, doc: Document) -> str:
        """
        Delete a document; a tombstone is left.

        :return: fires with the tombstone's revision; the object has no content any more.
        :raise DocumentDoesNotExist: there is no such document.
        :raise RevisionConflict: the stored revision is not the one that the object was made from.
        :raise DocumentAlreadyDeleted: it is deleted.
        :raise ConflictedDoc: the document is in conflict: see `resolve_doc`.
        """
        return await self._documents.delete(doc)

    @local_read
    def get_doc(self, doc_id: str, include_deleted: bool = False) -> Deferred[Document | None]:
        """Return a document, or `None` when there is none, or it is deleted and these were not asked for."""
        return self._documents.get(doc_id, include_deleted)

    @local_operation
    async def get_docs(self, doc_ids: Iterable[str], include_deleted: bool = False) -> list[Document]:
        """Return documents in the order asked; those that are missing, or deleted, are left out."""
        return await self._documents.get_many(doc_ids, include_deleted)

    @local_operation
    async def get_all_docs(self, include_deleted: bool = False) -> tuple[int, list[Document]]:
        """Return the generation of the store, and all documents ordered by id."""
        return await self._documents.get_all(include_deleted)

    @local_operation
    async def whats_changed(self, generation: int = 0) -> Changes:
        """
        Return what changed after a generation.

        :return: fires with the newest generation, its transaction id, and a list of (document id, generation,
            transaction id): each document once, at its latest change, ascending.
        """
        return await self._documents.whats_changed(generation)

    @local_operation
    async def get_doc_conflicts(self, doc_id: str) -> list[Document]:
        """
        Return all versions of a document in conflict: those that were written without knowledge of each other.

        :return: fires with the current version and then the alternatives, ordered by revision; any of them may be a
            tombstone, and their attachments can be read.  Without a conflict, or such a document, the list is empty.
        """
        return await self._documents.get_conflicts(doc_id)

    @local_operation
    async def resolve_doc(self, doc: Document, revs: Iterable[str]) -> str:
        """
        Settle a conflict: what a document holds when this is called becomes current, in the place of some versions.

        :param doc: any object with the document's id: one of its versions, as it is or changed, or a new one.
            A tombstone deletes the document.
        :param revs: the revisions that are settled, the current one among them.  Versions that are not listed remain,
            and so does the conflict; ``doc.has_conflicts`` tells.
        :return: fires with the new revision, which ``doc.rev`` is then, too.
        :raise RevisionConflict: the current revision is not among ``revs``: another version came in the meantime, or
            the conflict was resolved elsewhere.  Look at `get_doc_conflicts` again.
        :raise DocumentDoesNotExist: there is no such document.
        :raise InvalidIdentifier: one of ``revs`` is no revision.
        :raise InvalidContent: the content is not JSON.
        :raise DocumentTooBig: it has more bytes than `doc_size_limit`.
        """
        return await self._documents.resolve(doc, revs)

    def subscribe(self, callback: Observer, doc_id: str | None = None, index: str | None = None) -> Subscription:
        """
        Call ``callback(doc_id, revision, generation)`` when a document has changed, until that is cancelled.

        It is called on the reactor's thread, after the change is durable and can be read.  What happened to one
        document in the meantime is told once, with its latest revision and generation; documents come in the order of
        these generations.  A change is anything that has a generation, conflicts and what other devices did
        included.  Once `close` was called, nobody is called any more.

        What it raises, or what its Deferred or coroutine fails with, is logged, and harms nobody; nothing waits for it.

        :param doc_id: of this document only, which need not exist yet.
        :param index: only of documents that are in the index of this name, or were in it before the change.  It
            need not exist yet.
        :return: ``cancel()`` of it ends the calls, at once.
        :raise TypeError: ``callback`` cannot be called.
        :raise InvalidDocId: the id has characters that ids do not have.
        :raise InvalidIdentifier: the name of the index is not text.
        :raise StoreClosed: the store is closed.
        """
        return self._documents.observers.subscribe(callback, doc_id, index)

    @property
    def doc_size_limit(self) -> int | None:
        """How many bytes the text of a document may have; `None`: any number."""
        return self._documents.size_limit

    @doc_size_limit.setter
    def doc_size_limit(self, limit: int | None) -> None:
        self._documents.size_limit = limit

    # --- finding documents ----------------------------------------------------------------------------

    @local_operation
    async def create_index(self, name: str, *expressions: str) -> None:
        """
        Make an index, of the documents that there are and will be.  The same one again is no change.

        It stays when the store is closed.  Making one of many documents takes a while, in which nothing else is
        written; reading goes on.

        :param name: any text.
        :param expressions: a column each: a path such as ``"address.city"``, or an operation on one, such as
            ``"lower(name)"`` or ``"number(age, 3)"``.
        :raise IndexDefinitionParseError: an expression is none.
        :raise IndexNameTakenError: there is another index of that name.
        :raise TooManyKeys: a document has more than 10,000 keys in it.
        """
        await self._queries.create_index(name, expressions)

    @local_operation
    async def delete_index(self, name: str) -> None:
        """
        Remove an index; the documents stay.

        :raise IndexDoesNotExist: there is none of that name.
        """
        await self._queries.delete_index(name)

    @local_operation
    async def list_indexes(self) -> list[tuple[str, list[str]]]:
        """Return the names of all indexes, each with its expressions, in the order in which they were made."""
        return await self._queries.list_indexes()

    @local_read
    def get_from_index(
        self, name: str, *values: Value, limit: int | None = None, offset: int = 0
    ) -> Deferred[list[Document]]:
        """
        Return the documents that match a value for each column, ordered by columns and then by id, each once.

        :param values: a text; one that ends in ``*``, for all that begin with what is before it; ``"*"``, for all.
            `Exact`, `Prefix` and `ANY` say so whatever a text ends in.  Behind a wildcard only ``"*"`` may follow.
        :param limit: how many documents are wanted at most.
        :param offset: how many are left out at the beginning.
        :raise IndexDoesNotExist: there is no such index.
        :raise InvalidValueForIndex: there is not one value for each column, or something is no value.
        :raise InvalidGlobbing: something else than ``"*"`` stands behind a wildcard.
        :raise InvalidLimit: limit or offset is not a whole number from 0 on.
        """
        return self._queries.get(name, values, limit, offset)

    @local_read
    def get_range_from_index(
        self, name: str, start: Bound = None, end: Bound = None, *, limit: int | None = None, offset: int = 0
    ) -> Deferred[list[Document]]:
        """
        Return the documents between two bounds, these included; order, ``limit``, ``offset`` and errors as
        `get_from_index`.

        :param start: a value for each column, as a tuple, or a single value for a single column.  A text that ends in
            ``*`` stands for what is before it.  `None`: from the first document on.
        :param end: the same; a text that ends in ``*`` includes all that begin with what is before it.  `None`: up to
            the last document.
        """
        return self._queries.get_range(name, start, end, limit, offset)

    @local_operation
    async def get_count_from_index(self, name: str, *values: Value) -> int:
        """Return how many documents `get_from_index` gives for these values; errors as there."""
        return await self._queries.count(name, values)

    @local_operation
    async def get_index_keys(self, name: str, *, limit: int | None = None, offset: int = 0) -> list[tuple[str, ...]]:
        """
        Return the different keys that documents have in an index, ascending: tuples of a text for each column.

        :raise IndexDoesNotExist: there is no such index.
        :raise InvalidLimit: limit or offset is not a whole number from 0 on.
        """
        return await self._queries.keys(name, limit, offset)

    @local_operation
    async def create_text_index(self, name: str, *fields: str) -> None:
        """
        Make an index for `search`, of the documents that there are and will be.  The same one again is no change.

        The names and content types of attachments are in it, too.

        :param name: any text; other indexes may have the same.
        :param fields: paths such as ``"body"`` or ``"author.name"``; all texts there can be found.
        :raise IndexDefinitionParseError: a field is no path.
        :raise IndexNameTakenError: there is another text index of that name.
        """
        await self._queries.create_text_index(name, fields)

    @local_operation
    async def delete_text_index(self, name: str) -> None:
        """
        Remove a text index; the documents stay.

        :raise IndexDoesNotExist: there is none of that name.
        """
        await self._queries.delete_text_index(name)

    @local_operation
    async def list_text_indexes(self) -> list[tuple[str, list[str]]]:
        """Return the names of all text indexes, each with its fields, in the order in which they were made."""
        return await self._queries.list_text_indexes()

    @local_operation
    async def search(self, name: str, query: str, limit: int | None = None, offset: int = 0) -> list[Document]:
        """
        Return the documents that have all words of a query, the best match first.

        :param name: of a text index.
        :param query: words, and ``"phrases in quotes"``; with a ``*`` behind them also longer words are found.  Case
            and accents do not matter.  It may come from a person as it is.
        :param limit: how many documents are wanted at most.
        :param offset: how many are left out at the beginning.
        :raise IndexDoesNotExist: there is no such index.
        :raise InvalidSearch: the query is empty, or a quote is not closed.
        :raise InvalidLimit: limit or offset is not a whole number from 0 on.
        """
        return await self._queries.search(name, query, limit, offset)

    # --- what is kept on this device ------------------------------------------------------------------

    @property
    def storage_budget(self) -> int | None:
        """How many bytes of attachments are to be on this device at most, sealed; `None`: any number."""
        return self._keeping.budget

    @local_operation
    async def set_storage_budget(self, limit: int | None) -> None:
        """
        Let only so many bytes of attachments be on this device; the store remembers it.

        When there are more, those that were read least recently are dropped, one after the other, in the background:
        only what the server has just confirmed to have, and never what is pinned or waits to be sent.  So there may
        be more for a while, or as long as the server is out of reach.  Dropped bytes are fetched when they are read.

        :param limit: bytes, as they are stored: a little more than the attachments have; `None`: any number.
        :return: fires when it is durable, and not when there is room.
        :raise InvalidLimit: it is no whole number from 0 on.
        """
        await self._keeping.set_budget(limit)

    async def _look_after(self) -> None:
        """Do what is due while the store is open."""
        await self._keeping.flush()
        if await self._collector.run():
            self.blobs.go_on()
        self._keeping.soon()

    # --- syncing --------------------------------------------------------------------------------------

    @network_operation
    async def sync(self, progress: ProgressCallback | None = None) -> int:
        """
        Bring this device and the server in step: documents, and then blobs that wait to go or to come.

        While one sync runs, further calls join it.  It may be cancelled, or the process killed, at any time: the next
        one goes on from there.  A record that cannot be taken is set aside, see `sync_problems`; all others arrive.

        :param progress: called with bytes that are done, and bytes in all as far as is known.
        :return: fires with the store's generation before it: `whats_changed` of that tells what it brought.
        :raise NoServer: the store was opened without a server.
        :raise TamperingDetected: the server does not tell the truth, and `tamper_policy` is not to go on with it.
        :raise ServerRolledBack: likewise; it shows an older state.  See `accept_server_restore`.
        :raise UnknownKey: the server's state was sealed with keys of a newer keyring.
        :raise QuotaExceeded: the server has no room for what is to be sent.
        :raise TooManyDevices: so many have written that this one can only read.  See `accept_server_restore`.
        :raise TransferError: the exchange failed; a `RetriableTransferError` is worth another try.
        """
        return await self._syncs.sync(progress)

    @local_operation
    async def stop_sync(self) -> None:
        """Stop the sync that runs, if one does; fire when it has ended.  Who waits for it gets a `CancelledError`."""
        if self._syncing is not None:
            await self._syncing.stop()

    def follow(self) -> Following:
        """
        Keep this store in step from now on: sync within a second of a change, on the server or on this device.

        When the server cannot be reached, or a sync fails, that is tried again, with pauses of up to a minute.

        :return: ``stop()`` of it ends that, and fires when nothing of it runs any more; so does closing the store.
            ``problem`` is why the last attempt failed, ``listening`` whether the server tells of changes now.
        :raise NoServer: the store was opened without a server.
        :raise StoreClosed: the store is closed.
        """
        if self.closed:
            raise StoreClosed()
        syncs, server = self._syncs, self._server
        assert server is not None
        following = Following(self._reactor, server.events, self.sync, self._has_unsent, lambda: syncs.heads)
        subscription = self._documents.observers.subscribe(lambda *ignored: following.local_change(), None, None)
        listen_no_more = [source.listen(following.local_change) for source in (self.blobs, self._keys)]

        async def run() -> None:
            try:
                await following.run()
            finally:
                subscription.cancel()
                for end in listen_no_more:
                    end()

        following.start(self.operations.start(run, finishes=False))
        return following

    @deferred
    async def _has_unsent(self) -> bool:
        return await self._syncs.has_unsent() or await self.blobs.has_work()

    @property
    def syncing(self) -> bool:
        """Whether a sync runs."""
        return self._syncing is not None and self._syncing.is_running

    @property
    def sync_progress(self) -> tuple[int, int]:
        """Bytes that the sync which runs, or ran last, has done, and bytes in all as far as is known."""
        return (0, 0) if self._syncing is None else self._syncing.progress

    @local_operation
    async def sync_problems(self) -> list[Problem]:
        """Return which documents take no part in syncs, and why: their records cannot be taken, or are too large."""
        return await self._journal.problems()

    @local_operation
    async def incidents(self) -> list[Incident]:
        """Return what was found of the server's not telling the truth: by this device, and by others that said so."""
        return await self._journal.incidents()

    @local_operation
    async def tamper_policy(self) -> TamperPolicy:
        """Return what a sync does when it finds that the server does not tell the truth."""
        return await self._journal.policy()

    @local_operation
    async def set_tamper_policy(self, policy: TamperPolicy) -> None:
        """
        Say what a sync is to do when it finds that the server does not tell the truth; kept with the store.

        :param policy: `TamperPolicy.WARN`, as it is at first; `READ_ONLY`; `REFUSE`.
        :raise TypeError: it is none of these.
        """
        if not isinstance(policy, TamperPolicy):
            raise TypeError("it must be a TamperPolicy")
        await self._journal.set_policy(policy)

    @network_operation
    async def accept_server_restore(self, progress: ProgressCallback | None = None) -> int:
        """
        Say that the server was restored from a backup, and sync: what it lost is sent again.

        Only a person can know.  Other devices take what went back without an alarm then, and tell of the restart.
        Where too many devices have written, this makes room: those that were silent the longest have to be met anew.

        :return: as `sync`, whose errors it has.
        """
        return await self._syncs.restart(progress)

    @local_operation
    async def checkpoint_code(self) -> str | None:
        """
        Return a short code for what the server has shown; `None`: nothing yet.

        Devices that have just synced, with nothing changed in between, show the same code, or the server told them
        different things.
        """
        checkpoint = None if self._syncing is None else await self._syncing.checkpoint()
        return None if checkpoint is None else checkpoint_code(checkpoint)

    @local_operation
    async def devices(self) -> list[News]:
        """Return the stores of this user that ever sent something, each with when it was last heard of."""
        return [] if self._syncing is None else await self._syncing.news()

    @property
    def _syncs(self) -> Syncing:
        """:raise NoServer: the store was opened without a server."""
        if self._syncing is None:
            raise NoServer()
        return self._syncing

    # --- keys and tokens ------------------------------------------------------------------------------

    @property
    def keyring_problem(self) -> KeyringError | None:
        """
        What a person should know of the server's keyring, since it was last looked at; `None`: nothing.

        `KeyringChanged`: see `adopt_keyring`; nothing is sent to the server until then.  `KeyringRolledBack`: the
        server shows an older one than it had.  `MalformedKeyring`: what it shows is none.
        """
        return self._keys.problem

    def change_passphrase(self, new: str) -> Deferred[None]:
        """
        Let the store open with another passphrase from now on, on all devices of the user.

        With a server it needs the server; the other devices go on working, and ask for the new passphrase once they
        have been in step with it.  All passphrases there were open nothing from then on; a recovery code stays.

        Whoever has an old copy of the keyring, and the old passphrase, has the keys still.

        :return: fires when it is durable; until then the old passphrase opens the store.
        :raise InvalidPassphrase: the new one is empty, or no text.
        :raise NotEnoughMemory: the machine has not what a passphrase takes; nothing was changed.
        :raise KeyringChanged: the server has another keyring: see `adopt_keyring`.
        :raise TransferError: the server cannot be reached; nothing was changed.  If the connection broke just while
            the server was told, the new passphrase may hold already: the old one opens this device until it is in
            step with the server again, and the new one does as long as the server can be asked.
        """

        def make() -> Change:
            passphrase = Passphrase(new)
            return lambda keyring: keyring.with_passphrase(passphrase, urandom)

        return self._change_keyring(make)

    def create_recovery_code(self) -> Deferred[str]:
        """
        Make a code that opens the store when the passphrase is forgotten: for paper, in a safe place.

        It replaces any code there was.  Errors as `change_passphrase`.

        :return: fires with the code, eight groups of four characters, once it is durable; see `recover`.
        """
        code = RecoveryCode.random(urandom)
        changed = self._change_keyring(lambda: lambda keyring: keyring.with_recovery_code(code, urandom))
        return changed.addCallback(lambda ignored: code.as_text())

    def rotate_root(self) -> Deferred[None]:
        """
        Seal what is new under a new root from now on, on all devices; what is there stays as it is, and readable.

        It shuts out whoever got hold of the old root alone, and nobody who has an old keyring and its passphrase.
        Errors as `change_passphrase`.
        """
        return self._change_keyring(lambda: lambda keyring: keyring.with_new_root(urandom))

    def _change_keyring(self, make: Callable[[], Change]) -> Deferred[None]:
        """Change the keyring: on the network if there is a server, which closing does not wait for."""

        async def change() -> None:
            await self._keys.change(make())

        return self.operations.start(change, finishes=self._server is None)

    @network_operation
    async def adopt_keyring(self, passphrase: str) -> None:
        """
        Go on with the keyring that the server has, which this passphrase opens; what was sealed here stays readable.

        For `KeyringChanged`: this device and another began apart, with two passphrases.  From then on the store opens
        with this one; a recovery code that was made here alone is of no use any more.

        :raise WrongPassphrase: it does not open the server's keyring; nothing was changed.
        :raise NotEnoughMemory: the server's keyring takes more for a passphrase than this machine has; likewise.
        :raise InvalidPassphrase: it is empty, or no text.
        :raise NoServer: the store was opened without a server.
        :raise KeyringRolledBack: the server's keyring is older than it was.
        :raise MalformedKeyring: what the server has is no keyring of this user.
        """
        await self._keys.adopt(Passphrase(passphrase))

    def set_token(self, token: str) -> None:
        """
        Use another token from the next request on: the user's was renewed.

        :raise NoServer: the store was opened without a server.
        :raise InvalidServerURL: it is no token.
        """
        if self.closed:
            raise StoreClosed()
        if self._server is None:
            raise NoServer()
        self._server.set_token(token)


@frozen
class _Place:
    """Which store, where, and by which server, as `Soledad.open` is told."""

    uuid: str
    data_dir: str | Path | None
    server_url: str | None
    auth_token: str | None = field(repr=False)
    cert_file: str | Path | None
    reactor: Any


@deferred
async def _open(place: _Place, make_credential: Callable[[], Credential], recovers: bool = False) -> Soledad:
    user, credential = user_id(place.uuid), make_credential()
    folder = Path(user_data_dir("soledad")) / user if place.data_dir is None else Path(place.data_dir)
    address = check_server(place.server_url, place.auth_token, place.cert_file)
    reactor = place.reactor
    if reactor is None:
        # Importing this installs a reactor: not before somebody needs one.
        from twisted.internet import reactor
    workers = Workers.start(partial(ThreadWorker.start, reactor))
    server = None
    try:
        if address is not None:
            server = await connect(reactor, workers.files, user, address)
        soledad = await open_store(reactor, workers, user, credential, folder, server, recovers)
    except BaseException:
        if server is not None:
            await server.close()
        workers.close()
        raise
    soledad._trigger = reactor.addSystemEventTrigger("before", "shutdown", soledad._close_with_reactor)
    return soledad


@deferred
async def _recover(place: _Place, code: str, new_passphrase: str) -> Soledad:
    # Both are looked at before anything is done.
    credential = RecoveryCode.parse(code)
    Passphrase(new_passphrase)
    soledad = await _open(place, lambda: credential, recovers=True)
    try:
        await soledad.change_passphrase(new_passphrase)
    except BaseException:
        await soledad.close()
        raise
    return soledad


async def open_store(
    reactor: Any,
    workers: Workers,
    user: UserId,
    credential: Credential,
    folder: Path,
    server: Server | None,
    recovers: bool = False,
) -> Soledad:
    """
    Open a store with parts that are handed in, and put it together; for `Soledad.open` and for tests.

    :param recovers: never make new keys.
    """
    remote = None if server is None else server.keys
    local = await Opening(reactor, workers, folder, user, credential, remote, recovers).open()
    soledad = assemble(reactor, workers, user, local, server)
    soledad._keeping.start()
    soledad._rounds.start()
    if server is not None:
        soledad._meet(credential)
    return soledad


def assemble(reactor: Any, workers: Workers, user: UserId, local: LocalStore, server: Server | None) -> Soledad:
    """Put the parts of a store together."""
    operations, held, applying, budget = Operations(), Held(), Serial(), Budget(kept=KEPT)
    remote = None if server is None else server.blobs
    keys = Keys(local, None if server is None else server.keys, workers.files)
    if server is not None:
        server.before_writing(keys.ready)
    queue = BlobQueue(local.blobs)
    here = Here(reactor, operations, user, local.blobs, queue, local, workers.files, workers.streams, budget)
    there = None if server is None else Remote.over(here, server)
    engine = None if there is None else there.engine
    blobs = Blobs(local.blobs, remote, local, workers.files, workers.streams, budget, engine)
    go_on = (lambda: None) if engine is None else engine.go_on
    keeping = Keeping(local.blobs, local.blobs, remote, workers.files, reactor, operations, go_on, local.budget)
    attachments = Attachments(operations, blobs, workers.files, local.documents, held, keeping, remote is not None)
    observers = Observers(workers.files.report)
    documents = Documents(local.documents, local.blobs, attachments, observers, held, applying)
    queries = Queries(local.queries, documents.load)
    store = BlobStore(operations, blobs, local.blobs, queue, workers.files, there, keeping)
    collector = Collector(local.blobs, local.blobs, local.documents, held, applying, reactor, remote is not None)
    store.go_on()
    journal = LocalJournal(local.documents)
    syncing = None
    if server is not None:
        parts = Parts(
            journal, server.documents, documents, local, workers.files, reactor, reactor.seconds, user, server.url
        )
        syncing = Syncing(parts, KeyringWatch(keys, parts), store.follow_documents)
    return Soledad(
        user,
        operations,
        reactor,
        workers,
        local,
        documents,
        queries,
        server,
        store,
        journal,
        syncing,
        keys,
        keeping,
        collector,
    )


def _pass_to(result: Any, waiter: Deferred[Any]) -> Any:
    waiter.callback(result)
    return result

"""
One store's files, opened together: the lock, the keyring, both databases, the folder of blobs.

Everything here blocks, and is run in a worker, but for `LocalStore.close`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from os import urandom
from pathlib import Path

from attrs import define

from soledad.client.local import blobs, documents, indexes, references, retention
from soledad.client.local.database import CACHE, Database
from soledad.client.local.documents import LocalDocuments
from soledad.client.local.files import BlobFiles
from soledad.client.local.keyring import StoreLock, database_paths, lock_path, open_keyring, save_keyring
from soledad.client.local.queries import LocalQueries
from soledad.client.local.retention import KeptBlobs
from soledad.client.local.schema import BLOBS, BLOBS_PAGE, DOCUMENTS, DOCUMENTS_CACHE, DOCUMENTS_PAGE
from soledad.crypto.container import KeyMaterial, Keys
from soledad.crypto.kdf import Database as KeyOf
from soledad.crypto.keyring import OpenKeyring
from soledad.crypto.slots import Credential
from soledad.deferreds import InPlace, ThreadWorker
from soledad.model.ids import UserId

Threads = ThreadWorker | InPlace


@define(eq=False)
class Workers:
    """The threads of one store."""

    #: Files, sealing, key derivation.
    files: Threads
    #: What streams read ahead, and what becomes of what they bring: one thread, as the C library keeps memory for each
    #: that makes large pieces, and the reactor waits for a processor when several are never idle.
    streams: Threads
    #: For each database one that writes and one that reads.
    documents: tuple[Threads, Threads]
    blobs: tuple[Threads, Threads]

    @classmethod
    def start(cls, make: Callable[[int, str], Threads]) -> Workers:
        """Make the workers: ``make(threads, name)`` makes one."""
        return cls(
            make(4, "soledad-files"),
            make(1, "soledad-streams"),
            (make(1, "soledad-documents"), make(1, "soledad-documents-reader")),
            (make(1, "soledad-blobs"), make(1, "soledad-blobs-reader")),
        )

    def close(self) -> None:
        """End them all; nothing runs in them any more."""
        for worker in (self.files, self.streams, *self.documents, *self.blobs):
            worker.close()


@define(eq=False)
class LocalStore:
    """An open store, without a server."""

    folder: Path
    lock: StoreLock
    keyring: OpenKeyring
    documents: LocalDocuments
    queries: LocalQueries
    blobs: KeptBlobs
    #: Bytes of attachments that are to be here at most.
    budget: int | None

    @classmethod
    def open(cls, folder: Path, user: UserId, credential: Credential, workers: Workers) -> LocalStore:
        """Open the store in ``folder``, or make it; errors as `soledad.client.api.Soledad.open`."""
        with ExitStack() as undo:
            lock = StoreLock.acquire(lock_path(folder, user))
            undo.callback(lock.release)
            store = cls.unlocked(folder, lock, open_keyring(folder, user, credential, urandom), workers)
            undo.pop_all()
        return store

    @classmethod
    def unlocked(cls, folder: Path, lock: StoreLock, keyring: OpenKeyring, workers: Workers) -> LocalStore:
        """Open the databases and files of a store whose lock and keyring are there; if that fails, the lock stays."""
        user = keyring.uuid
        with ExitStack() as undo:
            databases = []
            for path, name, migrations, page_size, cache, threads in zip(
                database_paths(folder, user),
                (KeyOf.DOCUMENTS, KeyOf.BLOBS),
                (DOCUMENTS, BLOBS),
                (DOCUMENTS_PAGE, BLOBS_PAGE),
                (DOCUMENTS_CACHE, CACHE),
                (workers.documents, workers.blobs),
                strict=True,
            ):
                key = keyring.database_key(name)
                databases.append(Database.open(path, key, user, migrations, page_size, threads, cache))
                undo.callback(databases[-1].abandon)
            files = BlobFiles(folder / f"{user}_blobs")
            files.prepare()
            documents_database, blobs_database = databases
            replica = documents_database.write_now(documents.replica)
            if not documents_database.read_now(indexes.up_to_date):
                documents_database.write_now(indexes.refresh)
            store = cls(
                folder,
                lock,
                keyring,
                LocalDocuments(documents_database, replica),
                LocalQueries(documents_database),
                KeptBlobs(blobs_database, files, workers.files),
                blobs_database.read_now(retention.budget),
            )
            store.reconcile()
            undo.pop_all()
        return store

    def reconcile(self) -> None:
        """
        Mend what an end in the middle left: the two databases and the files are not written in one transaction.

        Files without a row are swept; rows without their file have lost it; what documents refer to is kept and
        queued; what nothing refers to is condemned.
        """
        files = self.blobs.files
        names = files.names()
        files.sweep(self.blobs.database.write_now(blobs.lose, names))
        referenced = self.documents.database.read_now(references.referenced)
        wanted, unreferred = self.blobs.database.read_now(blobs.compare, referenced)
        if wanted or unreferred:
            pointers = self.documents.database.read_now(documents.pointers_to, wanted)
            self.blobs.database.write_now(retention.refer_and_condemn, pointers, unreferred)

    @property
    def current(self) -> KeyMaterial:
        """What new containers are sealed under."""
        return self.keyring.current

    @property
    def roots(self) -> Keys:
        """All that containers may be sealed under, by key id."""
        return self.keyring.roots

    def save_keyring(self, keyring: OpenKeyring) -> None:
        """Go on with another keyring; the file is durable when this returns."""
        save_keyring(self.folder, keyring, urandom)
        self.keyring = keyring

    def abandon(self) -> None:
        """Give everything back at once, when opening ends after all."""
        self.documents.database.abandon()
        self.blobs.database.abandon()
        self.lock.release()

    async def close(self) -> None:
        """Wait for what is being written, and give everything back."""
        await self.documents.database.close()
        await self.blobs.database.close()
        self.lock.release()

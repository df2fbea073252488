"""Deletions on their way to the server: what is deleted there is what was meant, and a sealed tombstone says so."""

from __future__ import annotations

from os import urandom

from attrs import define

from soledad.client.blob import Keyring, context_of
from soledad.client.interfaces import IBlobQueue, IRemoteBlobs
from soledad.crypto.cipher import Cipher
from soledad.crypto.tombstone import MOST, seal_tombstone
from soledad.deferreds import completed
from soledad.errors import BlobNotFound, CryptoError
from soledad.model.blob import BlobKey, ByteRange, SyncStatus
from soledad.model.transfer import Queued
from soledad.streams import MemoryConsumer
from soledad.wire.container import HEADER_SIZE, SALT_SIZE, Header


@define(eq=False)
class Deleting:
    """Deletes blobs on the server."""

    _queue: IBlobQueue
    _blobs: IRemoteBlobs
    _keyring: Keyring

    async def delete(self, row: Queued) -> None:
        """Delete what the application deleted under this id; something else that is there by now stays."""
        key = row.key
        # One of both, if something was put under the id again, and deleted again, before any of it went there.
        meant = set() if row.replaces is None else {row.replaces}
        if row.status is SyncStatus.PENDING_DELETE:
            meant.add(row.sealed.commitment)
        try:
            there = await self._commitment_there(key)
            if b"" not in meant and there not in meant:
                await self._keep(row)
                return
            await self._blobs.delete_blob(key.blob_id, key.namespace, await self._tombstone(key, there))
        except BlobNotFound:
            # It never was there, or the answer was lost, or another device was first.
            pass
        await completed(self._queue.forget(key, row.sealed.commitment))

    async def _commitment_there(self, key: BlobKey) -> bytes | None:
        """Return the commitment of what is on the server; `None` if it is nothing that we sealed."""
        header = MemoryConsumer()
        await self._blobs.read_blob(key.blob_id, header, key.namespace, ByteRange(0, HEADER_SIZE))
        return self.authentic(key, header.value())

    def authentic(self, key: BlobKey, header: bytes) -> bytes | None:
        """Return the commitment in a header; `None`, if it was not sealed for this blob under one of our keys."""
        try:
            return Cipher.behind(Header.parse(header), self._keyring.roots, context_of(key), None).commitment
        except CryptoError:
            return None

    async def _tombstone(self, key: BlobKey, there: bytes | None) -> bytes | None:
        if there is None:
            return None
        # Those before it too: a device that was away may still have one of them.
        deleted = [there, *await self._queue.buried(key, MOST - 1)]
        return seal_tombstone(self._keyring.current, key, urandom(SALT_SIZE), deleted)

    async def _keep(self, row: Queued) -> None:
        """Let what is on the server be, which is not what was deleted; it is known here from now on."""
        info = await self._blobs.stat_blob(row.key.blob_id, row.key.namespace)
        if row.status is SyncStatus.PENDING_DELETE:
            await completed(self._queue.replace(row.key, row.sealed.commitment, info.length, info.etag))
        else:
            await completed(self._queue.forget(row.key, row.sealed.commitment))

"""
Writes that can be resumed, over an index and a byte store.

The index says how many bytes of an upload count; the byte store has at least those.  The last byte does not count
before the blob does: an upload that has all its bytes has ended, whenever somebody asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from hmac import compare_digest
from secrets import token_hex
from typing import Any

from attrs import Factory, define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer

from soledad.deferreds import completed, deferred
from soledad.errors import (
    BlobExists,
    BlobNotFound,
    ChecksumMismatch,
    LengthRequired,
    SoledadError,
    TooLarge,
    UploadBusy,
    UploadNotFound,
    WrongOffset,
)
from soledad.model.ids import DEFAULT, BlobId, Namespace, UserId
from soledad.server.index import Index
from soledad.server.interfaces import Checksum, IByteStore, IPart, Place, Upload
from soledad.server.pending import Pending
from soledad.server.rows import key_of
from soledad.server.turns import Superseded, Turn, Turns
from soledad.streams import BytesProducer

#: What is done with what an upload has.
_Body = Callable[[Upload, IPart], Coroutine[Deferred[Any], Any, Upload]]
#: What is done when nobody else is at an upload.
_InTurn = Callable[[Turn], Coroutine[Deferred[Any], Any, Upload]]

_log = Logger()


@define(eq=False)
class ResumableWrites:
    """Uploads over an index and a byte store."""

    index: Index
    store: IByteStore
    _new_name: Callable[[], str] = lambda: token_hex(16)
    pending: Pending = field(default=Factory(lambda self: Pending.of(self.index), takes_self=True), init=False)
    _turns: Turns = field(factory=Turns, init=False)

    @deferred
    async def create_upload(
        self, user: UserId, blob_id: BlobId, length: int, namespace: Namespace = DEFAULT, described: str = ""
    ) -> Upload:
        """See `IBlobsBackend`."""
        place = Place(user, namespace, blob_id, self._new_name())
        upload = await self.pending.create(place, length, described)
        try:
            await self.store.begin(place)
            if length == 0:
                return await self.append_upload(user, upload.name, 0, BytesProducer(b""))
        except BaseException:
            await completed(self._tidy(upload))
            raise
        return upload

    def get_upload(self, user: UserId, upload: str) -> Deferred[Upload]:
        """See `IBlobsBackend`."""
        return self._alone(user, upload, lambda turn: self._found(user, upload))

    @deferred
    async def append_upload(
        self, user: UserId, upload: str, offset: int, producer: IBodyProducer, checksum: Checksum | None = None
    ) -> Upload:
        """See `IBlobsBackend`."""
        if producer.length is UNKNOWN_LENGTH:
            raise LengthRequired()

        async def alone(turn: Turn) -> Upload:
            async def append(now: Upload, part: IPart) -> Upload:
                _check(now, offset, producer.length)
                if now.done:
                    return now
                await self._check_free(now)
                now = await self.pending.keep(now)
                await part.go_to(offset)
                turn.check()
                return await self._append(now, part, producer, checksum)

            found = await self.pending.find(user, upload)
            _check(found, offset, producer.length)
            return found if found.done else await self._at_part(found, append)

        return await self._alone(user, upload, alone)

    @deferred
    async def abandon_upload(self, user: UserId, upload: str) -> None:
        """See `IBlobsBackend`."""

        async def abandon(now: Upload, part: IPart) -> Upload:
            await completed(self._remove(now))
            return now

        async def alone(turn: Turn) -> Upload:
            found = await self.pending.find(user, upload)
            if not found.done:
                return await self._at_part(found, abandon)
            await self._remove(found)
            return found

        await self._alone(user, upload, alone)

    @deferred
    async def _alone(self, user: UserId, upload: str, body: _InTurn) -> Upload:
        try:
            return await self._turns.run((user, upload), body)
        except Superseded:
            # Most often nobody listens any more; two that began at the same time both want an answer.
            raise UploadBusy(upload) from None

    async def _found(self, user: UserId, upload: str) -> Upload:
        return await self.pending.told(user, upload)

    async def _at_part(self, found: Upload, body: _Body) -> Upload:
        """Run ``body`` with what the upload has once nobody else is at it, in any process."""
        try:
            part = await self.store.resume(found.place)
        except BlobNotFound:
            return await self._lost(found)
        try:
            # Somebody may have been at it until a moment ago.
            return await body(await self.pending.find(found.place.user, found.name), part)
        except BlobNotFound:
            return await self._lost(found)
        finally:
            await completed(part.close())

    async def _check_free(self, upload: Upload) -> None:
        """:raise BlobExists: the id was taken since; nothing is left of the upload, and no byte need be sent."""
        place = upload.place
        try:
            await self.index.find(key_of(place))
        except BlobNotFound:
            return
        await completed(self._tidy(upload))
        raise BlobExists(place.blob_id, place.namespace)

    async def _lost(self, upload: Upload) -> Upload:
        """Find out why the bytes are not there: it has ended meanwhile, or a disk forgot them."""
        now = await self.pending.find(upload.place.user, upload.name)
        if now.done:
            return now
        _log.error("The bytes of upload {upload} are missing", upload=upload)
        await completed(self._tidy(upload))
        raise UploadNotFound(upload.name)

    async def _append(self, now: Upload, part: IPart, producer: IBodyProducer, checksum: Checksum | None) -> Upload:
        check = None if checksum is None else _Check(checksum)
        notes = _Notes(self.pending, now, counts=check is None)
        try:
            await part.append(producer, notes.durable, None if check is None else check.digest)
        except BaseException:
            await completed(notes.last(part.durable))
            raise
        await completed(notes.quiet())
        if check is not None:
            check.compare()
        if part.durable < now.length:
            return await completed(self.pending.received(now, part.durable))
        try:
            # Reading a large blob again may take longer than a client waits, and must get somewhere all the same.
            return await completed(self._finish(now, part))
        except BlobExists:
            await completed(self._tidy(now))
            raise
        except BaseException:
            notes.counts = True
            await completed(notes.last(part.durable))
            raise

    @deferred
    async def _finish(self, now: Upload, part: IPart) -> Upload:
        stored = await part.finish()
        return await self.pending.commit(now, stored)

    @deferred
    async def _remove(self, upload: Upload) -> None:
        if await self.pending.end(upload):
            await self.store.delete(upload.place)

    @deferred
    async def _tidy(self, upload: Upload) -> None:
        try:
            await self._remove(upload)
        except SoledadError:
            # It expires; the bytes are swept later.
            _log.failure("Upload {upload} could not be removed", upload=upload)


@define(eq=False)
class _Check:
    """A checksum, and what the bytes have."""

    _wanted: Checksum
    digest: Any = field(
        default=Factory(lambda self: hashlib.new(self._wanted.algorithm, usedforsecurity=False), takes_self=True),
        init=False,
    )

    def compare(self) -> None:
        """:raise ChecksumMismatch: they are not the same."""
        if not compare_digest(self.digest.digest(), self._wanted.digest):
            raise ChecksumMismatch()


@define(eq=False)
class _Notes:
    """Writes down how many bytes count, now and then, while more come."""

    _pending: Pending
    _upload: Upload
    #: Whether bytes count before all of them are there.
    counts: bool
    _writing: Deferred[None] | None = field(default=None, init=False)

    def durable(self, length: int) -> None:
        """So many bytes are durable."""
        # One at a time: what comes meanwhile is in the next.
        if self.counts and (self._writing is None or self._writing.called):
            self._writing = self._note(length, False)

    @deferred
    async def quiet(self) -> None:
        """Wait until nothing is being written."""
        if self._writing is not None:
            await self._writing

    @deferred
    async def last(self, length: int) -> None:
        """No more come."""
        await self.quiet()
        if self.counts and length > self._upload.received:
            await self._note(length, True)

    @deferred
    async def _note(self, length: int, durable: bool) -> None:
        try:
            await self._pending.received(self._upload, min(length, self._upload.length - 1), durable)
        except UploadNotFound:
            # It has ended: nobody needs to know.
            return
        except SoledadError:
            # Whoever goes on sends these bytes again.
            _log.failure("What came of upload {upload} could not be noted", upload=self._upload)


def _check(upload: Upload, offset: int, length: int) -> None:
    """
    Look whether ``length`` bytes from ``offset`` on are what comes next.

    :raise WrongOffset: it goes on elsewhere.
    :raise TooLarge: they are too many.
    """
    if offset != upload.received:
        raise WrongOffset(upload.received)
    if length > upload.length - offset:
        raise TooLarge(upload.length - offset)

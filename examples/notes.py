"""
A Twisted application with a store: what it does with it, and the service that has it open meanwhile.

``notes.tac`` runs it, ``test_notes.py`` are its tests.
"""

from __future__ import annotations

from pathlib import Path

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from soledad import AttachmentStates, Document, Soledad
from soledad.errors import RetriableTransferError

_log = Logger()


@define
class Notes:
    """Notes with pictures, in one person's store."""

    _soledad: Soledad

    async def add(self, text: str, picture: bytes) -> Document:
        """Save a note; once this returns, both are on this device for good, with or without a network."""
        doc = await self._soledad.create_doc({"text": text})
        await doc.put_attachment(picture, "picture", "image/png")
        await self._soledad.put_doc(doc)
        return doc

    async def back_up(self, doc: Document) -> bool:
        """Upload a note's picture; return whether it is safe, `False`: try again when the network is back."""
        try:
            return await doc.upload_attachment("picture") == AttachmentStates.SYNCED
        except RetriableTransferError:
            return False


@define(eq=False)
class NotesService(Service):
    """Opens the store when the application starts, and closes it when it stops."""

    _uuid: str
    _passphrase: str = field(repr=False)
    _folder: Path
    #: With a server and a token, the store is kept in step with the person's other devices.
    _server_url: str | None = None
    _token: str | None = field(default=None, repr=False)
    #: `None` until the store is open.
    notes: Notes | None = field(default=None, init=False)
    _soledad: Soledad | None = field(default=None, init=False)

    def startService(self) -> None:
        """Begin to open the store; the application need not wait for it."""
        super().startService()
        self.opening = Deferred.fromCoroutine(self._open()).addErrback(self._failed)

    def stopService(self) -> Deferred[None]:
        """Give the store back; whoever stops the application waits for that."""
        super().stopService()
        return Deferred.fromCoroutine(self._close())

    async def _open(self) -> None:
        self._soledad = await Soledad.open(
            self._uuid,
            self._passphrase,
            data_dir=self._folder,
            server_url=self._server_url,
            auth_token=self._token,
        )
        if self._server_url is not None:
            # Until the store is closed.  Whatever fails meanwhile is tried again.
            self._soledad.follow()
        self.notes = Notes(self._soledad)

    async def _close(self) -> None:
        self.opening.cancel()
        await self.opening
        if self._soledad is not None:
            await self._soledad.close()

    def _failed(self, failure: Failure) -> None:
        # A wrong passphrase, for example: errors have no secrets in them, and may be logged.
        if not failure.check(CancelledError):
            _log.failure("The store cannot be opened", failure=failure)

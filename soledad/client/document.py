"""
Documents as applications hold them: an id, a revision, content, and attachments by name.

An object knows the store that it came from, and asks it for all that takes time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.interfaces import IConsumer

from soledad.client.blobs import Source
from soledad.client.reading import SealedFile
from soledad.deferreds import Serial
from soledad.errors import DetachedDocument, InvalidContent, InvalidJSON
from soledad.model import content as contents
from soledad.model.attachment import AttachmentStates, Pointer
from soledad.model.content import Content
from soledad.model.document import Snapshot, Stored
from soledad.model.ids import DocId, doc_id

#: The name of an attachment when nobody says.
DEFAULT_NAME = "default"

ProgressCallback = Callable[[int, int], object]


class Home(Protocol):
    """What a document asks of the store it came from; `Document` says what each is for."""

    def put_attachment(
        self, doc: Document, fd: Source, name: str, content_type: str | None, progress: ProgressCallback | None
    ) -> Deferred[None]:
        """See `Document.put_attachment`."""

    def get_attachment(self, doc: Document, name: str) -> Deferred[SealedFile | None]:
        """See `Document.get_attachment`."""

    def read_attachment(self, doc: Document, name: str, start: int, length: int | None) -> Deferred[bytes]:
        """See `Document.read_attachment`."""

    def write_attachment_to(
        self, doc: Document, consumer: IConsumer, name: str, start: int, length: int | None
    ) -> Deferred[None]:
        """See `Document.write_attachment_to`."""

    def upload_attachment(
        self, doc: Document, name: str, progress: ProgressCallback | None
    ) -> Deferred[AttachmentStates]:
        """See `Document.upload_attachment`."""

    def download_attachment(
        self, doc: Document, name: str, progress: ProgressCallback | None
    ) -> Deferred[AttachmentStates]:
        """See `Document.download_attachment`."""

    def delete_attachment(self, doc: Document, name: str) -> Deferred[None]:
        """See `Document.delete_attachment`."""

    def link_attachment(self, doc: Document, other: Document, name: str, other_name: str | None) -> Deferred[None]:
        """See `Document.link_attachment`."""

    def get_attachment_state(self, doc: Document, name: str, refresh: bool) -> Deferred[AttachmentStates]:
        """See `Document.get_attachment_state`."""

    def pin_attachment(self, doc: Document, name: str, pinned: bool) -> Deferred[AttachmentStates]:
        """See `Document.pin_attachment` and `Document.unpin_attachment`."""

    def evict_attachment(self, doc: Document, name: str) -> Deferred[AttachmentStates]:
        """See `Document.evict_attachment`."""

    def is_stale(self, doc: Document) -> Deferred[bool]:
        """See `Document.is_stale`."""


class Document:
    """
    A JSON document, with attachments.

    Two are equal when id, revision, content, attachments and ``has_conflicts`` are; the order of keys does not
    matter, while 1, 1.0 and true differ.  Copies and pickles belong to no store.
    """

    #: Its id; `None` until it is put into a store, which makes one up.
    doc_id: DocId | None
    #: The stored revision that this object was made from; `None` for a new document.
    rev: str | None
    #: Whether the store has other versions of it that wait to be resolved.
    has_conflicts: bool
    #: The store that it came from.
    home: Home | None
    _text: str | None
    _content: Content | None
    # Never changed: replaced.
    _attachments: Mapping[str, Pointer]
    # What most objects never need is made when it is asked for.
    _saving: Serial | None
    _attaching: Serial | None
    #: What it held when it was last loaded or saved; no attachments, not even none: it never was.
    _saved: str | None
    _saved_attachments: Mapping[str, Pointer] | None

    def __init__(
        self,
        doc_id: str | None = None,
        rev: str | None = None,
        json: str | None = "{}",
        has_conflicts: bool = False,
        *,
        content: Content | None = None,
    ) -> None:
        """
        Make a document that belongs to no store yet.

        :param doc_id: `None`: the store makes one up when it is put.
        :param json: its content as text, kept byte for byte; `None` for a tombstone.
        :param content: its content as a dict, instead of ``json``.
        :raise InvalidDocId: the id has other characters than ids may have.
        :raise InvalidJSON: the text is not a JSON object.
        :raise InvalidContent: the content is not a dict.
        """
        self.doc_id = None if doc_id is None else _checked_id(doc_id)
        self.rev = rev
        self.has_conflicts = has_conflicts
        # All attributes that there will ever be: Python keeps objects small that get theirs when they are made.
        self.home = self._text = self._content = self._saving = self._attaching = None
        self._attachments = {}
        self._saved = self._saved_attachments = None
        if content is not None:
            self.content = content
        elif json is not None:
            self.set_json(json)

    # --- content --------------------------------------------------------------------------------------

    @property
    def content(self) -> Content | None:
        """
        The content: a live dict, `None` for a tombstone.

        Assigning replaces it, and leaves the attachments as they are; assigning `None` is `make_tombstone`.
        """
        if self._content is None and self._text is not None:
            self._content = contents.parse(self._text)
        return self._content

    @content.setter
    def content(self, value: Content | None) -> None:
        if value is None:
            self.make_tombstone()
        elif not isinstance(value, dict):
            raise InvalidContent("not a dict")
        else:
            self._content, self._text = value, None

    def get_json(self) -> str | None:
        """
        Return the content as JSON text: the very text it was made from, as long as the content did not change.

        :raise InvalidContent: the content is not JSON.
        """
        text, _ = self._snapshot(known=True).written()
        return text

    def set_json(self, text: str) -> None:
        """
        Replace the content by a JSON text, which is kept byte for byte.

        :raise InvalidJSON: the text is not a JSON object.
        """
        if not isinstance(text, str):
            raise InvalidJSON("not text")
        contents.parse(text)
        self._text, self._content = text, None

    def is_tombstone(self) -> bool:
        """Tell whether the document is deleted: it has no content."""
        return self._text is None and self._content is None

    def make_tombstone(self) -> None:
        """Take away content and attachments; putting the document then deletes it."""
        self._text = self._content = None
        self._attachments = {}

    def same_content_as(self, other: Document) -> bool:
        """Tell whether both have the same content and the same attachments."""
        return self._attachments == other._attachments and self._canonical() == other._canonical()

    # --- attachments ----------------------------------------------------------------------------------

    @property
    def attachments(self) -> Mapping[str, Pointer]:
        """What is attached, by name: read-only."""
        return MappingProxyType(self._attachments)

    def put_attachment(
        self,
        fd: Source,
        name: str = DEFAULT_NAME,
        content_type: str | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Deferred[None]:
        """
        Attach bytes under a name; what was attached under it is replaced.

        The bytes are sealed as they are read.  Nothing is sent: saving the document queues that.

        :param fd: a binary file, read in a thread from where it stands to its end and not closed; or bytes; or an
            `IBodyProducer`.
        :param content_type: a media type, kept beside it and encrypted too.
        :param progress: called with (bytes done, bytes in all), at most ten times a second and at the end.
        :return: fires when the bytes are durable in the local store and this object points at them.
        :raise TypeError: it is a text file, or nothing that can be read.
        :raise InvalidSource: the file is closed, or gives something other than bytes.
        :raise WrongLength: the producer gave another number of bytes than it announced.
        :raise StorageFull: the disk is full; the document is as it was.
        """
        return self._ask(lambda home: home.put_attachment(self, fd, name, content_type, progress))

    def get_attachment(self, name: str = DEFAULT_NAME) -> Deferred[SealedFile | None]:
        """
        Open an attachment as a read-only, seekable binary file; it is fetched first if it is not on this device.

        Reading blocks, as with any file: for much data see `read_attachment` and `write_attachment_to`.

        :return: fires with the file, or with `None` when nothing is attached.
        :raise AttachmentNotAvailable: the bytes are neither here nor on the server yet; worth another try.
        :raise AuthenticationFailed: what the server has is not what was attached.  Reading can raise it too.
        """
        return self._ask(lambda home: home.get_attachment(self, name))

    def read_attachment(self, name: str = DEFAULT_NAME, start: int = 0, length: int | None = None) -> Deferred[bytes]:
        """
        Read ``length`` bytes from ``start`` on, or up to the end; of one that is not here, only these are fetched.

        :raise NoAttachment: nothing is attached under the name.
        :raise InvalidRange: it begins behind the end.
        :raise AttachmentNotAvailable: the bytes are neither here nor on the server yet.
        """
        return self._ask(lambda home: home.read_attachment(self, name, start, length))

    def write_attachment_to(
        self, consumer: IConsumer, name: str = DEFAULT_NAME, start: int = 0, length: int | None = None
    ) -> Deferred[None]:
        """
        Write an attachment, or a range of it, to a consumer, as fast as it takes it, in constant memory.

        One that is not here is fetched piece by piece, and not kept.

        :return: fires when the last byte was written.
        :raise NoAttachment: nothing is attached under the name.
        :raise InvalidRange: it begins behind the end.
        :raise AttachmentNotAvailable: the bytes are neither here nor on the server yet.
        """
        return self._ask(lambda home: home.write_attachment_to(self, consumer, name, start, length))

    def upload_attachment(
        self, name: str = DEFAULT_NAME, *, progress: ProgressCallback | None = None
    ) -> Deferred[AttachmentStates]:
        """
        Send an attachment to the server now, whether the document was saved or not.

        :return: fires with the state after it, when the server says that it is durable there.
        :raise QuotaExceeded: the server has no room for it.
        :raise NoServer: the store was opened without one.
        :raise TransferError: the exchange failed; `RetriableTransferError` is worth another try.
        """
        return self._ask(lambda home: home.upload_attachment(self, name, progress))

    def download_attachment(
        self, name: str = DEFAULT_NAME, *, progress: ProgressCallback | None = None
    ) -> Deferred[AttachmentStates]:
        """
        Fetch an attachment that is not on this device, verify it, and keep it.

        :return: fires with the state after it.
        :raise AttachmentNotAvailable: it is not on the server yet; worth another try.
        :raise AuthenticationFailed: what the server has is not what was attached; nothing of it was kept.
        :raise NoServer: the store was opened without one.
        """
        return self._ask(lambda home: home.download_attachment(self, name, progress))

    def delete_attachment(self, name: str = DEFAULT_NAME) -> Deferred[None]:
        """
        Point at it no more.  The bytes go when the document was saved, a grace period is over, and nothing refers
        to them.

        :raise NoAttachment: nothing is attached under the name.
        """
        return self._ask(lambda home: home.delete_attachment(self, name))

    def link_attachment(
        self, other_doc: Document, name: str = DEFAULT_NAME, other_name: str | None = None
    ) -> Deferred[None]:
        """
        Point, under ``name``, at what the other document has under ``other_name`` (the same by default).

        :raise NoAttachment: the other document has nothing under that name.
        :raise DetachedDocument: the other document is not of the same store.
        """
        return self._ask(lambda home: home.link_attachment(self, other_doc, name, other_name))

    def get_attachment_state(self, name: str = DEFAULT_NAME, refresh: bool = False) -> Deferred[AttachmentStates]:
        """
        Tell where the bytes are, from what this device knows; works offline.

        :param refresh: ask the server: is it really there?  Then the exchange's errors are raised.
        :raise NoServer: ``refresh``, and the store was opened without a server.
        """
        return self._ask(lambda home: home.get_attachment_state(self, name, refresh))

    def pin_attachment(self, name: str = DEFAULT_NAME) -> Deferred[AttachmentStates]:
        """
        Keep the bytes on this device, whatever else has to make room; if they are not here, they come by themselves.

        It is a matter of this device, and not saved with the document.  `download_attachment` fetches them now.

        :return: fires with the state after it, when that is durable.
        :raise NoAttachment: nothing is attached under the name.
        :raise AttachmentNotAvailable: this device knows nothing of the bytes: the document is an old one.
        """
        return self._ask(lambda home: home.pin_attachment(self, name, True))

    def unpin_attachment(self, name: str = DEFAULT_NAME) -> Deferred[AttachmentStates]:
        """Let the bytes make room for others again; answer and errors as `pin_attachment`."""
        return self._ask(lambda home: home.pin_attachment(self, name, False))

    def evict_attachment(self, name: str = DEFAULT_NAME) -> Deferred[AttachmentStates]:
        """
        Drop the bytes on this device; before, the server is asked whether it has the very same ones.

        They are fetched again when they are read, ranges as ranges.  A file from `get_attachment` that is open stays
        readable.  What is not here is no error.

        :return: fires with the state after it.
        :raise NoAttachment: nothing is attached under the name.
        :raise NotEvictable: they are pinned, in use, or not known to be on the server; nothing was dropped.
        :raise NoServer: the store was opened without one.
        :raise TransferError: the server could not be asked.
        """
        return self._ask(lambda home: home.evict_attachment(self, name))

    def is_dirty(self) -> Deferred[bool]:
        """
        Tell whether content or attachments differ from what this object last loaded or saved.

        :raise InvalidContent: the content is not JSON.
        """
        return maybeDeferred(self._differs)

    def is_stale(self) -> Deferred[bool]:
        """Tell whether the store has another revision than this object was made from."""
        return self._ask(lambda home: home.is_stale(self))

    # --- for the store --------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """
        Return what there is to save now.

        :raise InvalidContent: the content is not JSON.  Some of what it may not have is found when its text is made.
        """
        # What is stored was looked at when it was saved.
        return self._snapshot(known=self._saved is not None and self._text == self._saved)

    def _snapshot(self, known: bool) -> Snapshot:
        value = None if self._content is None else contents.copied(self._content)
        return Snapshot(self._text, value, self._attachments, known)

    @property
    def saving(self) -> Serial:
        """Lets one saving follow the other."""
        if self._saving is None:
            self._saving = Serial()
        return self._saving

    @property
    def attaching(self) -> Serial:
        """Lets one attaching follow the other."""
        if self._attaching is None:
            self._attaching = Serial()
        return self._attaching

    def settle(
        self,
        rev: str,
        text: str | None,
        attachments: Mapping[str, Pointer],
        home: Home,
        has_conflicts: bool = False,
    ) -> None:
        """Note that this text, and these attachments, are stored as ``rev`` in ``home``."""
        self.rev, self._saved, self._saved_attachments = rev, text, attachments
        self.home, self.has_conflicts = home, has_conflicts

    def attach(self, name: str, pointer: Pointer | None) -> None:
        """Point at something under a name, or at nothing."""
        attachments = {key: value for key, value in self._attachments.items() if key != name}
        if pointer is not None:
            attachments[name] = pointer
        self._attachments = attachments

    @classmethod
    def load(cls, stored: Stored, home: Home) -> Document:
        """Make the object for a stored document."""
        # One by one, with no call: a query makes many.
        doc = cls.__new__(cls)
        doc.doc_id, doc.rev, doc.has_conflicts = stored.doc_id, stored.rev, stored.has_conflicts
        doc.home = home
        doc._text = doc._saved = stored.content
        doc._attachments = doc._saved_attachments = stored.attachments
        doc._content = doc._saving = doc._attaching = None
        return doc

    # --- the rest -------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        """Compare what they are, not whose."""
        if not isinstance(other, Document):
            return NotImplemented
        return self._identity() == other._identity() and self.same_content_as(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show what may be logged: no content."""
        kind = "tombstone" if self.is_tombstone() else f"{len(self._attachments)} attachments"
        return f"<Document {self.doc_id!r} {self.rev!r} {kind}>"

    def __getstate__(self) -> dict[str, Any]:
        """Leave the store behind, and what only makes sense beside it."""
        own = ("doc_id", "rev", "has_conflicts", "_attachments", "_text", "_content", "_saved", "_saved_attachments")
        return {name: getattr(self, name) for name in own} | dict.fromkeys(("home", "_saving", "_attaching"))

    def _differs(self) -> bool:
        if self._attachments != self._saved_attachments:
            return True
        return self.get_json() != self._saved and self._canonical() != _canonical_text(self._saved)

    def _identity(self) -> tuple[DocId | None, str | None, bool]:
        return self.doc_id, self.rev, self.has_conflicts

    def _canonical(self) -> str | None:
        return None if self.content is None else contents.canonical(self.content)

    def _ask(self, question: Callable[[Home], Deferred[Any]]) -> Deferred[Any]:
        if self.home is None:
            return fail(DetachedDocument(self.doc_id))
        return question(self.home)


_checked_id = doc_id


def _canonical_text(text: str | None) -> str | None:
    return None if text is None else contents.canonical(contents.parse(text))

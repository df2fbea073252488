"""Tests of attachments that need no server: every source, every method, and what a failure leaves."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer

from soledad import AttachmentStates, Document
from soledad.client.local.files import INLINE_LIMIT
from soledad.deferreds import unawaited
from soledad.errors import (
    AuthenticationFailed,
    CryptoError,
    DetachedDocument,
    DocumentAlreadyDeleted,
    InvalidIdentifier,
    InvalidRange,
    InvalidSource,
    NoAttachment,
    NoServer,
    StorageFailed,
    StorageFull,
    StoreClosed,
    WrongLength,
)
from soledad.model.blob import SyncStatus
from soledad.streams import MemoryConsumer
from soledad.testing import make_store
from soledad.wire.container import HEADER_SIZE, Layout, Purpose
from tests.client.local.test_files import FaultyFiles, open_files
from tests.client.stores import PiecesProducer, SoledadTestCase, limit_pages
from tests.client.test_reading import data_of
from tests.limits import examples

#: The most data whose container is kept in the database.
INLINE_DATA = max(
    size
    for size in range(INLINE_LIMIT - 20_000, INLINE_LIMIT)
    if Layout.of_data(size, Purpose.BLOB.floor).size <= INLINE_LIMIT
)
SIZES = (0, 1, 65535, 65536, 65537, INLINE_DATA, INLINE_DATA + 1, 1024 * 1024 + 1)


class AttachmentsTestCase(SoledadTestCase):
    """A document to attach things to."""

    def setUp(self) -> None:
        """Make it."""
        super().setUp()
        self.doc = self.create(doc_id="doc")

    def read(self, doc: Document | None = None, name: str = "default") -> bytes | None:
        """Return what is attached."""
        file = self.now((doc or self.doc).get_attachment(name))
        if file is None:
            return None
        with file:
            return file.read()

    def put(self, data: Any, name: str = "default") -> None:
        """Attach something."""
        self.now(self.doc.put_attachment(data, name))

    def assertNothingLeft(self) -> None:
        """Neither document nor store nor folder know of anything."""
        self.assertEqual(dict(self.doc.attachments), {})
        self.assertEqual((self.blob_count(), self.blob_files()), (0, []))


class ExampleTests(AttachmentsTestCase):
    """The example that everything starts from, as far as it goes without a server."""

    def test_example(self) -> None:
        """Nothing, attached, saved, read."""
        doc = self.doc
        self.assertEqual(self.now(doc.get_attachment_state()), AttachmentStates.NONE)
        self.assertFalse(self.now(doc.is_dirty()))
        self.put(io.BytesIO(b"hackers"))
        self.assertEqual(self.now(doc.get_attachment_state()), AttachmentStates.LOCAL)
        self.assertTrue(self.now(doc.is_dirty()))
        self.now(self.store.put_doc(doc))
        self.assertFalse(self.now(doc.is_dirty()))
        self.assertEqual(self.read(), b"hackers")


class PutTests(AttachmentsTestCase):
    """What can be attached."""

    def test_sizes(self) -> None:
        """Any size comes out as it went in, from a file, bytes and a producer, kept in the database or beside it."""
        for size in SIZES:
            data = data_of(size)
            for source in (
                io.BytesIO(data),
                data,
                bytearray(data),
                PiecesProducer([data]),
                PiecesProducer([data], size),
            ):
                self.put(source)
                self.assertTrue(self.read() == data, (size, source))
                pointer = self.doc.attachments["default"]
                self.assertEqual(pointer.length, size)
            row = self.blob_row(self.doc)
            assert row is not None
            self.assertEqual(row.file is None, size <= INLINE_DATA, size)

    def test_survives(self) -> None:
        """What was saved is there when the store is opened again."""
        for name, size in (("small", 5), ("large", INLINE_LIMIT)):
            self.now(self.doc.put_attachment(data_of(size), name, "text/plain"))
        self.now(self.store.put_doc(self.doc))
        before = dict(self.doc.attachments)
        self.reopen()
        doc = self.get("doc")
        self.assertEqual(dict(doc.attachments), before)
        self.assertEqual(doc.attachments["small"].content_type, "text/plain")
        self.assertEqual((self.read(doc, "small"), self.read(doc, "large")), (data_of(5), data_of(INLINE_LIMIT)))

    def test_file_is_the_callers(self) -> None:
        """A file is read from where it stands, and not closed."""
        path = Path(self.mktemp())
        path.write_bytes(b"0123456789")
        with open(path, "rb") as file:
            file.seek(7)
            self.put(file)
            self.assertFalse(file.closed)
        self.assertEqual(self.read(), b"789")

    def test_replaced(self) -> None:
        """Putting again replaces, under a new random id; another name is another attachment."""
        self.put(b"first")
        first = self.doc.attachments["default"]
        self.put(b"second")
        self.put(b"other", "other")
        self.assertEqual((self.read(), self.read(name="other")), (b"second", b"other"))
        self.assertNotEqual(self.doc.attachments["default"].blob_id, first.blob_id)

    def test_nothing_repeats(self) -> None:
        """The same bytes, attached twice, are two blobs that have nothing in common."""
        self.put(b"x" * INLINE_LIMIT, "a")
        self.put(b"x" * INLINE_LIMIT, "b")
        one, other = (path.read_bytes() for path in self.blob_files())
        self.assertNotEqual(one[HEADER_SIZE:], other[HEADER_SIZE:])
        self.assertNotEqual(self.doc.attachments["a"], self.doc.attachments["b"])

    def test_sealed(self) -> None:
        """What is attached, its name and its type can be read in no file of the store."""
        secret = b"attack at dawn, attack at dawn"
        for data, name in ((secret, "name-secret"), (secret * 20_000, "large-secret")):
            self.now(self.doc.put_attachment(data, name, "type/secret"))
        self.now(self.store.put_doc(self.doc))
        for path in self.folder.rglob("*"):
            if path.is_file():
                held = path.read_bytes()
                for text in (secret, b"-secret", b"type/"):
                    self.assertNotIn(text, held, path)

    def test_content_replaced(self) -> None:
        """Content that is assigned afterwards leaves the attachments as they are, saved or not."""
        self.put(b"data")
        self.doc.content = {"new": 1}
        self.assertEqual(self.read(), b"data")
        self.now(self.store.put_doc(self.doc))
        self.doc.set_json('{"newer": 1}')
        self.now(self.store.put_doc(self.doc))
        self.assertEqual((self.read(self.get("doc")), self.get("doc").content), (b"data", {"newer": 1}))

    def test_queued_by_saving(self) -> None:
        """An attachment is condemned until its document is saved; then it is to be sent."""
        self.put(b"data")
        row = self.blob_row(self.doc)
        assert row is not None
        self.assertEqual((row.status, row.condemned), (SyncStatus.UNREFERENCED, 0))
        self.now(self.store.put_doc(self.doc))
        row = self.blob_row(self.doc)
        assert row is not None
        self.assertEqual((row.status, row.condemned), (SyncStatus.PENDING_UPLOAD, None))

    def test_names(self) -> None:
        """Any text is a name, up to a length; the rest is refused, and nothing is stored."""
        for name in ("a", "ä/../b", "x" * 255, " ", "\0", "\U0001f600"):
            self.put(b"data", name)
            self.assertEqual(self.read(name=name), b"data")
        self.now(self.store.put_doc(self.doc))
        self.assertEqual(self.get("doc").attachments, self.doc.attachments)
        bad: list[Any] = ["", "x" * 256, "\ud800", None, 1, b"a"]
        count = self.blob_count()
        for name in bad:
            self.fails(self.doc.put_attachment(b"data", name), InvalidIdentifier)
            self.fails(self.doc.link_attachment(self.doc, name, "a"), InvalidIdentifier)
        for content_type in ("x" * 256, "ä", 1):
            self.fails(self.doc.put_attachment(b"data", "n", content_type), InvalidIdentifier)  # type: ignore[arg-type]
        self.assertEqual(self.blob_count(), count)

    def test_tombstone(self) -> None:
        """A deleted document has no attachments, also when it is deleted while one is put."""
        other = self.get("doc")
        self.now(self.store.delete_doc(self.doc))
        self.fails(self.doc.put_attachment(b"data"), DocumentAlreadyDeleted)
        self.fails(self.doc.link_attachment(other), DocumentAlreadyDeleted)
        doc = self.create(doc_id="other")
        putting = doc.put_attachment(PiecesProducer([b"data"], ends=False))
        self.now(self.store.delete_doc(doc))
        putting.cancel()
        self.fails(putting, CancelledError)

        class DeletingProducer(PiecesProducer):
            def startProducing(producer, consumer: IConsumer) -> Any:
                self.now(self.store.delete_doc(third))
                return super().startProducing(consumer)

        third = self.create(doc_id="third")
        self.fails(third.put_attachment(DeletingProducer([b"data"])), DocumentAlreadyDeleted)
        self.assertEqual(dict(third.attachments), {})


class BadSourceTests(AttachmentsTestCase):
    """Sources that cannot be attached: one error, and nothing is left."""

    def refused(self, source: Any, *errors: type[BaseException]) -> BaseException:
        """Attaching fails, and leaves nothing, neither bytes nor open files."""
        before = open_files()
        error = self.fails(self.doc.put_attachment(source), *errors)
        self.assertNothingLeft()
        self.assertEqual(open_files(), before)
        return error

    def test_text(self) -> None:
        """A text file is refused with a `TypeError` that says to open it in binary."""
        with tempfile.NamedTemporaryFile("w+") as file, open(file.name) as text:
            for source in (text, io.StringIO("text")):
                self.assertIn("open it in binary mode", str(self.refused(source, TypeError)))

    def test_no_source(self) -> None:
        """What is nothing to read from is told by its type."""
        for source in (None, "text", 1, Path("x"), object()):
            self.assertIn(type(source).__name__, str(self.refused(source, TypeError)))

    def test_closed(self) -> None:
        """A closed file is refused."""
        with tempfile.TemporaryFile() as file:
            pass
        self.refused(file, InvalidSource)

    def test_failing_half_way(self) -> None:
        """A producer that fails fails the call with its error, whatever it had written."""
        for data in (b"", b"x" * 100, b"x" * 2 * INLINE_LIMIT):
            producer = PiecesProducer([data], error=ZeroDivisionError())
            self.refused(producer, ZeroDivisionError)

    def test_wrong_length(self) -> None:
        """A producer that gives more or less than it had announced is refused."""
        for announced in (0, 9, 11, 3 * INLINE_LIMIT):
            error = self.refused(PiecesProducer([b"0123456789"], announced), WrongLength)
            self.assertEqual(error.announced, announced)  # type: ignore[attr-defined]

    def test_not_bytes(self) -> None:
        """A producer of something else is refused."""
        self.refused(PiecesProducer(["text"]), InvalidSource, TypeError)  # type: ignore[list-item]

    def test_failing_file(self) -> None:
        """A file that fails while it is read fails the call with its error."""

        class Failing(io.BytesIO):
            def readinto(self, buffer: Any) -> int:
                if self.tell():
                    raise OSError(errno.EIO, "gone")
                return super().readinto(buffer)

        self.refused(Failing(b"x" * 3 * 1024 * 1024), OSError)

    def test_never_ending(self) -> None:
        """A producer that never ends can be cancelled: it is stopped, and nothing is left."""
        for data in (b"", b"x" * 2 * INLINE_LIMIT):
            producer = PiecesProducer([data], ends=False)
            putting = self.doc.put_attachment(producer)
            self.assertNoResult(putting)
            putting.cancel()
            self.fails(putting, CancelledError)
            self.assertEqual(producer.stopped, 1)
            self.assertNothingLeft()

    def test_never_ending_and_close(self) -> None:
        """Closing does not wait for it: the call fails `StoreClosed`, and nothing is left."""
        producer = PiecesProducer([b"x" * 2 * INLINE_LIMIT], ends=False)
        putting = self.doc.put_attachment(producer)
        waiting = PiecesProducer([b"y"], ends=False)
        behind = self.doc.put_attachment(waiting)
        self.now(self.store.close())
        self.fails(putting, StoreClosed)
        self.fails(behind, StoreClosed)
        self.assertEqual(producer.stopped, 1)
        self.reopen()
        self.doc = self.get("doc")
        self.assertNothingLeft()

    def test_in_turn(self) -> None:
        """Puts of one document are carried out in their order, and one that fails does not end the rest."""
        endless = self.doc.put_attachment(PiecesProducer([b"x"], ends=False))
        second = self.doc.put_attachment(b"second")
        third = self.doc.put_attachment(b"third")
        self.assertNoResult(second)
        endless.cancel()
        self.fails(endless, CancelledError)
        self.now(second)
        self.now(third)
        self.assertEqual(self.read(), b"third")


class DiskTests(AttachmentsTestCase):
    """Disks that are full or fail while something is attached."""

    def setUp(self) -> None:
        """Let the folder of sealed files have faults."""
        super().setUp()
        self.files = FaultyFiles(self.store._local.blobs.files.folder)
        self.store._local.blobs.files = self.files

    def test_faults(self) -> None:
        """Whatever fails: one of our errors, the document is as it was, nothing is left, and the next one works."""
        for call in ("create", "write", "file", "folder"):
            for number, error in ((errno.ENOSPC, StorageFull), (errno.EIO, StorageFailed)):
                self.files.faults = {call: number}
                before = open_files()
                self.fails(self.doc.put_attachment(b"x" * INLINE_LIMIT), error)
                self.assertNothingLeft()
                self.assertEqual(open_files(), before)
        self.files.faults = {}
        self.put(b"x" * INLINE_LIMIT)
        self.assertEqual(self.read(), b"x" * INLINE_LIMIT)

    def test_full_database(self) -> None:
        """So it is when the database finds the disk full, for bytes kept in it and for rows of files."""
        database = self.store._local.blobs.database
        database.write_now(limit_pages, 3)
        self.fails(self.doc.put_attachment(b"x" * (INLINE_LIMIT // 2)), StorageFull)
        self.assertNothingLeft()
        database.write_now(limit_pages, 100)
        self.put(b"x" * (INLINE_LIMIT // 2))
        self.assertEqual(self.read(), b"x" * (INLINE_LIMIT // 2))

    def test_what_was_attached_stays(self) -> None:
        """An attachment that cannot be replaced is still there."""
        self.put(b"first")
        self.files.faults = {"write": errno.ENOSPC}
        self.fails(self.doc.put_attachment(b"x" * INLINE_LIMIT), StorageFull)
        self.assertEqual(self.read(), b"first")


class ReadTests(AttachmentsTestCase):
    """What comes out."""

    def test_nothing_attached(self) -> None:
        """Without an attachment some methods give nothing, and the others say so."""
        self.assertIsNone(self.read())
        for call in (self.doc.upload_attachment, self.doc.download_attachment, self.doc.get_attachment_state):
            self.assertEqual(self.now(call()), AttachmentStates.NONE)
        self.assertEqual(self.now(self.doc.get_attachment_state(refresh=True)), AttachmentStates.NONE)
        refused: list[Callable[[], Deferred[Any]]] = [
            self.doc.read_attachment,
            lambda: self.doc.write_attachment_to(MemoryConsumer()),
            self.doc.delete_attachment,
            lambda: self.doc.link_attachment(self.doc),
        ]
        for refusing in refused:
            self.fails(refusing(), NoAttachment)

    def test_no_server(self) -> None:
        """What needs a server says that there is none."""
        self.put(b"data")
        self.fails(self.doc.upload_attachment(), NoServer)
        self.fails(self.doc.download_attachment(), NoServer)
        self.fails(self.doc.get_attachment_state(refresh=True), NoServer)

    def test_file(self) -> None:
        """The file is read-only and seekable, and outlasts its attachment and the store's being open."""
        for size in (1000, INLINE_LIMIT):
            data = data_of(size)
            self.doc = self.create()
            self.put(data)
            file = self.now(self.doc.get_attachment())
            assert file is not None
            self.assertEqual((file.readable(), file.seekable(), file.writable()), (True, True, False))
            self.put(b"other")
            self.reopen()
            file.seek(500)
            self.assertEqual(file.read(100), data[500:600])
            file.close()

    def test_no_files_left_open(self) -> None:
        """Whatever reads gives its file back."""
        self.put(data_of(INLINE_LIMIT))
        before = open_files()
        self.now(self.doc.read_attachment("default", 5, 10))
        self.now(self.doc.write_attachment_to(MemoryConsumer()))
        self.now(self.doc.write_attachment_to(MemoryConsumer(), start=INLINE_LIMIT))
        self.fails(self.doc.read_attachment("default", INLINE_LIMIT + 1), InvalidRange)
        self.assertEqual(open_files(), before)

    def test_ranges(self) -> None:
        """Any range, both ways; cut at the end, refused behind it."""
        for size in (0, 100, INLINE_LIMIT + 5):
            data = data_of(size)
            self.put(data)
            for start, length in ((0, None), (0, 0), (0, size), (size, None), (size // 2, 10), (size // 3, size)):
                stop = size if length is None else start + length
                self.assertTrue(self.now(self.doc.read_attachment("default", start, length)) == data[start:stop])
                consumer = MemoryConsumer()
                self.now(self.doc.write_attachment_to(consumer, start=start, length=length))
                self.assertTrue(consumer.value() == data[start:stop])
            for start, length in ((-1, None), (size + 1, 1), (0, -1)):
                self.fails(self.doc.read_attachment("default", start, length), InvalidRange)
                self.fails(self.doc.write_attachment_to(MemoryConsumer(), start=start, length=length), InvalidRange)

    @settings(max_examples=examples(40))
    @given(st.binary(max_size=3000), st.data())
    def test_any_range(self, content: bytes, data: st.DataObject) -> None:
        """Any data, any range."""
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.none() | st.integers(0, 4000))
        self.setUp()
        self.put(content)
        stop = None if length is None else start + length
        self.assertEqual(self.now(self.doc.read_attachment("default", start, length)), content[start:stop])


class DamageTests(AttachmentsTestCase):
    """Bytes that are not what was sealed."""

    def flip(self, place: int) -> None:
        """Change one bit of the stored container."""
        row = self.blob_row(self.doc)
        assert row is not None
        if row.file is not None:
            (path,) = self.blob_files()
            held = bytearray(path.read_bytes())
            held[place] ^= 1
            path.write_bytes(held)
            return

        def change(cursor: Any) -> None:
            (held,) = cursor.execute("SELECT bytes FROM container").fetchone()
            held = held[:place] + bytes([held[place] ^ 1]) + held[place + 1 :]
            cursor.execute("UPDATE container SET bytes = ?", (held,))

        self.store._local.blobs.database.write_now(change)

    def test_inline(self) -> None:
        """A byte of a small one, wherever it is: no way of reading gives anything, and mending it mends it."""
        data = data_of(100)
        self.put(data)
        row = self.blob_row(self.doc)
        assert row is not None
        size = row.known.sealed.size
        for place in (*range(0, HEADER_SIZE, 5), *range(HEADER_SIZE, size, 29), size - 1):
            self.flip(place)
            expected = CryptoError if place < HEADER_SIZE else AuthenticationFailed
            self.fails(self.doc.read_attachment(), expected)
            consumer = MemoryConsumer()
            self.fails(self.doc.write_attachment_to(consumer), expected)
            self.assertEqual(consumer.value(), b"")
            with self.assertRaises(expected):
                self.read_or_raise()
            self.flip(place)
        self.assertEqual(self.read(), data)

    def test_file(self) -> None:
        """A byte of a file: what comes before it is right, the rest does not come."""
        data = data_of(INLINE_LIMIT)
        self.put(data)
        for place in (3, HEADER_SIZE + 5, HEADER_SIZE + 3 * (65536 + 16) + 9):
            self.flip(place)
            before = open_files()
            self.fails(self.doc.read_attachment(), CryptoError)
            consumer = MemoryConsumer()
            self.fails(self.doc.write_attachment_to(consumer), CryptoError)
            got = consumer.value()
            self.assertTrue(got == data[: len(got)] and len(got) < len(data))
            self.assertEqual(open_files(), before)
            self.flip(place)

    def test_cut_file(self) -> None:
        """A file that was cut gives an error, never a short read."""
        self.put(data_of(INLINE_LIMIT))
        (path,) = self.blob_files()
        for size in (100_000, HEADER_SIZE, 10, 0):
            os.truncate(path, size)
            self.fails(self.doc.read_attachment(), CryptoError)

    def test_swapped(self) -> None:
        """One blob's file in another's place is refused, though both are sealed under the same root."""
        self.put(data_of(INLINE_LIMIT), "a")
        self.put(data_of(INLINE_LIMIT), "b")
        one, other = self.blob_files()
        held = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(held)
        for name in "ab":
            self.fails(self.doc.get_attachment(name), AuthenticationFailed)

    def read_or_raise(self) -> bytes | None:
        """Read the attachment as a file; raise what its opening or reading raises."""
        outcome: list[Any] = []
        unawaited(self.doc.get_attachment().addBoth(outcome.append))
        if hasattr(outcome[0], "raiseException"):
            outcome[0].raiseException()
        with outcome[0] as file:
            got: bytes = file.read()
            return got


class LinkAndDeleteTests(AttachmentsTestCase):
    """Pointers that come and go, and what becomes of the blobs."""

    def status(self, doc: Document | None = None, name: str = "default") -> tuple[SyncStatus, bool]:
        """Return the status of an attachment's blob, and whether it is condemned."""
        row = self.blob_row(doc or self.doc, name)
        assert row is not None
        return row.status, row.condemned is not None

    def test_delete(self) -> None:
        """The pointer is gone at once; the bytes are condemned when the document is saved."""
        self.put(b"data")
        self.now(self.store.put_doc(self.doc))
        before = self.get("doc")
        self.now(self.doc.delete_attachment())
        self.assertIsNone(self.read())
        self.assertEqual(self.status(before), (SyncStatus.PENDING_UPLOAD, False))
        self.now(self.store.put_doc(self.doc))
        self.assertEqual(self.status(before), (SyncStatus.PENDING_UPLOAD, True))
        self.assertEqual(self.read(before), b"data")

    def test_delete_document(self) -> None:
        """Deleting the document condemns what it had."""
        self.put(b"data")
        self.now(self.store.put_doc(self.doc))
        before = self.get("doc")
        self.now(self.store.delete_doc(self.doc))
        self.assertEqual(self.status(before), (SyncStatus.PENDING_UPLOAD, True))

    def test_replace(self) -> None:
        """Saving what replaced an attachment keeps the new one and condemns the old one."""
        self.put(b"first")
        self.now(self.store.put_doc(self.doc))
        before = self.get("doc")
        self.put(b"second")
        self.now(self.store.put_doc(self.doc))
        self.assertEqual(self.status(before), (SyncStatus.PENDING_UPLOAD, True))
        self.assertEqual(self.status(), (SyncStatus.PENDING_UPLOAD, False))

    def test_link(self) -> None:
        """Another document can point at the same blob, under the same or another name; nothing is copied."""
        self.put(b"data", "a")
        other = self.create()
        self.now(other.link_attachment(self.doc, "a"))
        self.now(other.link_attachment(self.doc, "b", "a"))
        self.now(self.doc.link_attachment(self.doc, "c", "a"))
        self.assertEqual([self.read(other, "a"), self.read(other, "b"), self.read(name="c")], [b"data"] * 3)
        self.assertEqual(self.blob_count(), 1)
        self.fails(other.link_attachment(self.doc, "x"), NoAttachment)
        self.fails(other.link_attachment(self.doc, "a", "x"), NoAttachment)

    def test_link_keeps(self) -> None:
        """A blob is kept as long as any document points at it, and revived by one that does again."""
        self.put(b"data")
        self.now(self.store.put_doc(self.doc))
        other, before = self.create(), self.get("doc")
        self.now(other.link_attachment(self.doc))
        self.now(self.store.put_doc(other))
        self.now(self.store.delete_doc(self.doc))
        self.assertEqual(self.status(before), (SyncStatus.PENDING_UPLOAD, False))
        linked = self.get(other.doc_id)
        self.now(self.store.delete_doc(other))
        self.assertEqual(self.status(before), (SyncStatus.PENDING_UPLOAD, True))
        again = self.create()
        self.now(again.link_attachment(linked))
        self.now(self.store.put_doc(again))
        self.assertEqual(self.status(before), (SyncStatus.PENDING_UPLOAD, False))

    def test_link_elsewhere(self) -> None:
        """A document of another store, or of none, has nothing to link to."""
        self.put(b"data")
        other_store = make_store(self, uuid="other")
        other = self.now(other_store.create_doc({}))
        self.fails(other.link_attachment(self.doc), DetachedDocument)
        stranger = Document("x")
        self.fails(self.doc.link_attachment(stranger), DetachedDocument)

    def test_unknown_blob(self) -> None:
        """A pointer to bytes that were seen nowhere is awaited; without a server that is all there is to say."""
        self.put(b"data")
        other_store = make_store(self, uuid="other")
        copy = Document("copy")
        copy.attach("default", self.doc.attachments["default"])
        self.now(other_store.put_doc(copy))
        self.assertEqual(self.now(copy.get_attachment_state()), AttachmentStates.AWAITED)
        for call in (copy.get_attachment, copy.read_attachment, copy.download_attachment):
            self.fails(call(), NoServer)


class ProgressTests(AttachmentsTestCase):
    """What long work tells of itself."""

    def told(self, source: Any) -> list[tuple[int, int]]:
        """Attach something; return what was told meanwhile."""
        told: list[tuple[int, int]] = []
        self.now(self.doc.put_attachment(source, progress=lambda done, total: told.append((done, total))))
        return told

    def test_told(self) -> None:
        """It goes up, never above the total, and ends with all."""
        size = 5 * 1024 * 1024 + 1
        for source in (
            io.BytesIO(data_of(size)),
            PiecesProducer([data_of(size)], size),
            PiecesProducer([data_of(size)]),
        ):
            told = self.told(source)
            self.assertEqual(told[-1], (size, size))
            self.assertEqual(sorted(told), told)
            self.assertTrue(all(0 <= done <= total for done, total in told))

    def test_nothing_to_do(self) -> None:
        """The end is told of nothing, too."""
        self.assertEqual(self.told(b"")[-1], (0, 0))

    def test_failing(self) -> None:
        """A callback that fails does not harm the work; its error is logged."""
        self.now(self.doc.put_attachment(data_of(INLINE_LIMIT), progress=lambda done, total: 1 / 0))
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
        self.assertEqual(self.read(), data_of(INLINE_LIMIT))

    def test_not_after_a_failure(self) -> None:
        """What failed did not end."""
        told: list[tuple[int, int]] = []
        producer = PiecesProducer([b"x" * 10], 20)
        self.fails(
            self.doc.put_attachment(producer, progress=lambda done, total: told.append((done, total))), WrongLength
        )
        self.assertTrue(all(done < total for done, total in told))

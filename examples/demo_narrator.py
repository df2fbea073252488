"""What the demonstration prints, and a store that tells of each call that the example makes."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import Any, BinaryIO, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from soledad import AttachmentStates, Document, Soledad

T = TypeVar("T")

#: Characters of a full bar.
WIDTH = 40


def headline(text: str) -> None:
    """Begin a part of the demonstration."""
    print(f"\n{text}", flush=True)


def line(name: str, outcome: object = "") -> None:
    """Print what something came to."""
    print(f"  {name:<24}{outcome}".rstrip(), flush=True)


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count:,} bytes"


def told(name: str, work: Deferred[T], describe: Callable[[T], object]) -> Deferred[T]:
    """Print what ``work`` came to, and pass it on."""

    def tell(result: T) -> T:
        line(name, describe(result))
        return result

    return work.addCallback(tell)


class Bar:
    """
    A progress bar that only ever grows, so that a file and a pipe show it just as a terminal does.

    `at` is what a call takes as ``progress``.
    """

    def __init__(self, name: str) -> None:
        self._drawn = 0
        self._done = 0
        self._began = monotonic()
        print(f"  {name:<24}[", end="", flush=True)

    def at(self, done: int, total: int) -> None:
        """``done`` of ``total`` bytes are done."""
        self._done = done
        self._draw(WIDTH * done // total if total else 0)

    def watch(self, work: Deferred[T], refused: str = "") -> Deferred[T]:
        """Close the bar when ``work`` ends; ``refused`` is said when it fails."""

        def succeeded(result: T) -> T:
            self._draw(WIDTH)
            print(f"] {size(self._done)}, {monotonic() - self._began:.2f} s", flush=True)
            return result

        def failed(failure: Failure) -> Failure:
            print(f" {refused}", flush=True)
            return failure

        return work.addCallbacks(succeeded, failed)

    def _draw(self, upto: int) -> None:
        print("#" * (upto - self._drawn), end="", flush=True)
        self._drawn = max(upto, self._drawn)


class NarratedStore:
    """The two methods of a store that the example calls."""

    def __init__(self, soledad: Soledad) -> None:
        self._soledad = soledad

    def create_doc(self, content: dict[str, Any]) -> Deferred[NarratedDocument]:
        """See `Soledad.create_doc`."""
        work = told("create_doc", self._soledad.create_doc(content), lambda doc: doc.doc_id)
        return work.addCallback(NarratedDocument)

    def put_doc(self, doc: NarratedDocument) -> Deferred[str]:
        """See `Soledad.put_doc`."""
        return told("put_doc", self._soledad.put_doc(doc.doc), lambda rev: f"revision {rev}")


class NarratedDocument:
    """The methods of a document that the example calls."""

    def __init__(self, doc: Document) -> None:
        self.doc = doc

    def get_attachment_state(self) -> Deferred[AttachmentStates]:
        """See `Document.get_attachment_state`."""
        return told("get_attachment_state", self.doc.get_attachment_state(), lambda state: state.name)

    def is_dirty(self) -> Deferred[bool]:
        """See `Document.is_dirty`."""
        return told("is_dirty", self.doc.is_dirty(), lambda dirty: dirty)

    def put_attachment(self, fd: BinaryIO) -> Deferred[None]:
        """See `Document.put_attachment`."""
        bar = Bar("put_attachment")
        return bar.watch(self.doc.put_attachment(fd, progress=bar.at))

    def upload_attachment(self) -> Deferred[AttachmentStates]:
        """See `Document.upload_attachment`."""
        bar = Bar("upload_attachment")
        return bar.watch(self.doc.upload_attachment(progress=bar.at))

    def get_attachment(self) -> Deferred[Any]:
        """See `Document.get_attachment`."""
        return told("get_attachment", self.doc.get_attachment(), lambda file: f"{size(file.length)} to read")

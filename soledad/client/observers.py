"""
Who wants to hear of which changes: tells observers, soon after a change is durable, never while it is made.

Which document a change is of, and in which indexes that was or is, the writers say; nothing is read here.
Source: docs/spec/documents.rst, "Observers".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from attrs import define, field
from twisted.internet.defer import maybeDeferred
from twisted.logger import Logger

from soledad.deferreds import unawaited
from soledad.errors import StoreClosed
from soledad.model.document import Written
from soledad.model.ids import DocId, index_name
from soledad.model.ids import doc_id as checked_id

_log = Logger()

#: Called with a document's id, its current revision, and the generation of the change.
Observer = Callable[[str, str, int], object]


@define(eq=False)
class Subscription:
    """What `Soledad.subscribe` returns: an observer is told of changes until this is cancelled."""

    #: The document that it is told of; `None`: of all.
    doc_id: str | None
    #: The index whose documents it is told of; `None`: of all.
    index: str | None
    _observer: Observer = field(repr=False)
    #: What it was not told of yet: for each document the newest change, in their order.
    _waiting: dict[DocId, Written] = field(factory=dict, init=False, repr=False)
    _cancelled: bool = field(default=False, init=False)

    def cancel(self) -> None:
        """Tell the observer nothing any more, from now on; cancelling again is harmless."""
        self._cancelled = True
        self._waiting.clear()

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, or the store was closed."""
        return self._cancelled

    @property
    def waiting(self) -> bool:
        """Whether there is something to tell."""
        return bool(self._waiting)

    def note(self, doc_id: DocId, written: Written) -> None:
        """Have something to tell, if the observer wants it."""
        earlier = self._waiting.pop(doc_id, None)
        if not self._cancelled and (earlier is not None or self._wants(doc_id, written)):
            self._waiting[doc_id] = written

    def tell(self) -> None:
        """Call the observer for each document that waits."""
        while self._waiting:
            doc_id = next(iter(self._waiting))
            written = self._waiting.pop(doc_id)
            work = maybeDeferred(self._observer, doc_id, written.rev, written.generation)
            unawaited(work.addErrback(partial(_log.failure, "An observer of {doc_id} failed", doc_id=doc_id)))

    def _wants(self, doc_id: DocId, written: Written) -> bool:
        return self.doc_id in (None, doc_id) and (self.index is None or self.index in written.indexes)


@define(eq=False)
class Observers:
    """The observers of one store's documents."""

    #: Calls a function on the reactor's thread, soon.
    _soon: Callable[[Callable[[], None]], None]
    _subscriptions: list[Subscription] = field(factory=list, init=False)
    _scheduled: bool = field(default=False, init=False)
    _telling: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)

    def subscribe(self, observer: Observer, doc_id: str | None, index: str | None) -> Subscription:
        """See `Soledad.subscribe`."""
        if self._closed:
            raise StoreClosed()
        if not callable(observer):
            raise TypeError("an observer is called: it must be a function, or the like")
        if doc_id is not None:
            checked_id(doc_id)
        if index is not None:
            index_name(index)
        subscription = Subscription(doc_id, index, observer)
        self._subscriptions.append(subscription)
        return subscription

    def changed(self, changes: Iterable[tuple[DocId, Written]]) -> None:
        """Note changes that are durable, in their order."""
        self._subscriptions = [one for one in self._subscriptions if not one.cancelled]
        for doc_id, written in changes:
            for subscription in self._subscriptions:
                subscription.note(doc_id, written)
        if not self._scheduled and any(subscription.waiting for subscription in self._subscriptions):
            self._scheduled = True
            self._soon(self._tell)

    def close(self) -> None:
        """Tell nobody anything any more."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.cancel()

    def _tell(self) -> None:
        self._scheduled = False
        # An observer may change something.  Where calls run in place that ends up here: the outer one goes on with it.
        if self._telling:
            return
        self._telling = True
        try:
            while waiting := [subscription for subscription in self._subscriptions if subscription.waiting]:
                for subscription in waiting:
                    subscription.tell()
        finally:
            self._telling = False

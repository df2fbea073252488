"""Remote documents over a server in memory: the contract; and over a server that answers what it likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource

from soledad.client.remote.connect import Server
from soledad.client.remote.documents import RemoteDocuments
from soledad.client.remote.http import ServerConnection
from soledad.deferreds import unawaited
from soledad.errors import PreconditionFailed, QuotaExceeded, ServerFailed, SoledadError, UnexpectedAnswer
from soledad.model.ids import user_id
from soledad.testing import MemoryServer
from soledad.wire.changes import (
    PAGE_LIMIT,
    RECORDS_LIMIT,
    Idle,
    NamedHash,
    NamesPage,
    Push,
    SyncHead,
    SyncPage,
    encode_names,
    encode_page,
    encode_push,
)
from tests.contracts.records_backend import record
from tests.contracts.remote_documents import RemoteDocumentsContract
from tests.limits import examples


class MemoryRemoteDocumentsTests(RemoteDocumentsContract, TestCase):
    """The real client and the real server, joined in memory."""

    async def make_server(self) -> Server:
        """See the contract."""
        return MemoryServer().connect("alice")


class QuotaTests(SynchronousTestCase):
    """A user whose room is used up."""

    def test_quota(self) -> None:
        """The push is refused with how much it would have been."""
        documents = MemoryServer(quota=100).connect("alice").documents
        pushing = documents.push(encode_push(Push((record(1, bytes(90)),), bytes(11))), "1" * 64, None)
        error = self.failureResultOf(pushing, QuotaExceeded).value
        self.assertEqual((error.asked, error.available), (101, 100))


class Canned(Resource):
    """Answers everything with the same."""

    isLeaf = True

    def __init__(self, status: int, headers: Mapping[str, str | None], body: bytes) -> None:
        super().__init__()
        self._status, self._headers, self._body = status, headers, body

    def render(self, request: Any) -> bytes:
        """Answer."""
        request.setResponseCode(self._status)
        for name, value in self._headers.items():
            if value is not None:
                request.setHeader(name.encode(), value.encode())
        return self._body


CHECKPOINT = b"checkpoint"
TAG = sha256(CHECKPOINT).hexdigest()
HEAD = SyncHead("5.a", CHECKPOINT)
HEADERS = {"etag": f'"{TAG}"', "soledad-blobs": "c.1.2"}
TWO = (record(2), record(1))
NAMES = tuple(NamedHash(one.name, one.hash) for one in (record(1), record(2)))


class HostileCase(SynchronousTestCase):
    """A client of a server whose answers a test writes."""

    def ask(
        self,
        call: Callable[[RemoteDocuments], Deferred[Any]],
        body: bytes = b"",
        status: int = 200,
        **headers: str | None,
    ) -> Deferred[Any]:
        """Call; the answer has the usual headers but for those given (with underscores for dashes)."""
        changed = {name.replace("_", "-"): value for name, value in headers.items()}
        agent = RequestTraversalAgent(Canned(status, {**HEADERS, **changed}, body))
        connection = ServerConnection.over(agent, Clock(), "http://server.invalid", user_id("alice"), "token")
        answer = call(RemoteDocuments(connection))
        for _ in range(5):
            agent.flush()
        return answer

    def refused(self, *arguments: Any, **options: Any) -> None:
        """See that an answer is not taken."""
        self.failureResultOf(self.ask(*arguments, **options), UnexpectedAnswer)


class PullTests(HostileCase):
    """Pages."""

    page = encode_page(SyncPage(TWO, HEAD, False))

    def test_good(self) -> None:
        """A page as it should be is taken, so that what follows is refused for what is wrong with it."""
        page = self.successResultOf(self.ask(lambda documents: documents.pull("4.a", "1" * 64, 2), self.page))
        self.assertEqual(page, SyncPage(TWO, SyncHead("5.a", CHECKPOINT, "c.1.2"), False))

    def test_headers(self) -> None:
        """The tag must be the checkpoint's, and the blobs' head be there."""
        for wrong in (
            {"etag": None},
            {"etag": TAG},
            {"etag": f'W/"{TAG}"'},
            {"etag": '"' + "0" * 64 + '"'},
            {"soledad_blobs": None},
            {"soledad_blobs": ""},
            {"soledad_blobs": "x" * 200},
            {"soledad_blobs": "c 1"},
        ):
            self.refused(lambda documents: documents.pull(), self.page, **wrong)

    def test_bodies(self) -> None:
        """What is not a page, or not the one that was asked for."""
        pull: Callable[[RemoteDocuments], Any] = lambda documents: documents.pull("4.a", None, 2)  # noqa: E731
        for body in (
            b"",
            b"{}",
            self.page[:-1],
            self.page + b"x",
            encode_page(SyncPage((*TWO, record(3)), HEAD, False)),
            encode_page(SyncPage((record(1), record(1)), HEAD, False)),
            encode_page(SyncPage(TWO, SyncHead("4.a", CHECKPOINT), True)),
            encode_names(NamesPage(NAMES, HEAD, False)),
        ):
            self.refused(pull, body)

    def test_nothing(self) -> None:
        """Before a first push there are no cursors: to one, nothing is no answer."""
        nothing = encode_page(SyncPage((), SyncHead("", None), False))
        page = self.successResultOf(self.ask(lambda documents: documents.pull(), nothing, etag=None))
        self.assertIsNone(page.head.checkpoint)
        self.refused(lambda documents: documents.pull("4.a"), nothing, etag=None)
        self.refused(lambda documents: documents.pull(), nothing)

    def test_too_long(self) -> None:
        """A page that is longer than any can be is refused by its length."""
        self.refused(lambda documents: documents.pull(), self.page + bytes(PAGE_LIMIT))

    def test_statuses(self) -> None:
        """Other statuses; that nothing changed, to who did not ask so, or of another head."""
        self.refused(lambda documents: documents.pull(), self.page, 201)
        self.refused(lambda documents: documents.pull(), b"", 304)
        self.refused(lambda documents: documents.pull("5.a", "1" * 64), b"", 304)
        idle = self.ask(lambda documents: documents.pull("5.a", TAG), b"", 304)
        self.assertEqual(self.successResultOf(idle), Idle("c.1.2"))
        self.refused(lambda documents: documents.pull("5.a", TAG), b"", 304, soledad_blobs=None)
        self.failureResultOf(self.ask(lambda documents: documents.pull(), b"", 502), ServerFailed)

    def test_head(self) -> None:
        """The head alone has no records, and nothing behind it."""
        alone = encode_page(SyncPage((), HEAD, False))
        head = self.successResultOf(self.ask(lambda documents: documents.head(), alone))
        self.assertEqual(head, SyncHead("5.a", CHECKPOINT, "c.1.2"))
        self.refused(lambda documents: documents.head(), self.page)

    @settings(max_examples=examples(60))
    @given(st.data())
    def test_mutated(self, data: st.DataObject) -> None:
        """However an answer is changed: it is that page, or a typed error."""
        at = data.draw(st.integers(0, len(self.page) - 1))
        changed = self.page[:at] + data.draw(st.binary(max_size=5)) + self.page[at + data.draw(st.integers(0, 5)) :]
        asking = self.ask(lambda documents: documents.pull(), changed)
        results: list[Any] = []
        unawaited(asking.addBoth(results.append))
        if isinstance(results[0], SyncPage):
            self.assertEqual(encode_page(results[0]), changed)
            self.assertEqual(results[0].head.tag, TAG)
        else:
            results[0].trap(UnexpectedAnswer)


class NamesTests(HostileCase):
    """Lists of names."""

    body = encode_names(NamesPage(NAMES, HEAD, False))

    def test_good(self) -> None:
        """A list as it should be."""
        page = self.successResultOf(self.ask(lambda documents: documents.names(record(0).name, TAG, 2), self.body))
        self.assertEqual(page, NamesPage(NAMES, SyncHead("5.a", CHECKPOINT, "c.1.2"), False))

    def test_bad(self) -> None:
        """Names that were not asked for, more than were, of another head, in no order, or no names."""
        self.refused(lambda documents: documents.names(record(1).name), self.body)
        self.refused(lambda documents: documents.names(limit=1), self.body)
        self.refused(lambda documents: documents.names("", "1" * 64), self.body)
        self.refused(lambda documents: documents.names(), encode_names(NamesPage(NAMES[::-1], HEAD, False)))
        self.refused(lambda documents: documents.names(), encode_names(NamesPage((), HEAD, True)))
        self.refused(lambda documents: documents.names(), PullTests.page)


class FetchTests(HostileCase):
    """Chosen records."""

    def fetch(self, body: bytes) -> Deferred[Any]:
        """Ask for two records."""
        return self.ask(lambda documents: documents.fetch([record(2).name, record(1).name]), body)

    def test_good(self) -> None:
        """Records as they should be."""
        body = encode_page(SyncPage((record(1),), HEAD, True))
        page = self.successResultOf(self.fetch(body))
        self.assertEqual((page.records, page.more), ((record(1),), True))

    def test_bad(self) -> None:
        """Records that nobody asked for, in another order, twice, or more behind the last one."""
        for records, more in (
            ((record(1), record(3)), False),
            ((record(0),), False),
            ((record(2), record(1)), False),
            ((record(1), record(1)), False),
            ((record(1), record(2)), True),
            ((record(2),), True),
        ):
            self.failureResultOf(self.fetch(encode_page(SyncPage(records, HEAD, more))), UnexpectedAnswer)


class PushTests(HostileCase):
    """Pushes."""

    def push(self, documents: RemoteDocuments) -> Deferred[str]:
        """Push something."""
        assert HEAD.tag is not None
        return documents.push(encode_push(Push((record(1),), CHECKPOINT)), HEAD.tag, "1" * 64)

    def test_good(self) -> None:
        """An answer as it should be."""
        cursor = self.successResultOf(self.ask(self.push, status=204, soledad_cursor="5.a"))
        self.assertEqual(cursor, HEAD.cursor)

    def test_bad(self) -> None:
        """An answer of another status, or to another push."""
        self.refused(self.push, status=200, soledad_cursor="5.a")
        for wrong in (
            {"etag": None},
            {"etag": '"' + "1" * 64 + '"'},
            {"soledad_cursor": None},
            {"soledad_cursor": "-"},
        ):
            self.refused(self.push, status=204, **{"soledad_cursor": "5.a", **wrong})

    def test_errors(self) -> None:
        """Errors are those of the protocol."""
        cases: list[tuple[int, type[SoledadError]]] = [
            (412, PreconditionFailed),
            (503, ServerFailed),
            (418, UnexpectedAnswer),
        ]
        for status, kind in cases:
            self.failureResultOf(self.ask(self.push, status=status), kind)

    def test_limit(self) -> None:
        """The usual limit is that of the protocol."""
        many = tuple(record(at) for at in range(RECORDS_LIMIT + 1))
        self.refused(lambda documents: documents.pull(), encode_page(SyncPage(many, HEAD, False)))

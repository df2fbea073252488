"""Requests without a network: URLs, what errors are made of, bodies that are cut short."""

from __future__ import annotations

from typing import Any

from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet import error as network
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import RequestGenerationFailed, ResponseFailed, ResponseNeverReceived
from twisted.web.iweb import IAgent
from zope.interface import implementer

from soledad.client.remote.connection import Upload
from soledad.client.remote.http import ServerConnection, explain, server_url
from soledad.errors import (
    ConnectionFailed,
    InsecureServer,
    InvalidServerURL,
    TransferTimeout,
    UnexpectedAnswer,
    WrongLength,
)
from soledad.model.ids import UserId
from soledad.streams import MemoryConsumer
from soledad.testing import MemoryServer
from tests.contracts.remote_blobs import Source


class URLTests(SynchronousTestCase):
    """Where a server may be."""

    def test_good(self) -> None:
        """Hosts, ports and paths; a slash at the end makes no difference."""
        for text in ("https://example.org", "http://127.0.0.1:8180", "https://example.org:1/a/b", "https://[::1]:5"):
            self.assertEqual(server_url(text), text)
            self.assertEqual(server_url(text + "/"), text)

    def test_bad(self) -> None:
        """Anything else is refused, and a password in it is not shown."""
        for text in (
            "",
            "example.org",
            "ftp://example.org",
            "https://",
            "https://example.org:port",
            "https://example.org:0",
            "https://example.org:99999",
            "https://alice:secret@example.org",
            "https://example.org/?secret",
            "https://example.org/#secret",
            "https://example.org/a b",
            "https://example.org\n",
            "https://exämple.org",
        ):
            error = self.assertRaises(InvalidServerURL, server_url, text)
            self.assertNotIn("secret", str(error))

    def test_token(self) -> None:
        """A token is needed; it is in no representation."""
        make = ServerConnection.over
        agent = MemoryServer().agent
        self.assertRaises(InvalidServerURL, make, agent, Clock(), "https://example.org", UserId("alice"), "")
        self.assertNotIn("secret", repr(make(agent, Clock(), "https://example.org", UserId("alice"), "secret")))

    def test_path(self) -> None:
        """A server may have its place below a path."""
        agent = Recorder()
        connection = ServerConnection.over(agent, Clock(), "https://example.org/below/", UserId("alice"), "token")
        self.failureResultOf(Deferred.fromCoroutine(connection.request("GET", "/blobs/alice?a=b")), ConnectionFailed)
        self.assertEqual(agent.uris, [b"https://example.org/below/blobs/alice?a=b"])


@implementer(IAgent)
class Recorder:
    """An agent that notes where requests go, and reaches nobody."""

    def __init__(self) -> None:
        self.uris: list[bytes] = []

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Any:
        """See `IAgent`."""
        self.uris.append(uri)
        return fail(network.ConnectionRefusedError())


class ExplainTests(SynchronousTestCase):
    """From Twisted's errors to ours."""

    def check(self, error: BaseException, kind: type[BaseException]) -> Any:
        """See that ``error`` becomes one of ``kind``; return it."""
        explained = explain(error)
        self.assertIsInstance(explained, kind)
        return explained

    def lost(self, *reasons: BaseException) -> ResponseFailed:
        """Return the error of an answer that was lost for these reasons."""
        return ResponseNeverReceived([Failure(reason) for reason in reasons])

    def test_broken(self) -> None:
        """What broke a connection is told, and may be tried again."""
        for error in (
            network.ConnectionRefusedError(),
            network.DNSLookupError("no such host"),
            network.ConnectionLost(),
        ):
            self.check(error, ConnectionFailed)
            self.check(self.lost(error), ConnectionFailed)

    def test_our_own_reason(self) -> None:
        """What is known better is among the reasons."""
        timeout = TransferTimeout(5)
        self.assertIs(self.check(self.lost(network.ConnectionLost(), timeout), TransferTimeout), timeout)
        self.check(self.lost(CancelledError()), CancelledError)

    def test_insecure(self) -> None:
        """A certificate that is not trusted is not a broken connection; an end of TLS is."""
        error = SSL.Error([("SSL routines", "", "certificate verify failed")])
        self.assertIn("certificate verify failed", str(self.check(self.lost(error), InsecureServer)))
        self.check(self.lost(VerificationError(errors=[])), InsecureServer)
        self.check(self.lost(SSL.SysCallError(104, "ECONNRESET")), ConnectionFailed)

    def test_nonsense(self) -> None:
        """What cannot be parsed is unexpected; what it was is not quoted."""
        error = self.check(self.lost(ValueError("secret")), UnexpectedAnswer)
        self.assertNotIn("secret", str(error))

    def test_source(self) -> None:
        """The error of a source stays as it is."""
        error = OSError(5, "cannot read")
        self.assertIs(explain(RequestGenerationFailed([Failure(error)])), error)

    def test_mistakes(self) -> None:
        """A mistake in the program is not dressed up as the server's."""
        error = TypeError()
        self.assertIs(explain(error), error)


class UploadTests(SynchronousTestCase):
    """A body on its way."""

    def setUp(self) -> None:
        """Begin to send ten bytes."""
        self.source, self.consumer = Source(10), MemoryConsumer()
        self.upload = Upload(self.source)
        self.done = self.upload.startProducing(self.consumer)

    def test_whole(self) -> None:
        """All is written."""
        self.source.consumer.write(b"0123456789")
        self.source.done.callback(None)
        self.successResultOf(self.done)
        self.assertEqual(self.consumer.value(), b"0123456789")

    def test_cut_short(self) -> None:
        """The source is stopped, the rest is made up, and nothing more is taken."""
        self.source.consumer.write(b"012")
        self.upload.cut_short()
        self.successResultOf(self.done)
        self.source.consumer.write(b"345")
        self.assertEqual((self.source.stopped, len(self.consumer.value())), (1, 10))

    def test_stopped(self) -> None:
        """A body that is stopped says nothing more; it is stopped once."""
        self.upload.stopProducing()
        self.upload.stopProducing()
        self.source.done.callback(None)
        self.assertNoResult(self.done)
        self.assertEqual(self.source.stopped, 1)

    def test_cancelled(self) -> None:
        """Cancelling stops the source."""
        self.done.cancel()
        self.failureResultOf(self.done, CancelledError)
        self.assertEqual(self.source.stopped, 1)

    def test_too_much(self) -> None:
        """No byte too many is written."""
        self.source.consumer.write(b"0123456789")
        self.source.consumer.write(b"x")
        self.failureResultOf(self.done, WrongLength)
        self.assertEqual((self.consumer.value(), self.source.stopped), (b"0123456789", 1))

    def test_stopped_before(self) -> None:
        """A body whose connection was gone before it began is not begun."""
        source = Source(10)
        upload = Upload(source)
        upload.stopProducing()
        self.assertNoResult(upload.startProducing(self.consumer))
        self.assertEqual((source.consumer, source.stopped), (None, 0))

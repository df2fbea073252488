"""Files that go to a socket past the consumer: in order, whole, and only where that can be."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from soledad.deferreds import InPlace
from soledad.errors import ConnectionFailed, WrongLength
from soledad.model.ids import BlobId, Namespace, UserId
from soledad.server.backends.files import Files
from soledad.server.backends.filesystem import FileBytes
from soledad.server.backends.reading import LEAST, PIECE
from soledad.server.interfaces import ISocketConsumer, Place
from soledad.streams import Budget, BytesProducer, MemoryConsumer
from tests.server.support import HeldWorker

PLACE = Place(UserId("alice"), Namespace("default"), BlobId("x"), "0123")
SIZE = 3 * LEAST + 1


@implementer(ISocketConsumer)
class SocketConsumer:
    """A connection of which the test holds the other end: what is written waits until the test lets it go."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self._waiting = bytearray()
        self.received = bytearray()
        self.producer: Any = None
        #: Whether it asks to pause when it is written to.
        self.pauses = True
        self.written = self.straight = 0

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See `IConsumer`."""
        self.producer = producer

    def unregisterProducer(self) -> None:
        """See `IConsumer`."""
        self.producer = None

    def write(self, data: bytes) -> None:
        """See `IConsumer`."""
        self._waiting += data
        self.written += len(data)
        if self.pauses:
            self.producer.pauseProducing()

    def socket(self) -> int:
        """See `ISocketConsumer`."""
        return os.dup(self._ours.fileno())

    def sent(self, size: int) -> None:
        """See `ISocketConsumer`."""
        self.straight += size

    def flow(self) -> None:
        """Let all that waits arrive, and what is in the socket; then ask for more."""
        self._receive()
        while self._waiting:
            del self._waiting[: self._ours.send(self._waiting[: PIECE // 4])]
            self._receive()
        if self.producer is not None:
            self.producer.resumeProducing()

    def _receive(self) -> None:
        try:
            while piece := self._theirs.recv(PIECE):
                self.received += piece
        except BlockingIOError:
            return

    def close(self) -> None:
        """Close both ends."""
        self._ours.close()
        self._theirs.close()


class StubbornFiles(Files):
    """A file system that sends nothing by itself."""

    def send(self, file: int, socket: int, size: int, start: int) -> int:
        """See `Files`."""
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


class SendingTests(SynchronousTestCase):
    """From a file to a socket."""

    def setUp(self) -> None:
        """Store some bytes."""
        self.data = os.urandom(SIZE)
        self.consumer = SocketConsumer()
        self.addCleanup(self.consumer.close)
        self.make(Files())

    def make(self, files: Files) -> None:
        """Store the bytes in files of this kind."""
        root = os.path.abspath(self.mktemp())
        os.mkdir(root)
        self.store = FileBytes(root, InPlace(), Budget(), files)
        self.successResultOf(self.store.write(PLACE, BytesProducer(self.data)))

    def read(self, start: int = 0, length: int = SIZE) -> Deferred[None]:
        """Read from the store until nothing moves any more."""
        reading = self.store.read(PLACE, self.consumer, start, length)
        while not reading.called:
            self.consumer.flow()
        self.consumer.flow()
        return reading

    def test_straight(self) -> None:
        """All arrives, in order; most of it was never in this process."""
        self.successResultOf(self.read())
        self.assertEqual(self.consumer.received, self.data)
        self.assertEqual(self.consumer.written + self.consumer.straight, SIZE)
        self.assertGreater(self.consumer.straight, self.consumer.written // 2)

    def test_range(self) -> None:
        """Of a part, just that."""
        self.successResultOf(self.read(5, LEAST + 5))
        self.assertEqual(self.consumer.received, self.data[5 : LEAST + 10])
        self.assertGreater(self.consumer.straight, 0)

    def test_not_emptied(self) -> None:
        """Nothing goes past a consumer that may still have something to write."""
        self.consumer.pauses = False
        self.successResultOf(self.read())
        self.assertEqual(self.consumer.received, self.data)
        self.assertEqual((self.consumer.written, self.consumer.straight), (SIZE, 0))

    def test_small(self) -> None:
        """What is small is written in one piece."""
        self.successResultOf(self.read(0, LEAST - 1))
        self.assertEqual(self.consumer.received, self.data[: LEAST - 1])
        self.assertEqual(self.consumer.straight, 0)

    def test_no_socket(self) -> None:
        """What has no socket is written to."""
        consumer = MemoryConsumer()
        self.successResultOf(self.store.read(PLACE, consumer, 0, SIZE))
        self.assertEqual(consumer.value(), self.data)

    def test_impossible(self) -> None:
        """A file system that cannot do it has its files read."""
        self.make(StubbornFiles())
        self.successResultOf(self.read())
        self.assertEqual(self.consumer.received, self.data)
        self.assertEqual(self.consumer.straight, 0)

    def test_too_short(self) -> None:
        """A file that lost its end is an error, not a short answer."""
        os.truncate(self.store.path(PLACE), SIZE - 10)
        error = self.failureResultOf(self.read(), WrongLength).value
        self.assertEqual((error.announced, error.given), (SIZE, SIZE - 10))
        self.assertEqual(self.consumer.received, self.data[:-10])

    def test_streams(self) -> None:
        """What moves much data runs in threads of its own."""
        streams = self.store._streams = HeldWorker()
        for begin in (
            lambda: self.store.read(PLACE, MemoryConsumer(), 0, SIZE),
            lambda: self.store.read(PLACE, self.consumer, 0, SIZE),
            lambda: self.store.write(evolve(PLACE, upload="4567"), BytesProducer(self.data)),
        ):
            work: Deferred[Any] = begin()
            self.assertNoResult(work)
            self.assertEqual(len(streams._waiting), 1)
            streams.release()
            while self.consumer.producer is not None:
                self.consumer.flow()
                streams.release()
            self.successResultOf(work)

    def test_client_gone(self) -> None:
        """When the client goes, it ends, and what was opened for it is closed."""
        before = len(os.listdir("/dev/fd"))
        reading = self.store.read(PLACE, self.consumer, 0, SIZE)
        self.consumer.flow()
        self.assertNoResult(reading)
        self.consumer.producer.stopProducing()
        self.failureResultOf(reading, ConnectionFailed)
        self.assertEqual(len(os.listdir("/dev/fd")), before)

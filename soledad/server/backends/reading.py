"""
A file on its way to who asked for it.

Where that is a socket, the system is asked to pass most of it there by itself: sendfile(2) takes a fifth of the time
that reading and writing take.
"""

from __future__ import annotations

import os
import select
from contextlib import suppress
from typing import Any

from attrs import define
from twisted.internet.interfaces import IConsumer

from soledad.deferreds import Worker
from soledad.errors import WrongLength
from soledad.server.backends.files import Files
from soledad.server.faults import storage_errors
from soledad.server.interfaces import ISocketConsumer
from soledad.streams import Gate

#: Bytes that are worth it; and those that go through the consumer each time: more than it lets wait.
LEAST, PIECE = 512 * 1024, 128 * 1024
#: Bytes that are passed before others have the thread; milliseconds that it waits for a quick client to make room.
BURST, PATIENCE = 16 * 1024 * 1024, 1

_CAN_SEND = hasattr(os, "sendfile") and hasattr(select, "poll")


@define(eq=False)
class FileReader:
    """A part of a file that is open for reading, and how far it was read.  All of it blocks."""

    _files: Files
    _file: int
    #: Where to go on, and where to end.
    position: int
    stop: int

    def read(self, size: int) -> bytes:
        """Return the next bytes, none at the end."""
        with storage_errors():
            data = self._files.read(self._file, min(size, self.stop - self.position), self.position)
        self.position += len(data)
        return data

    def send(self, socket: int) -> int:
        """
        Pass what a socket has room for; return how many bytes that was.

        If that fails, reading or writing will, too, and say so.
        """
        start = self.position
        stop = min(self.stop, start + BURST)
        room = select.poll()
        room.register(socket, select.POLLOUT)
        with suppress(OSError):
            while self.position < stop and room.poll(PATIENCE):
                sent = self._files.send(self._file, socket, stop - self.position, self.position)
                if not sent:
                    break
                self.position += sent
        return self.position - start

    def send_and_read(self, socket: int) -> tuple[int, bytes]:
        """Do both, as each call of a thread has its price."""
        sent = self.send(socket)
        return sent, self.read(PIECE)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def find_socket(consumer: IConsumer, length: int) -> int | None:
    """Return a descriptor of the consumer's socket, if so many bytes should go there; the caller closes it."""
    if _CAN_SEND and length >= LEAST and ISocketConsumer.providedBy(consumer):
        socket: int | None = consumer.socket()
        return socket
    return None


async def send_file(worker: Worker, reader: FileReader, consumer: Any, socket: int) -> None:
    """
    Write a file to ``consumer``, an `ISocketConsumer`, and most of it past it, to its ``socket``.

    A piece goes through the consumer, which tells when it is gone, and there is room again; then as much as there is
    room for goes straight, and so on.  So it is the consumer alone that waits, and finds out that the client is gone.

    :raise ConnectionFailed: the consumer has gone away.
    :raise WrongLength: the file is too short.
    """
    gate, start = Gate(), reader.position
    consumer.registerProducer(gate, True)
    try:
        data = await gate.during(worker.run(reader.read, PIECE))
        while data:
            consumer.write(data)
            emptied = gate.shut
            await gate.passed()
            if emptied:
                sent, data = await gate.during(worker.run(reader.send_and_read, socket))
                consumer.sent(sent)
            else:
                data = await gate.during(worker.run(reader.read, PIECE))
    finally:
        consumer.unregisterProducer()
    if reader.position < reader.stop:
        raise WrongLength(reader.stop - start, reader.position - start)

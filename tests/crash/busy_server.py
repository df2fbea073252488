"""
A server's backends that are written to, with threads, until the process is killed, for crash_server_power.py beside it.

Run as ``python -m tests.crash.busy_server FOLDER``.  Each line says what was acknowledged: ``stored NAME``, ``deleted
NAME``, ``offset UPLOAD:BYTES``, ``pushed NUMBER``.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred

from soledad.deferreds import gather
from soledad.model.ids import BlobId
from soledad.server.folder import DataFolder
from soledad.server.service import Parts, Workers, open_parts
from soledad.streams import Budget, BytesProducer
from tests.crash.serving import noise, pushed
from tests.server.support import USER

#: Blobs of a batch: so many that the file system is synced as a whole.
BATCH = 12
#: Bytes of blobs.
SIZES = (0, 1000, 40_000, 150_000)


def blob_size(name: str) -> int:
    """Return how many bytes the blob of a name has; names end in a number."""
    return SIZES[int(name.rpartition("-")[2]) % len(SIZES)]


def data_of(name: str) -> bytes:
    """Return what the blob of a name has."""
    return noise(name, blob_size(name))


def say(kind: str, name: object) -> None:
    """Tell the test, at once."""
    os.write(1, f"{kind} {name}\n".encode())


async def put(parts: Parts, number: int) -> None:
    """Store a blob; every third one is deleted."""
    name = f"one-{number}"
    await parts.backend.write_blob(USER, BlobId(name), BytesProducer(data_of(name)))
    say("stored", name)
    if number % 3 == 2:
        # Whether it is still there is not known from here on, until it is gone.
        say("deleting", name)
        await parts.backend.delete_blob(USER, BlobId(name))
        say("deleted", name)


async def put_many(parts: Parts, number: int) -> None:
    """Store a batch."""
    names = [f"batch-{number}-{at}" for at in range(BATCH)]
    bodies = [data_of(name) for name in names]
    wanted = [(BlobId(name), len(body)) for name, body in zip(names, bodies, strict=True)]
    await parts.backend.write_blobs(USER, wanted, BytesProducer(b"".join(bodies)))
    for name in names:
        say("stored", name)


async def upload(parts: Parts, number: int) -> None:
    """Store a blob in two parts."""
    name = f"upload-{4 * number + 3}"
    body = data_of(name)
    half = len(body) // 2
    begun = await parts.backend.create_upload(USER, BlobId(name), len(body))
    await parts.backend.append_upload(USER, begun.name, 0, BytesProducer(body[:half]))
    say("offset", f"{begun.name}:{half}")
    await parts.backend.append_upload(USER, begun.name, half, BytesProducer(body[half:]))
    say("stored", name)


async def push(parts: Parts, number: int) -> None:
    """Push records."""
    head = await parts.records.head(USER)
    await parts.records.push(USER, pushed(number + 1), head.tag)
    say("pushed", number + 1)


async def repeat(parts: Parts, step: Any) -> None:
    """Do one thing again and again."""
    for number in range(1_000_000):
        await step(parts, number)


async def main(reactor: Any) -> None:
    """Do it all at the same time."""
    parts = open_parts(DataFolder(sys.argv[1]), Workers.threads(reactor), Budget())
    say("open", os.getpid())
    await gather([Deferred.fromCoroutine(repeat(parts, step)) for step in (put, put_many, upload, push)])


if __name__ == "__main__":
    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor)))

"""
A process that kills itself at a chosen step of an operation on an attachment, of a sync of blobs, or of a whole sync.

For test_attachment_crashes.py, test_blob_crashes.py and test_sync_crashes.py beside it.  Run as
``python -m tests.integration.crashing DATA_DIR URL TOKEN``.  For each line ``OPERATION DOC_ID STEP`` on standard
input a child is forked, which opens the store, does the operation, says ``acknowledged`` when it has succeeded, closes
the store, and kills itself at that step, if there are so many.  When it is gone, ``killed`` or ``ended`` is said.

Nothing is imported anew for each child, and no reactor exists before the fork.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred

from soledad.client import resuming, sealing
from soledad.client.api import open_store
from soledad.client.local import database
from soledad.client.local.store import Workers
from soledad.client.remote.agent import make_agent
from soledad.client.remote.connect import Address, Server
from soledad.client.remote.http import ServerConnection
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import ThreadWorker
from soledad.model.ids import user_id

USER = user_id("alice")
KEY = bytes(range(32))


class Steps:
    """Counts steps, once it is told to, and dies at one of them."""

    def __init__(self, fatal: int) -> None:
        self._fatal = fatal
        self._count = 0
        self._lock = Lock()
        self.counting = False

    def step(self) -> None:
        """Take a step, in any thread."""
        with self._lock:
            self._count += self.counting
            if self._count == self._fatal:
                os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        """Take a step before and after each call of a function."""
        call = getattr(owner, name)

        def stepping(*args: Any, **options: Any) -> Any:
            self.step()
            result = call(*args, **options)
            self.step()
            return result

        setattr(owner, name, stepping)

    def around_requests(self) -> None:
        """Take a step before each request, and when the head of its answer is there."""
        request: Callable[..., Any] = ServerConnection.request

        async def stepping(*args: Any, **options: Any) -> Any:
            self.step()
            answer = await request(*args, **options)
            self.step()
            return answer

        ServerConnection.request = stepping  # type: ignore[method-assign]


async def operate(reactor: Any, folder: str, url: str, token: str, operation: str, doc_id: str, steps: Steps) -> None:
    """Do one operation."""
    server = Server.over(make_agent(reactor), reactor, USER, Address(url, token))
    workers = Workers.start(partial(ThreadWorker.start, reactor))
    soledad = await open_store(reactor, workers, USER, HandedInKey(KEY), Path(folder), server)
    where: Any = soledad.blobs
    if operation == "sync_all":
        where, operation = soledad, "sync"
    elif operation != "sync":
        (where,) = await soledad.get_docs([doc_id])
    steps.counting = True
    await getattr(where, operation)()
    say("acknowledged")
    await soledad.close()


def say(word: str) -> None:
    """Tell the test, at once."""
    os.write(1, word.encode() + b"\n")


def child(folder: str, url: str, token: str, operation: str, doc_id: str, point: str) -> None:
    """Be the child."""
    steps = Steps(int(point))
    for owner, name in (
        (os, "fsync"),
        (os, "unlink"),
        (database, "commit_group"),
        (sealing.ContainerReader, "read"),
        (sealing.Verifying, "take"),
        (resuming.Resuming, "take"),
    ):
        steps.around(owner, name)
    steps.around_requests()

    def main(reactor: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(operate(reactor, folder, url, token, operation, doc_id, steps))

    task.react(main)


def serve(folder: str, url: str, token: str) -> None:
    """Fork a child for each line."""
    say("ready")
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                child(folder, url, token, *line.split())
            except SystemExit as ended:
                sys.stderr.flush()
                os._exit(int(ended.code or 0))
            finally:
                os._exit(70)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            say("killed")
        else:
            say("ended" if os.WEXITSTATUS(status) == 0 else f"failed {os.WEXITSTATUS(status)}")


if __name__ == "__main__":
    serve(*sys.argv[1:])

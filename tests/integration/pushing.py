"""
Two processes that push records until they are killed, for test_push_crashes.py beside it.

Run as ``python -m tests.integration.pushing FOLDER``.  For each line on standard input two children are forked.  Each
says its process' id and then pushes, one push after the other on top of whatever the head is: ``stored`` or
``refused``.  When one is gone, ``gone`` is said.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from soledad.deferreds import unawaited
from soledad.errors import PreconditionFailed
from soledad.server.folder import DataFolder
from soledad.server.service import Workers, open_parts
from soledad.streams import Budget
from soledad.wire.changes import Push
from tests.contracts.records_backend import USER, record

#: Records of a push.
RECORDS = 40


def result(work: Deferred[Any]) -> Any:
    """Return what became of what was done in place."""
    results: list[Any] = []
    unawaited(work.addBoth(results.append))
    return results[0]


def child(folder: str) -> None:
    """Push until killed: every record of a push has the number of the push, which the checkpoint has too."""
    say(f"{os.getpid()}")
    records = open_parts(DataFolder(folder), Workers(), Budget()).records
    while True:
        head = result(records.head(USER))
        number = 1 + (0 if head.checkpoint is None else int(head.checkpoint))
        pushed = tuple(record(at, b"%d" % number) for at in range(RECORDS))
        outcome = result(records.push(USER, Push(pushed, b"%d" % number), head.tag))
        if isinstance(outcome, Failure):
            outcome.trap(PreconditionFailed)
        say("refused" if isinstance(outcome, Failure) else "stored")


def say(word: str) -> None:
    """Tell the test, at once."""
    os.write(1, word.encode() + b"\n")


def fork(folder: str) -> int:
    """Fork a child; return its process' id."""
    pid = os.fork()
    if pid == 0:
        try:
            child(folder)
        finally:
            os._exit(70)
    return pid


def serve(folder: str) -> None:
    """Fork children for each line."""
    say("ready")
    for _ in sys.stdin:
        pids = [fork(folder) for _ in range(2)]
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            say("gone" if os.WIFSIGNALED(status) else f"failed {status}")


if __name__ == "__main__":
    serve(*sys.argv[1:])

"""
Processes that kill themselves at a chosen step of local work, for test_local_crashes.py beside it.

Run as ``python -m tests.integration.local_crashing FOLDER SCENARIO``.  For each step of the scenario, from the first
on, a child is forked that works on a store of its own, ``FOLDER/N``, and kills itself at step N.  What the child had
acknowledged before that is printed, a line for each child; the last child gets to the end.

Steps are before and after each call of the system that changes files, and each transaction.  Threads would make them
come in another order each time, so the store works in place.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from soledad import Document, Soledad
from soledad.client.api import open_store
from soledad.client.local import database, durable, files, retention
from soledad.client.local.files import INLINE_LIMIT
from soledad.client.local.store import Workers
from soledad.crypto.slots import HandedInKey
from soledad.deferreds import InPlace, unawaited
from soledad.model.ids import user_id
from soledad.testing import TEST_KEY

SMALL, LARGE, OTHER = b"small", b"large " * INLINE_LIMIT, b"other " * INLINE_LIMIT

#: Calls of the system that change files.
CHANGING = {"open", "write", "fsync", "link", "rename", "unlink", "mkdir"}


class Steps:
    """Counts steps, and dies at one of them."""

    def __init__(self, fatal: int) -> None:
        """Die at step number ``fatal``."""
        self.left = fatal

    def step(self) -> None:
        """Take a step."""
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Take a step before and after each call of a function."""

        def stepping(*args: Any, **options: Any) -> Any:
            self.step()
            result = call(*args, **options)
            self.step()
            return result

        return stepping


class SteppingOS:
    """The module ``os``, with steps around what changes files."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        """Return what the module has."""
        real = getattr(os, name)
        return self._steps.around(real) if name in CHANGING else real


class SteppingConnection:
    """A connection, with steps around each transaction's beginning and end, and before each change."""

    def __init__(self, connection: Any, steps: Steps) -> None:
        self._connection = connection
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        """Return what the connection has."""
        return getattr(self._connection, name)

    def execute(self, statement: str, *args: Any) -> Any:
        """Execute a statement."""
        execute = self._connection.execute
        if statement.startswith(("BEGIN IMMEDIATE", "COMMIT", "INSERT")):
            execute = self._steps.around(execute)
        return execute(statement, *args)

    def executescript(self, statements: str) -> Any:
        """Execute statements."""
        return self._steps.around(self._connection.executescript)(statements)


def take_steps(steps: Steps) -> None:
    """Let this process take steps from now on."""
    for module in (durable, files):
        module.os = SteppingOS(steps)  # type: ignore[attr-defined]
    connect = database.connect
    database.connect = lambda *args: SteppingConnection(connect(*args), steps)


def now(work: Deferred[Any]) -> Any:
    """Return a result that is there already."""
    results: list[Any] = []
    unawaited(work.addBoth(results.append))
    (result,) = results
    if hasattr(result, "raiseException"):
        result.raiseException()
    return result


def opened(folder: Path) -> Soledad:
    """Open a store that works in place."""
    workers = Workers.start(lambda threads, name: InPlace())
    store: Soledad = now(
        Deferred.fromCoroutine(open_store(Clock(), workers, user_id("user"), HandedInKey(TEST_KEY), folder, None))
    )
    return store


Say = Callable[[str], None]


def create(folder: Path, say: Say) -> None:
    """Make a store; the state before is none."""
    now(opened(folder).close())
    say("made")


def save(folder: Path, say: Say) -> None:
    """Save a document twice, and delete it."""
    store = opened(folder)
    doc = now(store.create_doc({"n": 1}, "doc"))
    say("first")
    doc.content = {"n": 2}
    now(store.put_doc(doc))
    say("second")
    now(store.delete_doc(doc))
    say("deleted")
    now(store.close())


def save_all(folder: Path, say: Say) -> None:
    """Save several documents at once."""
    store = opened(folder)
    now(store.put_docs([Document("doc"), Document("other")]))
    say("both")
    now(store.close())


def attach(data: bytes) -> Callable[[Path, Say], None]:
    """Attach something to a new document, and save it; then something else in its place; then nothing."""

    def scenario(folder: Path, say: Say) -> None:
        store = opened(folder)
        doc = now(store.create_doc({"n": 1}, "doc"))
        say("created")
        now(doc.put_attachment(io.BytesIO(data)))
        say("attached")
        now(store.put_doc(doc))
        say("saved")
        now(doc.put_attachment(OTHER))
        now(store.put_doc(doc))
        say("replaced")
        now(store.delete_doc(doc))
        say("deleted")
        now(store.close())

    return scenario


def collect(folder: Path, say: Say) -> None:
    """Let the collector remove what a deleted document pointed at, and what was never saved."""
    vars(retention)["GRACE"] = 1.0  # it is over when it is looked at first
    store = opened(folder)
    doc = Document("doc", json='{"n":1}')
    doc.home = store._documents._home
    now(doc.put_attachment(io.BytesIO(LARGE)))
    now(store.put_doc(doc))
    say("saved")
    now(doc.put_attachment(SMALL))
    now(store.delete_doc(doc))
    say("deleted")
    now(Deferred.fromCoroutine(store._collector.run()))
    say("collected")
    now(store.close())


SCENARIOS: dict[str, Callable[[Path, Say], None]] = {
    "create": create,
    "save": save,
    "save-all": save_all,
    "attach-small": attach(SMALL),
    "attach-large": attach(LARGE),
    "collect": collect,
}


def run_child(scenario: str, folder: Path, step: int) -> tuple[list[str], bool]:
    """Fork a child that dies at a step; return what it acknowledged, and whether it died."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            take_steps(Steps(step))
            SCENARIOS[scenario](folder, lambda text: print_to(writing, text))
        except BaseException as error:
            print_to(writing, f"failed:{error!r}".replace(" ", "_"))
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as pipe:
        said = pipe.read().split()
    _, status = os.waitpid(child, 0)
    return said, os.WIFSIGNALED(status)


def print_to(descriptor: int, text: str) -> None:
    """Say something, at once."""
    os.write(descriptor, f"{text} ".encode())


def main(folder: Path, scenario: str) -> None:
    """Run children until one gets to the end."""
    template = folder / "template"
    if scenario != "create":
        now(opened(template).close())
    for step in range(1, 10_000):
        own = folder / str(step)
        if template.exists():
            shutil.copytree(template, own)
        said, died = run_child(scenario, own, step)
        sys.stdout.write(f"{step} {' '.join(said)}\n")
        sys.stdout.flush()
        if not died:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""Tests of `Soledad` as a whole, on stores that work in place."""

from __future__ import annotations

import inspect
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import fields, has
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

import soledad
from soledad import Document, Soledad, SoledadError, TamperPolicy
from soledad.client.local.files import INLINE_LIMIT
from soledad.errors import InvalidPassphrase, NoServer, StoreClosed, StoreInUse, UsageError
from soledad.streams import Budget, MemoryConsumer, WorkerConsumer
from soledad.testing import TEST_KEY, make_store
from tests.client.stores import PiecesProducer, SoledadTestCase
from tests.workers import HeldWorker

ROOT = Path(__file__).resolve().parents[2]
SECRET = "sesame-sesame"

#: Arguments for each public method that returns a Deferred.
OF_THE_STORE: dict[str, Callable[[Document], tuple[Any, ...]]] = {
    "accept_server_restore": lambda doc: (),
    "adopt_keyring": lambda doc: ("new",),
    "change_passphrase": lambda doc: ("new",),
    "checkpoint_code": lambda doc: (),
    "create_doc": lambda doc: ({},),
    "create_doc_from_json": lambda doc: ("{}",),
    "create_index": lambda doc: ("index", "name"),
    "create_recovery_code": lambda doc: (),
    "create_text_index": lambda doc: ("text", "name"),
    "delete_doc": lambda doc: (doc,),
    "delete_index": lambda doc: ("index",),
    "delete_text_index": lambda doc: ("text",),
    "devices": lambda doc: (),
    "get_all_docs": lambda doc: (),
    "get_count_from_index": lambda doc: ("index", "value"),
    "get_doc": lambda doc: ("a",),
    "get_doc_conflicts": lambda doc: ("a",),
    "get_docs": lambda doc: (["a"],),
    "get_from_index": lambda doc: ("index", "value"),
    "get_index_keys": lambda doc: ("index",),
    "get_range_from_index": lambda doc: ("index", "a", "b"),
    "incidents": lambda doc: (),
    "list_indexes": lambda doc: (),
    "list_text_indexes": lambda doc: (),
    "put_doc": lambda doc: (doc,),
    "put_docs": lambda doc: ([doc],),
    "resolve_doc": lambda doc: (doc, [doc.rev]),
    "rotate_root": lambda doc: (),
    "search": lambda doc: ("text", "word"),
    "set_storage_budget": lambda doc: (1000,),
    "set_tamper_policy": lambda doc: (TamperPolicy.WARN,),
    "stop_sync": lambda doc: (),
    "sync": lambda doc: (),
    "sync_problems": lambda doc: (),
    "tamper_policy": lambda doc: (),
    "whats_changed": lambda doc: (),
}
OF_DOCUMENTS: dict[str, Callable[[Document], tuple[Any, ...]]] = {
    "delete_attachment": lambda doc: (),
    "download_attachment": lambda doc: (),
    "evict_attachment": lambda doc: (),
    "get_attachment": lambda doc: (),
    "get_attachment_state": lambda doc: (),
    "is_stale": lambda doc: (),
    "link_attachment": lambda doc: (doc,),
    "pin_attachment": lambda doc: (),
    "put_attachment": lambda doc: (b"data",),
    "read_attachment": lambda doc: (),
    "unpin_attachment": lambda doc: (),
    "upload_attachment": lambda doc: (),
    "write_attachment_to": lambda doc: (MemoryConsumer(),),
}


def asynchronous(cls: type) -> set[str]:
    """Return the names of the public methods that return Deferreds."""
    methods = inspect.getmembers(cls, inspect.isfunction)
    return {
        name
        for name, method in methods
        if not name.startswith("_") and "Deferred" in str(inspect.signature(method).return_annotation)
    } | {name for name, method in methods if hasattr(method, "__wrapped__") and not name.startswith("_")}


class ClosedTests(SoledadTestCase):
    """What is left of a store that was closed."""

    def test_all_methods_are_tried(self) -> None:
        """The lists above have every method that there is."""
        self.assertEqual(asynchronous(Soledad) - {"close"}, set(OF_THE_STORE))
        self.assertEqual(asynchronous(Document) - {"is_dirty"}, set(OF_DOCUMENTS))

    def test_closed(self) -> None:
        """Every method of the store, and of its documents, fails with `StoreClosed`; the objects stay readable."""
        doc = self.create({"a": 1}, "a")
        self.now(doc.put_attachment(b"data"))
        self.assertFalse(self.store.closed)
        self.now(self.store.close())
        self.assertTrue(self.store.closed)
        for name, arguments in OF_THE_STORE.items():
            self.fails(getattr(self.store, name)(*arguments(doc)), StoreClosed)
        for name, arguments in OF_DOCUMENTS.items():
            self.fails(getattr(doc, name)(*arguments(doc)), StoreClosed)
        with self.assertRaises(StoreClosed):
            self.store.set_token("token")
        self.assertEqual((doc.content, self.now(doc.is_dirty())), ({"a": 1}, True))

    def test_again(self) -> None:
        """Closing again is no error, and a closed store can be opened again."""
        self.now(self.store.close())
        self.now(self.store.close())
        make_store(self, data_dir=self.folder)

    def test_unlocked(self) -> None:
        """The lock is held until it is closed."""
        with self.assertRaises(SynchronousTestCase.failureException) as caught:
            make_store(self, data_dir=self.folder)
        self.assertIn(StoreInUse.__name__, str(caught.exception))
        self.now(self.store.close())
        make_store(self, data_dir=self.folder)

    def test_no_server(self) -> None:
        """A store without a server has no token."""
        with self.assertRaises(NoServer):
            self.store.set_token("token")


class PassphraseTests(SoledadTestCase):
    """Changing what the store opens with."""

    def test_one_after_the_other(self) -> None:
        """Two changes at once are carried out in their order, as each replaces the file that the other has written."""
        worker = HeldWorker()
        self.patch(self.store._keys, "_worker", worker)
        first, second = self.store.change_passphrase("first"), self.store.change_passphrase("second")
        self.assertEqual(worker.waiting, 1)
        first.cancel()
        self.fails(first, CancelledError)
        self.assertEqual(worker.waiting, 1)
        second.cancel()
        self.fails(second, CancelledError)

    def test_bad(self) -> None:
        """What is no passphrase is refused."""
        bad: list[Any] = ["", None, b"bytes", 1]
        for new in bad:
            self.fails(self.store.change_passphrase(new), InvalidPassphrase)


class SecretsTests(SoledadTestCase):
    """What may be logged: every object of a store, and every error."""

    def assertHarmless(self, *shown: object) -> None:
        """Neither content nor keys are in what is shown of these."""
        keys = [TEST_KEY, *(value for value in self.keys() if value)]
        for one in shown:
            text = f"{one!s} {one!r}"
            self.assertNotIn(SECRET, text)
            for key in keys:
                for form in (key.hex(), repr(key), repr(key)[2:-1]):
                    self.assertNotIn(form, text, type(one).__name__)

    def keys(self) -> Iterator[bytes]:
        """Give all keys of the store."""
        keyring = self.store._local.keyring
        yield keyring.device_key
        yield keyring.key.secret
        for material in keyring.keyring.roots.values():
            yield material.secret
            yield material.account_id
        yield keyring.keyring.names_key
        yield keyring.keyring.digest_key

    def reachable(self, *roots: object) -> list[object]:
        """Return all objects of this library that can be reached from these."""
        found: dict[int, object] = {}
        todo = list(roots)
        while todo:
            one = todo.pop()
            if id(one) in found:
                continue
            if isinstance(one, dict):
                todo += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple | set | frozenset):
                todo += one
            elif type(one).__module__.startswith("soledad."):
                found[id(one)] = one
                cls: Any = type(one)
                names = [a.name for a in fields(cls)] if has(cls) else list(vars(one))
                todo += [getattr(one, name) for name in names if hasattr(one, name)]
        return list(found.values())

    def test_objects(self) -> None:
        """Objects show ids and sizes, never content or keys, in the middle of work too."""
        doc = self.create({"a": SECRET, SECRET: 1})
        for size in (10, INLINE_LIMIT):
            self.now(doc.put_attachment(SECRET.encode() * size))
        self.now(self.store.put_doc(doc))
        file = self.now(doc.get_attachment())
        assert file is not None
        file.read(100)
        putting = doc.put_attachment(PiecesProducer([SECRET.encode() * 10], ends=False))
        objects = self.reachable(self.store, doc, doc.snapshot(), file, self.store.operations, doc.home)
        streams: list[Any] = [MemoryConsumer(), WorkerConsumer(HeldWorker(), len, Budget())]
        for consumer in streams:
            consumer.write(SECRET.encode())
            consumer.write(SECRET.encode())
        self.assertGreater(len(objects), 15)
        self.assertHarmless(*streams)
        self.assertHarmless(*objects)
        putting.cancel()
        self.failureResultOf(putting)
        file.close()

    def test_errors(self) -> None:
        """Errors that documents and attachments raise quote nothing of them, their tracebacks included."""
        self.store.doc_size_limit = 50
        wrong: list[Any] = [
            {"a": SECRET, "b": {1: 2}},
            {"a": SECRET, "b": float("nan")},
            {SECRET: {SECRET: {1, 2}}},
            {"a": f"{SECRET}\ud800"},
            {"a": SECRET * 10},
        ]
        failures = [self.failureResultOf(self.store.create_doc(content)) for content in wrong]
        texts = (f'{{"{SECRET}": }}', f'"{SECRET}"', f'{{"a": "{SECRET}\n"}}', f'{{"{SECRET}": NaN}}')
        failures += [self.failureResultOf(self.store.create_doc_from_json(text)) for text in texts]
        failures += [self.failureResultOf(self.create().put_attachment(SECRET))]  # type: ignore[arg-type]
        for failure in failures:
            self.assertHarmless(failure.value, failure.getErrorMessage(), failure.getBriefTraceback())
            self.assertHarmless("".join(traceback.format_exception(failure.value)))

    def test_every_error_can_be_shown(self) -> None:
        """Each class of error says what happened, with its fields, and nothing else."""
        for cls in subclasses(SoledadError):
            if has(cls):
                values = {a.name: f"<{a.name}>" for a in fields(cls)}
                text = str(cls(**values))
                self.assertTrue(all(value in text for value in values.values()), cls)
            else:
                text = str(cls())
            self.assertTrue(text)
            self.assertTrue(cls.__doc__, cls)


class PackageTests(SynchronousTestCase):
    """The package, as it is imported."""

    def test_no_reactor(self) -> None:
        """Importing it installs no reactor: the application chooses which."""
        code = "import soledad, sys; sys.exit('twisted.internet.reactor' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)

    def test_names(self) -> None:
        """The public names are there, and the two of the enumeration are one class."""
        for name in soledad.__all__:
            self.assertTrue(hasattr(soledad, name), name)
        self.assertIs(soledad.AttachmentState, soledad.AttachmentStates)
        self.assertTrue(issubclass(UsageError, soledad.SoledadError))

    def test_states(self) -> None:
        """States combine as flags do."""
        states = soledad.AttachmentStates
        self.assertEqual(
            [int(state) for state in (states.NONE, states.LOCAL, states.REMOTE, states.SYNCED)], [0, 1, 2, 3]
        )
        self.assertEqual(states.SYNCED, states.LOCAL | states.REMOTE)
        self.assertEqual(states.AWAITED, 4)
        self.assertFalse(states.NONE)
        self.assertFalse(states.AWAITED & states.SYNCED)


class OpenTests(SynchronousTestCase):
    """What is refused before anything is opened."""

    def test_bad_arguments(self) -> None:
        """A bad id, passphrase or address fails the Deferred, and makes no folder."""
        folder = Path(self.mktemp())
        bad: list[tuple[tuple[Any, Any], dict[str, Any]]] = [
            (("", "passphrase"), {}),
            (("../x", "passphrase"), {}),
            (("x" * 65, "passphrase"), {}),
            ((None, "passphrase"), {}),
            (("user", ""), {}),
            (("user", None), {}),
            (("user", b"bytes"), {}),
            (("user", "passphrase"), {"server_url": "ftp://example.org", "auth_token": "token"}),
            (("user", "passphrase"), {"server_url": "https://example.org"}),
            (("user", "passphrase"), {"auth_token": "token"}),
            (("user", "passphrase"), {"cert_file": "file"}),
        ]
        for arguments, options in bad:
            opening: Deferred[Soledad] = Soledad.open(*arguments, data_dir=folder, reactor=object(), **options)
            self.failureResultOf(opening, UsageError)
        self.assertFalse(folder.exists())


def subclasses(cls: type) -> set[type]:
    """Return a class and all below it."""
    below: list[type] = cls.__subclasses__()
    return {cls}.union(*map(subclasses, below))

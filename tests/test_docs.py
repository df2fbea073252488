"""What the documentation shows is run, and what it lists is all there is."""

from __future__ import annotations

import importlib
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from twisted.application.service import IService, IServiceCollection, loadApplication
from twisted.internet import reactor as global_reactor
from twisted.internet import task
from twisted.internet.defer import Deferred, DeferredQueue, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase

import soledad
from soledad import errors, testing
from soledad.model.conflict import Versions
from soledad.model.document import Stored
from soledad.model.ids import doc_id
from soledad.server.cli import main as soledad_server
from soledad.server.folder import DataFolder
from soledad.server.service import ServerService
from soledad.testing import MemoryServer, make_store
from tests.client.sync.evil import Evil
from tests.limits import seconds

reactor = cast("Any", global_reactor)

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS, EXAMPLES = CHECKOUT / "docs", CHECKOUT / "examples"
#: A block of reStructuredText: its language, and its lines, which are indented.
_BLOCK = re.compile(r"^\.\. code-block:: (\w+)\n\n((?:(?:    .*)?\n)+)", re.MULTILINE)
#: What pages say where a reader's server is.
URL = "http://127.0.0.1:8180"

#: Public names of the classes that applications are not told of: the store's own parts use them.
INTERNAL = {
    *("operations", "home", "saving", "attaching", "snapshot", "settle", "attach", "load"),
    # The store tells its blobs when to begin, when to end, what to tell, and that documents were synchronised.
    *("follow_documents", "go_on", "has_work", "listen", "stop", "sync_blobs"),
}


def blocks(text: str, language: str) -> Iterator[str]:
    """Give the blocks of one language, without their indentation."""
    return (textwrap.dedent(block).strip("\n") + "\n" for found, block in _BLOCK.findall(text) if found == language)


def script_of(text: str) -> str:
    """Return the script that a reader of a page ends up with: the first block, the others in the place of its dots."""
    frame, *pieces = blocks(text, "python")
    return frame.replace("    ...\n", textwrap.indent("\n".join(pieces), "    "))


class ReadingTests(SynchronousTestCase):
    """That pages are read as they are meant."""

    def test_blocks(self) -> None:
        """A block ends with its indentation; empty lines are of it."""
        page = "a\n\n.. code-block:: python\n\n    one\n\n      two\n\nb\n\n.. code-block:: text\n\n    three\n"
        self.assertEqual(list(blocks(page, "python")), ["one\n\n  two\n"])
        self.assertEqual(list(blocks(page, "text")), ["three\n"])


class Running(TestCase):
    """Runs things in a folder of their own, and keeps what they print."""

    timeout = seconds(60)

    def setUp(self) -> None:
        """Go there."""
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        self.addCleanup(os.chdir, Path.cwd())
        os.chdir(folder)
        self.printed = io.StringIO()
        self.patch(sys, "stdout", self.printed)
        self.patch(sys, "path", [str(EXAMPLES), *sys.path])
        self.patch(os, "environ", {**os.environ, "SOLEDAD_PASSPHRASE": "a passphrase"})

    def provide(self, name: str, size: int) -> None:
        """Have a file with ``size`` bytes in it."""
        Path(name).write_bytes(os.urandom(size))

    def serve(self) -> str:
        """Start a server, as the pages say, with the user whose token is in the environment; return its URL."""
        out = io.StringIO()
        self.assertEqual(soledad_server(["--data-dir", "server-data", "user", "add", "alice"], out), 0)
        os.environ["SOLEDAD_TOKEN"] = out.getvalue().strip()
        endpoint = serverFromString(reactor, "tcp:0:interface=127.0.0.1")
        server = ServerService(reactor, DataFolder(os.path.abspath("server-data")), [endpoint])
        server.startService()
        self.addCleanup(server.stopService)
        address: Any = server.ports[0].getHost()
        return f"http://127.0.0.1:{address.port}"

    def run_script(self, script: str, name: str) -> Deferred[Any]:
        """Run what a script gives to `react`."""
        mains: list[Any] = []
        self.patch(task, "react", mains.append)
        exec(compile(script, name, "exec"), {"__name__": "__main__"})
        (main,) = mains
        return maybeDeferred(main, reactor)

    def load(self, name: str) -> Any:
        """Import one of the examples."""
        return importlib.import_module(name)


class PageTests(Running):
    """The scripts on pages."""

    async def test_tutorial(self) -> None:
        """The tutorial runs, piece after piece, and prints what it says."""
        page = (DOCS / "tutorial.rst").read_text("utf-8")
        await self.run_script(script_of(page).replace(URL, self.serve()), "tutorial.rst")
        self.assertEqual(self.printed.getvalue(), "".join(blocks(page, "text")))

    async def test_readme(self) -> None:
        """What the README shows of Python runs."""
        self.provide("hackers.txt", 17)
        await self.run_script(script_of((CHECKOUT / "README.rst").read_text("utf-8")), "README.rst")

    async def test_queries(self) -> None:
        """What the page on queries shows runs, and finds what it says."""
        page = (DOCS / "queries.rst").read_text("utf-8")
        store = make_store(self)
        scope: dict[str, Any] = {"soledad": store, "typed": "ada"}
        for block in blocks(page, "python"):
            exec("async def run():\n" + textwrap.indent(block, "    "), scope)
            await scope["run"]()
            # What a block imports is there for those behind it.
            exec("\n".join(line for line in block.splitlines() if line.startswith("from ")), scope)
        self.assertEqual(len(await store.get_from_index("contacts", "ada", "London")), 1)
        self.assertEqual(await store.get_index_keys("by-tag"), [("mathematics",), ("poetry",)])
        self.assertEqual(await store.get_index_keys("by-age"), [("036",)])
        for query in ("cafe creme", '"creme was" go*', "receipt"):
            self.assertEqual(len(await store.search("notes", query)), 1)

    async def test_blobs(self) -> None:
        """What the page on blobs shows runs, and what it asserts holds."""
        page = (DOCS / "blobs.rst").read_text("utf-8")
        memory = MemoryServer(reactor)
        store = make_store(self, memory)
        scope: dict[str, Any] = {"soledad": store, "print": print, **vars(soledad)}
        for block in blocks(page, "python"):
            exec("async def run():\n" + textwrap.indent(block, "    "), {**scope, "soledad": store}, scope)
            await scope["run"]()
        self.assertEqual(await store.blobs.sync_progress(), {soledad.SyncStatus.SYNCED: 2})

    async def test_conflicts(self) -> None:
        """What the page on conflicts shows settles one, keeps a photo, and observes."""
        look, settle, link, observe = blocks((DOCS / "conflicts.rst").read_text("utf-8"), "python")
        store = make_store(self)
        scope: dict[str, Any] = {"soledad": store, "merge": lambda one, other: {**one, **other}}
        exec(settle, scope)
        subscribing, cancelling = observe.split("...\n")
        exec(subscribing, scope)
        ours: Any = await store.create_doc({"milk": 1}, "shopping")
        for block, rev in ((look, "b:1"), (link, "c:1")):
            ours = await store.get_doc("shopping")
            await ours.put_attachment(b"a photo", "photo")
            await store.put_doc(ours)
            await store._documents.apply_all([Versions(Stored(doc_id("shopping"), rev, '{"bread": 2}'))])
            exec("async def attempt():\n" + textwrap.indent(block, "    "), scope)
            await scope["attempt"]()
            self.assertEqual(await store.get_doc_conflicts("shopping"), [])
        exec(cancelling, scope)
        doc: Any = await store.get_doc("shopping")
        self.assertEqual(list(doc.attachments), ["our photo"])
        self.assertEqual(self.printed.getvalue().split()[-1], doc.rev)

    def move(self, home: str) -> None:
        """Be on another device: where stores are by default."""
        os.environ["XDG_DATA_HOME"] = os.path.abspath(home)

    async def run_piece(self, piece: str, scope: dict[str, Any]) -> None:
        """Run a piece of a page; what it assigns is there for those behind it."""
        exec("async def run():\n" + textwrap.indent(piece, "    ") + "    return locals()\n", scope)
        made = await scope["run"]()
        for store in made.values():
            if isinstance(store, soledad.Soledad):
                self.addCleanup(store.close)
        scope.update(made)

    async def test_syncing(self) -> None:
        """What the page on syncing shows works where all is well, with a server that cheats, and with a copy."""
        sync, problems, policy, restored, code, copied = blocks((DOCS / "syncing.rst").read_text("utf-8"), "python")
        server, told = MemoryServer(reactor), cast("list[str]", [])
        evil = Evil(server)
        one, two = (make_store(self, server, uuid="user-1", data_dir=Path(name)) for name in ("one", "two"))
        doc = await two.create_doc({}, "doc")
        await two.sync()
        old = evil.snapshot()
        await two.put_doc(doc)
        await two.sync()
        shutil.copytree("two", "copy")
        scope = {**vars(soledad), **vars(errors), "soledad": one, "print": print, "tell_the_person": told.append}
        await self.run_piece(sync, scope)
        self.assertEqual([change[0] for change in scope["changes"]], ["doc"])
        evil.put_back(old)
        await self.run_piece(policy, scope)
        self.assertIn("STATE_BACK found by", self.printed.getvalue())
        self.assertEqual(len(told), 1)
        await self.run_piece(problems, scope)
        self.assertIn("doc OLDER\n", self.printed.getvalue())
        await self.run_piece(restored, scope)
        await one.create_doc({})
        for store in (one, two):
            await store.sync()
        for piece in (code, code):
            await self.run_piece(piece, scope)
            scope["soledad"] = two
        self.assertEqual(len(re.findall(r"^\w{4}(?:-\w{4}){3}$", self.printed.getvalue(), re.MULTILINE)), 2)
        self.assertEqual(self.printed.getvalue().count("(this one)"), 2)
        self.assertIn("copy = await", copied)
        copy = make_store(self, server, uuid="user-1", data_dir=Path("copy"))
        for number, store in enumerate((two, copy)):
            changed: Any = await store.get_doc("doc")
            changed.content = {"n": number}
            await store.put_doc(changed)
            await store.sync()
        self.assertEqual(len(await copy.devices()), 3)
        self.assertEqual(len(await copy.get_doc_conflicts("doc")), 2)

    async def test_devices(self) -> None:
        """What the page on more than one device shows gives a person a second one, a third, and new secrets."""
        page = (DOCS / "devices.rst").read_text("utf-8").replace("https://soledad.example.org", self.serve())
        pieces = blocks(page.replace('"user-1"', '"alice"'), "python")
        opening, adopting, following, changing, coding, recovering, rotating = pieces
        names = {"passphrase": "first", "passphrase_of_the_others": "first", "new": "second", "new_passphrase": "third"}
        scope: dict[str, Any] = {**vars(soledad), **vars(errors), **names, "token": os.environ["SOLEDAD_TOKEN"]}
        stores = []
        for home in ("laptop", "phone"):
            self.move(home)
            await self.run_piece(opening, scope)
            stores.append(scope["soledad"])
            if home == "laptop":
                await scope["soledad"].create_doc({}, "doc")
                await scope["soledad"].sync()
        place = {"server_url": stores[0]._server.url, "auth_token": scope["token"]}
        apart = await soledad.Soledad.open("alice", "mine", data_dir="tablet")
        await apart.close()
        apart = scope["soledad"] = await soledad.Soledad.open("alice", "mine", data_dir="tablet", **place)
        self.addCleanup(apart.close)
        await self.assertFailure(apart.sync(), errors.KeyringChanged)
        for piece in (adopting, following, changing, coding):
            await self.run_piece(piece, scope)
        self.assertIsNone(apart.keyring_problem)
        self.assertFalse(scope["following"].listening)
        self.move("new")
        await self.run_piece(recovering, scope)
        await self.run_piece(rotating, scope)
        for store in (*stores, apart, scope["soledad"]):
            await store.sync()
            self.assertIsNotNone(await store.get_doc("doc"))
            await store.close()
        last = await soledad.Soledad.open("alice", "third", data_dir="tablet", **place)
        await last.close()

    async def test_errors(self) -> None:
        """The pattern for errors does for each what it says."""
        (pattern,) = blocks((DOCS / "errors.rst").read_text("utf-8"), "python")
        server, done = MemoryServer(), cast("list[str]", [])
        store = make_store(self, server)
        doc = await store.create_doc({})
        await doc.put_attachment(b"some bytes")
        scope: dict[str, Any] = {}
        names = {
            "again_later": lambda doc: done.append("again"),
            "ask_for_a_new_token": lambda: done.append("token"),
            "tell_the_person": lambda text: done.append(text),
        }
        exec("async def attempt(doc):\n" + textwrap.indent(pattern, "    "), vars(errors) | names, scope)
        for error in (errors.ServerFailed(), errors.Unauthorized(), errors.QuotaExceeded()):
            server.refuse(error)
            await scope["attempt"](doc)
        self.assertEqual(done[:2], ["again", "token"])
        self.assertIn("quota", done[2])


class ExampleTests(Running):
    """The files of ``examples/`` that the pages include."""

    def setUp(self) -> None:
        """Have a file to keep."""
        super().setUp()
        self.provide("picture.png", 300_000)

    async def test_attachment_example(self) -> None:
        """The first example, as a script against a server, runs and ends."""
        url = self.serve()
        await self.load("attachment_example").main(reactor, url, "alice")
        self.assertIn("reads as it was", self.printed.getvalue())

    async def test_attachment_example_fails(self) -> None:
        """Where it cannot do its work, it says so in a line."""
        url = self.serve()
        os.environ["SOLEDAD_TOKEN"] = "wrong"
        with self.assertRaises(SystemExit) as ended:
            await self.load("attachment_example").main(reactor, url, "alice")
        self.assertEqual(ended.exception.code, f"Unauthorized: {errors.Unauthorized()}")

    async def test_inline_callbacks(self) -> None:
        """The script in the style of `inlineCallbacks` keeps a file."""
        await self.load("inline_callbacks").main(reactor, "picture.png")
        self.assertEqual(self.printed.getvalue(), "picture.png 300000 bytes\n")

    async def test_inline_callbacks_with_a_server(self) -> None:
        """With a server the script syncs: what it kept is there on the next device."""
        url = self.serve()
        await self.load("inline_callbacks").main(reactor, "picture.png", url)
        os.rename("alice-store", "another-device")
        self.provide("another.png", 10)
        await self.load("inline_callbacks").main(reactor, "another.png", url)
        self.assertIn("another.png 10 bytes\n", self.printed.getvalue())
        self.assertEqual(self.printed.getvalue().count("picture.png 300000 bytes\n"), 2)

    async def test_coroutine(self) -> None:
        """The script that is a coroutine uploads it."""
        await self.load("coroutine").main(reactor, self.serve(), "picture.png")
        self.assertTrue(self.printed.getvalue().endswith("picture.png is SYNCED\n"), self.printed.getvalue())

    async def test_two_devices(self) -> None:
        """The script with two devices ends with both the same."""
        await self.load("two_devices").main(reactor, self.serve())
        self.assertEqual(self.printed.getvalue(), "False bread milk tea\n" * 2)

    async def test_asyncio(self) -> None:
        """The program of asyncio, which wants a reactor of its own, keeps files at the same time."""
        self.provide("another.png", 10)
        url = self.serve()
        path = os.pathsep.join(filter(None, sys.path[1:]))
        environment = {**os.environ, "PYTHONPATH": path, "SERVER_URL": url}
        arguments = [str(EXAMPLES / "asyncio_script.py"), "picture.png", "another.png"]
        out, err, status = await getProcessOutputAndValue(sys.executable, arguments, environment)
        self.assertEqual((out, err, status), (b"2 files, 300010 bytes\n", b"", 0))

    async def test_service(self) -> None:
        """The service has the store open between its start and its stop."""
        application = loadApplication(str(EXAMPLES / "notes.tac"), "python")
        (service,) = IServiceCollection(application)
        IService(application).startService()
        await service.opening
        doc = await service.notes.add("a note", b"a picture")
        self.assertFalse(await doc.is_dirty())
        await maybeDeferred(IService(application).stopService)
        self.assertTrue(service._soledad.closed)

    async def test_service_follows(self) -> None:
        """With a server, what one device adds comes to the other by itself."""
        url, token = self.serve(), os.environ["SOLEDAD_TOKEN"]
        services = []
        for folder in ("laptop", "phone"):
            service = self.load("notes").NotesService("alice", "a passphrase", Path(folder), url, token)
            service.startService()
            self.addCleanup(service.stopService)
            await service.opening
            services.append(service)
        laptop, phone = services
        arrived = DeferredQueue[str]()
        phone._soledad.subscribe(lambda doc_id, *ignored: arrived.put(doc_id))
        doc = await laptop.notes.add("a note", b"a picture")
        self.assertEqual(await arrived.get(), doc.doc_id)

    async def test_service_stops_early(self) -> None:
        """An application that stops while its store is being opened leaves nothing."""
        service = self.load("notes").NotesService("alice", "a passphrase", Path("alice-store"))
        service.startService()
        await service.stopService()
        self.assertIsNone(service.notes)

    def test_trial_suite(self) -> None:
        """The trial suite of the application passes."""
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(self.load("test_notes").NotesTests).run(result)
        self.assertEqual(result.errors + result.failures, [])
        self.assertEqual(result.testsRun, 6)

    def test_testing(self) -> None:
        """The suite that the module's docstring shows passes, and is one."""
        (suite,) = re.findall(r"::\n\n((?:    .*\n)+)", testing.__doc__ or "")
        exec(textwrap.dedent(suite), scope := {**vars(errors), **vars(testing)})
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(cast("Any", scope["MyTests"])).run(result)
        self.assertEqual((result.errors + result.failures, result.testsRun), ([], 1))

    def test_all(self) -> None:
        """Each file that the pages include is run by a test of this class, by its name."""
        included = {name for page in DOCS.rglob("*.rst") for name in _included(page)}
        tried = inspect.getsource(ExampleTests)
        self.assertTrue(included)
        self.assertEqual([name for name in included if Path(name).stem not in tried], [])


def _included(page: Path) -> list[str]:
    return re.findall(r"literalinclude:: .*examples/(\S+)", page.read_text("utf-8"))


class CompletenessTests(SynchronousTestCase):
    """Lists on pages that are to be complete."""

    def test_errors(self) -> None:
        """The page of errors names each class, and no other."""
        page = (DOCS / "errors.rst").read_text("utf-8")
        self.assertEqual({*_rows(page), "SoledadError"}, {name for name, _ in _classes(errors)})

    def test_branches(self) -> None:
        """Each error stands in the table of its branch."""
        page = (DOCS / "errors.rst").read_text("utf-8")
        for table in page.split(".. list-table::")[2:]:
            branch, *names = _rows(table)
            for name in names:
                self.assertEqual(getattr(errors, name).__mro__[1].__name__, branch, name)

    def test_public_names(self) -> None:
        """What soledad offers is in the reference; errors are there as a whole module."""
        pages = "".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.rst"))
        expected = [*(name for name in soledad.__all__ if not hasattr(errors, name)), errors.__name__]
        self.assertEqual([name for name in expected if not re.search(rf"\b{name}\b", pages)], [])

    def test_methods(self) -> None:
        """What a store, its blobs and a document offer is in the reference."""
        for cls, page in (
            (soledad.Soledad, "soledad.rst"),
            (soledad.Document, "document.rst"),
            (soledad.BlobStore, "blobs.rst"),
        ):
            text = (DOCS / "api" / page).read_text("utf-8")
            public = {name for name in [*vars(cls), *cls.__annotations__] if not name.startswith("_")} - INTERNAL
            self.assertEqual([name for name in sorted(public) if not re.search(rf"[ ,]{name}\b", text)], [])

    def test_server_lines(self) -> None:
        """The README and the page on the server have the two lines that a server takes."""
        for page in (CHECKOUT / "README.rst", DOCS / "server.rst"):
            text = page.read_text("utf-8")
            self.assertIn("soledad-server --data-dir DIR user add UUID", text)
            self.assertIn("twist soledad --data-dir DIR --users tcp:8180:interface=127.0.0.1", text)


def _rows(text: str) -> list[str]:
    """Return the names in the first column of tables."""
    return [name for row in re.findall(r"^   \* - (`.*)$", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]


def _classes(module: ModuleType) -> list[tuple[str, type]]:
    return inspect.getmembers(module, lambda item: inspect.isclass(item) and item.__module__ == module.__name__)

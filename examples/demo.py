"""
An attachment, end to end, with a server on this machine: what ``make demo`` runs.

``python examples/demo.py [FILE]`` starts a real server, runs the example of `attachment_example` against it, looks
whether anybody else could read the file, and fetches it on another device, honestly and after the server was
tampered with.  All of it happens in a temporary folder, which is gone afterwards, as the server is.  The exit status
is 0 if everything was as it should be.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO

from attachment_example import attachment_example
from attrs import frozen
from demo_narrator import Bar, NarratedStore, headline, line, size
from demo_search import has_piece, pieces_of, search
from demo_server import CommandFailed, ServerProcess, soledad_server
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from soledad import AttachmentStates, Document, Soledad, SoledadError
from soledad.errors import AuthenticationFailed

UUID = "alice"
PASSPHRASE = "only alice knows this"
#: What the example attaches, in the folder it is run in; made up, unless a file is given.
NAME = "hackers.txt"
LINES = 80_000


class DemoFailed(Exception):
    """Something was not as it should be."""


@frozen
class Place:
    """Where everything is, and how the server is reached."""

    folder: Path
    server: Path
    url: str
    token: str

    @property
    def plaintext(self) -> Path:
        """What is attached."""
        return self.folder / NAME

    @asynccontextmanager
    async def open(self, store: str) -> AsyncIterator[Soledad]:
        """Open a store in a folder of its own, and close it at the end."""
        soledad = await Soledad.open(
            UUID, PASSPHRASE, data_dir=self.folder / store, server_url=self.url, auth_token=self.token
        )
        try:
            yield soledad
        finally:
            await soledad.close()


async def demonstrate(reactor: Any, folder: Path, given: Path | None) -> None:
    """
    Show it all, in an empty folder.

    :raise DemoFailed: something was not as it should be.
    """
    headline("A server, as README.rst says, on a free port")
    server = ServerProcess(reactor, folder / "server")
    try:
        token = await soledad_server(folder / "server", "user", "add", UUID)
        line("soledad-server", f"made the user {UUID!r}, and a token")
        url = await server.start()
        line("twist soledad", f"serves at {url}, process {server.pid}")
        place = Place(folder, folder / "server", url, token)
        provide_plaintext(place.plaintext, given)
        await run_example(place)
        await look_for_plaintext(place)
        await fetch_elsewhere(place)
        await tamper(place)
    finally:
        await server.stop()


def provide_plaintext(path: Path, given: Path | None) -> None:
    """Have something to attach."""
    if given is not None:
        path.symlink_to(given)
        return
    with path.open("w") as file:
        file.writelines(f"{number:6}: trashing our rights: {os.urandom(16).hex()}\n" for number in range(LINES))


async def run_example(place: Place) -> None:
    """Run the example, word for word, with a store that tells of each call."""
    headline(f"The example, with {size(place.plaintext.stat().st_size)} in {NAME}")
    async with place.open("device") as soledad:
        await attachment_example(NarratedStore(soledad))
    line("the file", "reads as it was; every assertion of the example holds")


async def look_for_plaintext(place: Place) -> None:
    """See that neither the device nor the server has the plaintext, with a search that would find it."""
    headline("Who else can read it?")
    pieces = pieces_of(place.plaintext)
    if not pieces:
        line("nothing to look for", "the file is too short, or too monotonous, for a piece of it to be telling")
        return
    control = await deferToThread(has_piece, place.plaintext, pieces)
    check(all(control), "the search does not even find the pieces in the file itself")
    line(NAME, f"has all {len(pieces)} pieces that are looked for")
    for name in ("device", "server"):
        found = await deferToThread(search, [place.folder / name], pieces)
        check(found.size >= place.plaintext.stat().st_size, f"the {name}'s files are smaller than the attachment")
        check(not found.guilty, f"there is plaintext in {', '.join(map(str, found.guilty))}")
        line(f"the {name}", f"has none of them: {found.files} files searched, {size(found.size)}")


async def fetch_elsewhere(place: Place) -> None:
    """Open a copy of the store that has no blobs, and fetch the attachment from the server."""
    headline("A copy of the closed store, without its blob files, opened as a second device would be")
    copy_without_blobs(place, "second-device")
    async with place.open("second-device") as soledad:
        doc = await only_document(soledad)
        await expect_state(doc, AttachmentStates.REMOTE)
        bar = Bar("download_attachment")
        await bar.watch(doc.download_attachment(progress=bar.at))
        await expect_state(doc, AttachmentStates.SYNCED)
        fd = await doc.get_attachment()
        check(fd is not None and await deferToThread(same, fd, place.plaintext), "it is not what was attached")
        line("the file", "is what was attached, byte by byte")


async def tamper(place: Place) -> None:
    """Flip a bit on the server, and see that a device refuses what it gets."""
    headline("The same with one bit flipped in the file that the server keeps")
    (stored,) = (path for path in (place.server / "blobs").rglob("*") if path.is_file())
    position = stored.stat().st_size // 2
    flip(stored, position)
    line("byte", f"{position:,} of {stored.stat().st_size:,} is another one now")
    copy_without_blobs(place, "third-device")
    async with place.open("third-device") as soledad:
        doc = await only_document(soledad)
        bar = Bar("download_attachment")
        try:
            await bar.watch(doc.download_attachment(progress=bar.at), "refused")
        except AuthenticationFailed as error:
            line("AuthenticationFailed", error)
        else:
            raise DemoFailed("the device accepted what was tampered with")
        await expect_state(doc, AttachmentStates.REMOTE)
    check(not any((place.folder / "third-device").glob("*_blobs/*")), "something of it was kept")
    line("the device", "kept nothing of it")


# --- parts of these -----------------------------------------------------------------------------------


def check(good: bool, complaint: str) -> None:
    """:raise DemoFailed: it is not good."""
    if not good:
        raise DemoFailed(complaint)


def copy_without_blobs(place: Place, name: str) -> None:
    """
    Copy the first device's store, which is closed, but for the files of its blobs.

    What is small has no file but a row; then the blobs' database is left out too.
    """
    store = place.folder / "device"
    left_out = ["*_blobs"] if any(store.glob("*_blobs/*")) else ["*_blobs", "*_blobs.db*"]
    shutil.copytree(store, place.folder / name, ignore=shutil.ignore_patterns(*left_out))


async def only_document(soledad: Soledad) -> Document:
    """Return the document of a store that has one."""
    _, (doc,) = await soledad.get_all_docs()
    line("get_all_docs", doc.doc_id)
    return doc


async def expect_state(doc: Document, expected: AttachmentStates) -> None:
    """Print the state, which must be the expected one."""
    state = await doc.get_attachment_state()
    line("get_attachment_state", state.name)
    check(state == expected, f"the state should be {expected.name}")


def same(fd: RawIOBase | BinaryIO, path: Path) -> bool:
    """Compare two files, a piece at a time, to the end of both.  This blocks."""
    with fd, path.open("rb") as other:
        while True:
            mine, theirs = fd.read(1 << 20), other.read(1 << 20)
            if mine != theirs or not mine:
                return mine == theirs


def flip(path: Path, position: int) -> None:
    """Flip a bit."""
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1]))


# --- around it ----------------------------------------------------------------------------------------


async def in_temporary_folder(reactor: Any, given: Path | None) -> None:
    """Show it all where it harms nothing, and clean up, however it ends; one line tells what went wrong."""
    before = Path.cwd()
    folder = Path(tempfile.mkdtemp(prefix="soledad-demo-"))
    try:
        os.chdir(folder)
        await demonstrate(reactor, folder, given)
    except (DemoFailed, CommandFailed, AssertionError, OSError, SoledadError) as error:
        raise SystemExit(f"demo: {type(error).__name__}: {error}") from None
    except CancelledError:
        raise SystemExit("demo: interrupted") from None
    finally:
        os.chdir(before)
        shutil.rmtree(folder)
    headline("The server has ended, and everything is removed again.")


def main(reactor: Any, *arguments: str) -> Deferred[None]:
    """Run until it is all shown, or Ctrl-C; either way, not before it is cleaned up."""
    work = Deferred.fromCoroutine(in_temporary_folder(reactor, file_of(arguments)))
    ended: Deferred[None] = Deferred()

    def stop() -> Deferred[None]:
        work.cancel()
        return ended

    def end(result: Any) -> Any:
        ended.callback(None)
        return result

    reactor.addSystemEventTrigger("before", "shutdown", stop)
    return work.addBoth(end)


def file_of(arguments: tuple[str, ...]) -> Path | None:
    """
    Return the file that was named, if one was.

    :raise SystemExit: it cannot be read.
    """
    if not arguments:
        return None
    path = Path(arguments[0]).resolve()
    try:
        path.open("rb").close()
    except OSError as error:
        raise SystemExit(f"demo: {arguments[0]}: {error.strerror}") from None
    return path


if __name__ == "__main__":
    react(main, sys.argv[1:])

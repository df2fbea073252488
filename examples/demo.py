"""
Two devices and a server on this machine: what ``make demo`` runs.

``python examples/demo.py [FILE]`` starts a real server and runs the example of `attachment_example` against it.  A
second device has the document before its attachment, and then both; the two settle a conflict.  Nobody else can read
the file; a bit that is flipped on the server, and a server that is put back to an older state, are noticed.  All of it
happens in a temporary folder, which is gone afterwards, as the server is.  The exit status is 0 if everything was as it
should be.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from attachment_example import attachment_example
from demo_devices import keep_a_copy, put_back, second_device, send_documents, settle_a_conflict
from demo_narrator import Bar, NarratedStore, headline, line, size
from demo_place import (
    NAME,
    UUID,
    DemoFailed,
    Place,
    check,
    copy_without_blobs,
    expect_state,
    flip,
    only_document,
)
from demo_search import has_piece, pieces_of, search
from demo_server import CommandFailed, ServerProcess, soledad_server
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from soledad import AttachmentStates, SoledadError
from soledad.errors import AuthenticationFailed

#: Of what is attached, unless a file is given.
LINES = 80_000


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
        await send_documents(place)
        await second_device(place)
        await look_for_plaintext(place)
        copy = await keep_a_copy(place, server)
        await settle_a_conflict(place)
        await tamper(place)
        await put_back(place, server, copy)
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
    async with place.open("laptop") as soledad:
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
    for name in ("laptop", "phone", "server"):
        found = await deferToThread(search, [place.folder / name], pieces)
        check(found.size >= place.plaintext.stat().st_size, f"the {name}'s files are smaller than the attachment")
        check(not found.guilty, f"there is plaintext in {', '.join(map(str, found.guilty))}")
        line(f"the {name}", f"has none of them: {found.files} files searched, {size(found.size)}")


async def tamper(place: Place) -> None:
    """Flip a bit on the server, and see that a device refuses what it gets."""
    headline("One bit is flipped in the file that the server keeps; a copy of the laptop's store fetches it")
    (stored,) = (path for path in (place.server / "blobs").rglob("*") if path.is_file())
    position = stored.stat().st_size // 2
    flip(stored, position)
    line("byte", f"{position:,} of {stored.stat().st_size:,} is another one now")
    copy_without_blobs(place, "laptop", "third-device")
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

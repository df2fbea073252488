"""
Soledad in a program of asyncio: Twisted's reactor runs on asyncio's loop, and `asFuture` gives what it awaits.

    SOLEDAD_PASSPHRASE=... [SERVER_URL=... SOLEDAD_TOKEN=...] python examples/asyncio_script.py FILE...
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor

# Before anything else imports the reactor, which would choose another one.
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
asyncioreactor.install(loop)

from twisted.internet.defer import Deferred  # noqa: E402
from twisted.internet.task import react  # noqa: E402

from soledad import Soledad  # noqa: E402


async def keep(soledad: Soledad, path: Path) -> int:
    """Attach a file to a document of its own; return its length."""
    doc = await soledad.create_doc({"title": path.name}).asFuture(loop)
    with path.open("rb") as fd:
        await doc.put_attachment(fd).asFuture(loop)
    await soledad.put_doc(doc).asFuture(loop)
    return doc.attachments["default"].length


async def work(paths: list[Path]) -> None:
    """Keep all files at the same time; with a server, on the person's other devices, too."""
    server_url = os.environ.get("SERVER_URL")
    soledad = await Soledad.open(
        "alice",
        os.environ["SOLEDAD_PASSPHRASE"],
        data_dir="alice-store",
        server_url=server_url,
        auth_token=os.environ["SOLEDAD_TOKEN"] if server_url else None,
    ).asFuture(loop)
    try:
        lengths = await asyncio.gather(*(keep(soledad, path) for path in paths))
        if server_url:
            await soledad.sync().asFuture(loop)
        print(f"{len(paths)} files, {sum(lengths)} bytes")
    finally:
        await soledad.close().asFuture(loop)


def main(reactor: Any, *paths: str) -> Deferred[None]:
    """Let the reactor run until the work is done."""
    return Deferred.fromFuture(loop.create_task(work([Path(path) for path in paths])))


if __name__ == "__main__":
    react(main, sys.argv[1:])

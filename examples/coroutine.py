"""
The same as a coroutine, with a server: keeps a file, uploads it, and tries again if the network is not there.

    SOLEDAD_PASSPHRASE=... SOLEDAD_TOKEN=... python examples/coroutine.py SERVER_URL FILE
"""

import os
import sys
from typing import Any

from twisted.internet.task import deferLater, react

from soledad import Document, Soledad
from soledad.errors import RetriableTransferError

#: Seconds before each further attempt.
PAUSES = (1, 5, 20)


async def upload(reactor: Any, doc: Document) -> None:
    """Upload, with a few more attempts where that may help; what may not help is raised at once."""
    for pause in PAUSES:
        try:
            await doc.upload_attachment(progress=lambda done, total: print(f"{done} of {total} bytes"))
            return
        except RetriableTransferError as error:
            print(f"{error}; again in {pause} s")
            await deferLater(reactor, pause)
    await doc.upload_attachment()


async def main(reactor: Any, server_url: str, path: str) -> None:
    """Attach the file to a new document, and upload it."""
    soledad = await Soledad.open(
        "alice",
        os.environ["SOLEDAD_PASSPHRASE"],
        data_dir="alice-store",
        server_url=server_url,
        auth_token=os.environ["SOLEDAD_TOKEN"],
    )
    try:
        doc = await soledad.create_doc({"title": path})
        with open(path, "rb") as fd:  # noqa: ASYNC230 - it only opens; reading is done in a thread
            await doc.put_attachment(fd)
        await soledad.put_doc(doc)
        await upload(reactor, doc)
        state = await doc.get_attachment_state(refresh=True)
        print(f"{path} is {state.name}")
    finally:
        await soledad.close()


if __name__ == "__main__":
    react(main, sys.argv[1:])

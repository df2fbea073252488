"""
A script in the style of `inlineCallbacks`: keeps a file in an encrypted store; with a server, on all devices.

    SOLEDAD_PASSPHRASE=... [SOLEDAD_TOKEN=...] python examples/inline_callbacks.py FILE [SERVER_URL]
"""

import os
import sys
from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import react

from soledad import Soledad


@inlineCallbacks
def main(reactor: Any, path: str, server_url: str | None = None) -> Generator[Deferred[Any], Any, None]:
    """Attach the file to a new document, and print what the store has."""
    soledad = yield Soledad.open(
        "alice",
        os.environ["SOLEDAD_PASSPHRASE"],
        data_dir="alice-store",
        server_url=server_url,
        auth_token=os.environ["SOLEDAD_TOKEN"] if server_url else None,
    )
    try:
        doc = yield soledad.create_doc({"title": path})
        with open(path, "rb") as fd:
            yield doc.put_attachment(fd)
        yield soledad.put_doc(doc)
        if server_url:
            yield soledad.sync()
        _, docs = yield soledad.get_all_docs()
        for doc in docs:
            print(doc.content["title"], doc.attachments["default"].length, "bytes")
    finally:
        yield soledad.close()


if __name__ == "__main__":
    react(main, sys.argv[1:])

"""
An attachment, end to end: the example that soledad starts from, and what it takes to run it.

With a server running (README.rst has the two lines)::

    export SOLEDAD_TOKEN=...     # what soledad-server printed
    python examples/attachment_example.py http://127.0.0.1:8180 UUID

It makes ``hackers.txt``, if there is none, and a store in ``soledad-example``, both in the current folder.
"""

# The function is given as it stands in the documentation, in its own style.
# mypy: disable-error-code="no-untyped-def"
# ruff: noqa: D103, E712, SIM115

import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import react

from soledad import AttachmentState, AttachmentStates, Soledad, SoledadError


# fmt: off
@inlineCallbacks
def attachment_example(soledad):
    doc = yield soledad.create_doc({})
    state = yield doc.get_attachment_state()
    dirty = yield doc.is_dirty()
    assert state == AttachmentStates.NONE
    assert dirty == False
    yield doc.put_attachment(open('hackers.txt', 'rb'))
    state = yield doc.get_attachment_state()
    dirty = yield doc.is_dirty()
    assert state & AttachmentState.LOCAL
    assert dirty == True
    yield soledad.put_doc(doc)
    dirty = yield doc.is_dirty()
    assert dirty == False
    yield doc.upload_attachment()
    state = yield doc.get_attachment_state()
    assert state & AttachmentState.REMOTE
    assert state == AttachmentState.SYNCED
    fd = yield doc.get_attachment()
    assert fd.read() == open('hackers.txt', 'rb').read()
# fmt: on


def provide_hackers() -> None:
    """Make the file that the example attaches, if there is none."""
    path = Path("hackers.txt")
    if not path.exists():
        path.write_text("Hack the planet!\n" * 100_000)


async def main(reactor: Any, server_url: str, uuid: str) -> None:
    """Open a store that has a server, run the example, and close the store."""
    provide_hackers()
    try:
        soledad = await Soledad.open(
            uuid,
            os.environ.get("SOLEDAD_PASSPHRASE", "a passphrase for an example"),
            data_dir="soledad-example",
            server_url=server_url,
            auth_token=os.environ.get("SOLEDAD_TOKEN"),
        )
        try:
            await attachment_example(soledad)
        finally:
            await soledad.close()
    except SoledadError as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from None
    print("hackers.txt is attached, is sealed on the server, and reads as it was.")


if __name__ == "__main__":
    import sys

    if len(sys.argv) != 3:
        raise SystemExit("usage: attachment_example.py SERVER_URL UUID    (and the token in SOLEDAD_TOKEN)")
    react(main, sys.argv[1:])

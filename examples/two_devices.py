"""
Two devices of one person, kept in step through a server, and a conflict that is settled.

    SOLEDAD_PASSPHRASE=... SOLEDAD_TOKEN=... python examples/two_devices.py SERVER_URL

The second one knows nothing but the user's id, the token and the passphrase.  Both are in one process here, each with a
folder of its own; on two machines it is the same.
"""

import os
import sys
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from soledad import Soledad


def open_device(name: str, server_url: str) -> Deferred[Soledad]:
    """Open a device's store, or make it."""
    return Soledad.open(
        "alice",
        os.environ["SOLEDAD_PASSPHRASE"],
        data_dir=f"alice-{name}",
        server_url=server_url,
        auth_token=os.environ["SOLEDAD_TOKEN"],
    )


async def add(soledad: Soledad, doc_id: str, item: str) -> None:
    """Put something on a list."""
    doc = await soledad.get_doc(doc_id)
    assert doc is not None
    assert doc.content is not None
    doc.content["items"].append(item)
    await soledad.put_doc(doc)


async def settle(soledad: Soledad, doc_id: str) -> None:
    """Let a list that is in conflict have what is on any of its versions."""
    versions = await soledad.get_doc_conflicts(doc_id)
    if not versions:
        return
    merged = versions[0]
    items = {item for version in versions if version.content for item in version.content["items"]}
    merged.content = {"items": sorted(items)}
    await soledad.resolve_doc(merged, [version.rev for version in versions if version.rev])


async def main(reactor: Any, server_url: str) -> None:
    """Write a list on one device, change it on both, and settle that."""
    laptop = await open_device("laptop", server_url)
    await laptop.create_doc({"items": ["bread"]}, "shopping")
    await laptop.sync()
    phone = await open_device("phone", server_url)
    await phone.sync()
    await add(laptop, "shopping", "milk")
    await add(phone, "shopping", "tea")
    for device in (laptop, phone):
        await device.sync()
    # The phone was second: it has the conflict, tells the server of it, and settles it.
    await settle(phone, "shopping")
    for device in (phone, laptop):
        await device.sync()
        doc = await device.get_doc("shopping")
        assert doc is not None
        assert doc.content is not None
        print(doc.has_conflicts, *doc.content["items"])
    for device in (laptop, phone):
        await device.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: two_devices.py SERVER_URL    (and SOLEDAD_PASSPHRASE, SOLEDAD_TOKEN)")
    react(main, sys.argv[1:])

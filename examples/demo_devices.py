"""What the demonstration shows of two devices: a document that travels, a conflict, a server that is put back."""

from __future__ import annotations

import shutil
from pathlib import Path

from demo_narrator import headline, line
from demo_place import Place, check, expect_state, same
from demo_server import ServerProcess
from twisted.internet.threads import deferToThread

from soledad import AttachmentStates, Document, Soledad, TamperPolicy
from soledad.errors import ServerRolledBack


async def send_documents(place: Place) -> None:
    """Let the first device send its document; the attachment is on the server already."""
    async with place.open("laptop") as laptop:
        await laptop.sync()
        line("laptop: sync", "its document is on the server, sealed, under a name that tells nothing")


async def second_device(place: Place) -> None:
    """Open a device that has nothing but the passphrase, and see what comes, and in which order."""
    headline("A second device, which is told the user's id, a token and the passphrase, and nothing else")
    async with place.open("phone") as phone:
        _, docs = await phone.get_all_docs()
        check(not docs, "a new device has documents before it has synced")
        line("phone: Soledad.open", "took the keyring from the server, and opened it with the passphrase")
        first = await sync_and_look(phone)
        line("phone: sync", f"the document came first: its attachment was {first.name} then")
        _, (doc,) = await phone.get_all_docs()
        await expect_state(doc, AttachmentStates.SYNCED)
        fd = await doc.get_attachment()
        check(fd is not None and await deferToThread(same, fd, place.plaintext), "it is not what was attached")
        line("the file", "is what was attached, byte by byte")


async def sync_and_look(phone: Soledad) -> AttachmentStates:
    """Sync; return what the state of the attachment was when its document came."""
    states: list[AttachmentStates] = []

    async def came(doc_id: str, rev: str, generation: int) -> None:
        doc = await phone.get_doc(doc_id)
        if doc is not None:
            states.append(await doc.get_attachment_state())

    subscription = phone.subscribe(came)
    await phone.sync()
    subscription.cancel()
    check(bool(states), "nobody was told of the document")
    check(not states[0] & AttachmentStates.LOCAL, "the document came no earlier than its attachment")
    return states[0]


async def settle_a_conflict(place: Place) -> None:
    """Let both devices change the document without knowledge of each other, and one of them settle it for both."""
    headline("Both change the document without knowing of each other")
    async with place.open("laptop") as laptop, place.open("phone") as phone:
        await entitle(laptop, "laptop", "Hackers")
        await entitle(phone, "phone", "The hackers")
        await laptop.sync()
        await phone.sync()
        doc_id = (await the_document(phone)).doc_id
        assert doc_id is not None
        versions = await phone.get_doc_conflicts(doc_id)
        titles = sorted(str(version.content and version.content["title"]) for version in versions)
        check(titles == ["Hackers", "The hackers"], "there is no conflict")
        line("phone: sync", f"a conflict: {' / '.join(titles)}; nothing is lost")
        doc = versions[0]
        doc.content = {"title": "The hackers, 1995"}
        await phone.resolve_doc(doc, [str(version.rev) for version in versions])
        await phone.sync()
        await laptop.sync()
        settled = await the_document(laptop)
        check(settled.content == doc.content and not settled.has_conflicts, "the conflict is not settled on the laptop")
        check(settled.attachments == doc.attachments, "the attachment was lost on the way")
        line("phone: resolve_doc", "settled; after a sync the laptop has it, too: The hackers, 1995")


async def entitle(soledad: Soledad, name: str, title: str) -> None:
    """Give the document a title."""
    doc = await the_document(soledad)
    doc.content = {"title": title}
    await soledad.put_doc(doc)
    line(f"{name}: put_doc", f"the title is {title!r} here")


async def the_document(soledad: Soledad) -> Document:
    """Return the document of a store that has one."""
    _, (doc,) = await soledad.get_all_docs()
    return doc


async def keep_a_copy(place: Place, server: ServerProcess) -> Path:
    """Copy all that the server has, as its operator could; it is stopped meanwhile."""
    copy = place.folder / "server-before"
    await server.stop()
    shutil.copytree(place.server, copy)
    await server.start()
    return copy


async def put_back(place: Place, server: ServerProcess, copy: Path) -> None:
    """Let the server be what it was before, and see that the devices notice; then let them mend it."""
    headline("The server is put back to a copy from before the conflict")
    await server.stop()
    shutil.rmtree(place.server)
    shutil.copytree(copy, place.server)
    await server.start()
    async with place.open("phone") as phone:
        await phone.set_tamper_policy(TamperPolicy.REFUSE)
        try:
            await phone.sync()
        except ServerRolledBack as error:
            line("ServerRolledBack", error)
        else:
            check(False, "the device did not notice")
        doc = await the_document(phone)
        check(doc.content == {"title": "The hackers, 1995"}, "the device took the older state")
        line("phone", "keeps what it has, and sends nothing, until a person says that this was a restored backup")
        await phone.accept_server_restore()
        line("accept_server_restore", "what the server had lost is there again")
    async with place.open("laptop") as laptop:
        await laptop.sync()
        incidents = [incident.kind.name for incident in await laptop.incidents()]
        check(bool(incidents), "the other device does not hear of it")
        line("laptop: sync", f"it is told, too: {', '.join(incidents)}; its document is as it was")
        doc = await the_document(laptop)
        check(doc.content == {"title": "The hackers, 1995"}, "the document is not what it was")

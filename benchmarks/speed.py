"""Rows 1 to 4: how long an attachment's ways take, beside the least that each of them could take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.web.client import HTTPConnectionPool

from benchmarks.references import PlainClient, insert_rows, open_chunks, seal_chunks
from benchmarks.results import MIB, Result, compared
from benchmarks.server import USER
from benchmarks.workbench import Nowhere, Subject, Workbench, measure, warm
from soledad.client.document import Document
from soledad.model.ids import ATTACHMENTS, BlobId
from soledad.wire.routes import BlobRoute


@define(eq=False)
class Speed:
    """The measurements of one file, on one workbench."""

    bench: Workbench
    source: Path
    rounds: int
    _reactor: Any
    _doc: Document | None = field(default=None, init=False)

    @property
    def doc(self) -> Document:
        """The document that is measured."""
        assert self._doc is not None
        return self._doc

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.source.stat().st_size

    # --- row 1 ----------------------------------------------------------------------------------------

    async def put(self) -> list[Result]:
        """Row 1: into the store."""
        chunks, rows = self.bench.folder / "chunks", self.bench.folder / "rows"

        async def seal() -> None:
            seal_chunks(self.source, chunks)

        async def insert() -> None:
            insert_rows(self.source, rows)

        async def remove_chunks() -> None:
            chunks.unlink()

        async def make_rows() -> None:
            rows.mkdir()
            await warm(self.source)()

        async def remove_rows() -> None:
            for path in rows.iterdir():
                path.unlink()
            rows.rmdir()

        put, sealing, inserting = await measure(
            self.rounds,
            self._putting(),
            Subject("chunks to a file, fsync", seal, warm(self.source), remove_chunks),
            Subject("256 KiB rows, SQLCipher", insert, before=make_rows, after=remove_rows),
        )
        return [compared("1a", self.size, put, sealing, 0.7), compared("1b", self.size, put, inserting, 3.0)]

    def _putting(self) -> Subject:
        async def before() -> None:
            await warm(self.source)()
            self._doc = await self.bench.soledad.create_doc({})

        async def run() -> None:
            with self.source.open("rb") as file:
                await self.doc.put_attachment(file)

        async def after() -> None:
            self.bench.newest_sealed().unlink()

        return Subject("put_attachment", run, before, after)

    # --- row 2 ----------------------------------------------------------------------------------------

    async def get(self) -> list[Result]:
        """Row 2: out of the store."""
        chunks = self.bench.folder / "chunks"
        seal_chunks(self.source, chunks)
        self._doc = await self.bench.attach_file(self.source)

        async def read() -> None:
            file = await self.doc.get_attachment()
            assert file is not None
            with file:
                while file.read(MIB):
                    pass

        async def write() -> None:
            nowhere = Nowhere()
            await self.doc.write_attachment_to(nowhere)
            assert nowhere.size == self.size

        async def open_raw() -> None:
            open_chunks(chunks)

        reading, writing, raw = await measure(
            self.rounds,
            Subject("get_attachment, read(1 MiB)", read, warm(self.bench.sealed)),
            Subject("write_attachment_to", write, warm(self.bench.sealed)),
            Subject("reading and opening chunks", open_raw, warm(chunks)),
        )
        chunks.unlink()
        self.bench.newest_sealed().unlink()
        return [compared("2a", self.size, reading, raw, 0.6), compared("2b", self.size, writing, raw, 0.6)]

    # --- row 3 ----------------------------------------------------------------------------------------

    async def upload(self) -> list[Result]:
        """Row 3: to the server, durable there."""
        server = self.bench.server
        client = PlainClient(server.url, server.token, HTTPConnectionPool(self._reactor))
        plain_route = BlobRoute(USER, BlobId("plain"))

        async def attach() -> None:
            self._doc = await self.bench.attach_file(self.source)

        async def run() -> None:
            await self.doc.upload_attachment()

        async def put_plain() -> None:
            await client.put(plain_route, self.bench.newest_sealed())

        async def remove() -> None:
            await client.delete(BlobRoute(USER, self.doc.attachments["default"].blob_id, ATTACHMENTS))
            self.bench.newest_sealed().unlink()

        async def remove_plain() -> None:
            await client.delete(plain_route)
            self.bench.newest_sealed().unlink()

        uploading, plain = await measure(
            self.rounds,
            Subject("upload_attachment", run, attach, remove),
            Subject("PUT of the sealed file", put_plain, attach, remove_plain),
        )
        await client.close()
        return [compared("3", self.size, uploading, plain, 0.8)]

    # --- row 4 ----------------------------------------------------------------------------------------

    async def download(self) -> list[Result]:
        """Row 4: from the server, verified, into the store."""
        doc_id = (await self._uploaded()).doc_id
        assert doc_id is not None

        async def forget() -> None:
            await self.bench.lose_files()
            await warm(self.bench.folder / "server")()
            self._doc = await self.bench.soledad.get_doc(doc_id)

        async def run() -> None:
            await self.doc.download_attachment()

        putting = self._putting()

        async def forget_and_create() -> None:
            # Both write to memory that has been free for as long: some machines take it back.
            await forget()
            await putting.before()

        downloading, put = await measure(
            self.rounds,
            Subject("download_attachment", run, before=forget),
            Subject(putting.name, putting.run, before=forget_and_create),
        )
        return [compared("4", self.size, downloading, put, 0.7)]

    async def _uploaded(self) -> Document:
        doc = await self.bench.attach_file(self.source)
        await doc.upload_attachment()
        return doc

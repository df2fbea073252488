"""Versions of documents as rows: the columns that hold one, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from soledad.model.attachment import Pointer
from soledad.model.document import Stored
from soledad.model.ids import BlobId, DocId

#: What `from_row` takes, of rows of ``document``: the current versions.
COLUMNS = """document.doc_id, document.rev, document.content, document.attachments,
    EXISTS (SELECT 1 FROM alternative WHERE alternative.doc_id = document.doc_id)"""
#: What `from_row` takes, of rows of ``alternative``.
ALTERNATIVE = "doc_id, rev, content, attachments, 1"


def from_row(row: Sequence[Any]) -> Stored:
    """Return the version that a row holds."""
    doc_id, rev, content, pointers, has_conflicts = row
    return Stored(DocId(doc_id), rev, content, decode_pointers(pointers), bool(has_conflicts))


def encode_pointers(pointers: Mapping[str, Pointer]) -> str | None:
    """Return pointers as JSON text; `None` for none."""
    if not pointers:
        return None
    return json.dumps(
        {
            name: {
                "blob_id": pointer.blob_id,
                "length": pointer.length,
                "content_type": pointer.content_type,
                "commitment": pointer.commitment.hex(),
            }
            for name, pointer in sorted(pointers.items())
        }
    )


def decode_pointers(text: str | None) -> dict[str, Pointer]:
    """Read what `encode_pointers` wrote."""
    if text is None:
        return {}
    return {
        name: Pointer(
            BlobId(value["blob_id"]), value["length"], value["content_type"], bytes.fromhex(value["commitment"])
        )
        for name, value in json.loads(text).items()
    }

"""
What files are called: ``user/namespace/s/som/some-b/some-blob-id.<upload>``.

No two places have one name, also where upper and lower case are the same.  Source: docs/server.rst, "Files".
"""

from __future__ import annotations

import re

from soledad.model.ids import BlobId, Namespace, UserId
from soledad.server.interfaces import Place

#: Lengths of the names of a blob's folders, each a beginning of its id.
PREFIXES = (1, 3, 6)
#: How the name of a file ends that is not complete.
PART = ".part"
#: How the name of a file ends that was put aside.
ASIDE = ".aside"
#: What a folder may be called.
FOLDER = re.compile(r"[a-z0-9_-]+(?:\.[0-9a-f]+)?", re.ASCII)
#: An identifier without its capitals, a bit for each capital, the upload.
_FILE_NAME = re.compile(r"([a-z0-9_-]+(?:\.[0-9a-f]+)?)\.([0-9a-f]{32})", re.ASCII)


def folded(text: str) -> str:
    """
    Return a name for ``text`` that no other text has, also where upper and lower case are the same.

    Capitals become small, and a number with a bit for each of them follows.  It is at most 33 characters longer.
    """
    bits = sum(1 << place for place, letter in enumerate(text) if letter.isupper())
    return f"{text.lower()}.{bits:x}" if bits else text


def unfolded(name: str) -> str:
    """Return the text that `folded` made ``name`` of."""
    text, _, bits = name.partition(".")
    capitals = int(bits or "0", 16)
    return "".join(letter.upper() if capitals >> place & 1 else letter for place, letter in enumerate(text))


def folders_of(place: Place) -> tuple[str, ...]:
    """Return the names of the folders from the root to the file."""
    small = place.blob_id.lower()
    return (folded(place.user), place.namespace, *(small[:length] for length in PREFIXES))


def file_name(place: Place) -> str:
    """Return the name of the file.  A folder's has no dot here, a file's has at least one."""
    return f"{folded(place.blob_id)}.{place.upload}"


def parse_path(path: str) -> Place | None:
    """Return the place of the file at ``path``, relative to the root; `None`: it is none of ours."""
    parts = path.split("/")
    match = _FILE_NAME.fullmatch(parts[-1])
    if match is None or len(parts) != len(PREFIXES) + 3:
        return None
    place = Place(UserId(unfolded(parts[0])), Namespace(parts[1]), BlobId(unfolded(match[1])), match[2])
    return place if "/".join((*folders_of(place), file_name(place))) == path else None

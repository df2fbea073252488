"""Whether the plaintext of a file is in other files: looks for pieces of it, everywhere in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import frozen

#: Bytes of a piece: so many do not turn up by chance.
PIECE = 16
#: How many pieces, spread over the file.
PIECES = 32
#: Different bytes that a piece has at least: a run of zeros is in many files, whatever they hold.
VARIETY = 6
#: Bytes that are read at a time.
BLOCK = 4 * 1024 * 1024


@frozen
class Found:
    """What a search came to."""

    files: int
    size: int
    #: The files that have a piece in them.
    guilty: tuple[Path, ...]


def pieces_of(plaintext: Path) -> list[bytes]:
    """Return pieces of a file that tell it from others; none, if all of it is too short or too monotonous."""
    size = plaintext.stat().st_size
    step = max(PIECE, (size - PIECE) // (PIECES - 1) if size > PIECE else PIECE)
    with plaintext.open("rb") as file:
        pieces = dict.fromkeys(_read_at(file, position) for position in range(0, size, step))
    return [piece for piece in pieces if len(piece) == PIECE and len(set(piece)) >= VARIETY]


def search(folders: Iterable[Path], pieces: list[bytes]) -> Found:
    """Look for ``pieces`` in every file in ``folders``, at every place of it.  This blocks."""
    files = [path for folder in folders for path in _files_in(folder)]
    guilty = tuple(path for path in files if any(has_piece(path, pieces)))
    return Found(len(files), sum(path.stat().st_size for path in files), guilty)


def has_piece(path: Path, pieces: list[bytes]) -> list[bool]:
    """Tell of each piece whether it is in a file, however large: a block at a time, with what is between two."""
    found = [False] * len(pieces)
    tail = b""
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            window = tail + block
            found = [known or piece in window for known, piece in zip(found, pieces, strict=True)]
            tail = window[-(PIECE - 1) :]
    return found


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


def _read_at(file: object, position: int) -> bytes:
    file.seek(position)  # type: ignore[attr-defined]
    data: bytes = file.read(PIECE)  # type: ignore[attr-defined]
    return data

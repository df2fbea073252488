"""Many small things that come as one run of bytes: where one ends and the next begins, and a file for each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any

from attrs import define, field

from soledad.server.backends.files import Files
from soledad.server.backends.naming import PART
from soledad.server.interfaces import Stored


@define(eq=False)
class Portions:
    """Cuts a run of bytes into portions of given lengths."""

    _lengths: Sequence[int]
    _at: int = field(default=0, init=False)
    _done: int = field(default=0, init=False)

    def cut(self, data: bytes) -> Iterator[tuple[int, bytes, bool]]:
        """Give the parts of ``data``, which follows what came before: which portion's, the bytes, is it complete."""
        start = 0
        while self._at < len(self._lengths):
            number, left = self._at, self._lengths[self._at] - self._done
            part = data[start : start + left]
            if left and not part:
                return
            start += len(part)
            self._done += len(part)
            if len(part) == left:
                self._at, self._done = self._at + 1, 0
            yield number, part, len(part) == left


@define(eq=False)
class FileBatch:
    """
    The files of one batch while they are written.  One call at a time; all of them block, and raise `OSError`.

    They have their names once the bytes of all are durable: what has a blob's name is whole, whenever a process ends.
    """

    _files: Files
    _root: str
    #: For each portion its length, and the folders below the root and the name of its file; `None`: it is dropped.
    _wanted: Sequence[tuple[tuple[str, ...] | None, int]]
    #: Folders that are durable already.
    _durable: dict[str, None]
    #: Folders that were made, or may have been by another process a moment ago; the last of each path not among them.
    made: dict[str, None] = field(factory=dict, init=False)
    _portions: Portions = field(init=False)
    _anchor: int | None = field(default=None, init=False)
    _file: int | None = field(default=None, init=False)
    _digest: Any = field(default=None, init=False)
    _paths: list[str] = field(factory=list, init=False)
    #: Those whose names are to be made durable.
    _folders: dict[str, None] = field(factory=dict, init=False)
    _stored: list[Stored | None] = field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        """Begin with the first portion."""
        self._portions = Portions([length for _, length in self._wanted])

    def begin(self) -> None:
        """Be told of what fails from here on."""
        self._anchor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def write(self, pieces: list[bytes]) -> None:
        """Take the bytes that follow."""
        for piece in pieces:
            for number, part, ends in self._portions.cut(piece):
                path, length = self._wanted[number]
                if path is not None:
                    self._write(path, part)
                if ends:
                    self._stored.append(self._close(length) if path is not None else None)

    def publish(self) -> list[Stored | None]:
        """Make all of it durable."""
        # Portions without bytes may be left.
        self.write([b""])
        assert self._anchor is not None
        together = self._files.syncs_together(self._anchor, len(self._paths))
        self._files.sync_together(self._anchor if together else None, [path + PART for path in self._paths], [])
        for path in self._paths:
            self._files.rename(path + PART, path)
        self._files.sync_together(self._anchor if together else None, [], list(self._folders))
        self._end()
        return self._stored

    def abandon(self) -> None:
        """Leave nothing."""
        self._end()
        for path in self._paths:
            self._files.remove(path)

    def _write(self, path: tuple[str, ...], part: bytes) -> None:
        if self._file is None:
            self._file, self._digest = self._create(path), sha256()
        self._files.write(self._file, part)
        self._digest.update(part)

    def _create(self, path: tuple[str, ...]) -> int:
        *names, name = path
        folder = self._folder(names)
        whole = os.path.join(folder, name)
        self._paths.append(whole)
        try:
            return self._files.create_named(whole + PART)
        except FileNotFoundError:
            # The folder went with the last file in it.
            self._files.make_folder(folder)
            return self._files.create_named(whole + PART)

    def _folder(self, names: list[str]) -> str:
        path = self._root
        for name in names:
            parent, path = path, os.path.join(path, name)
            if path not in self._durable and path not in self.made and path not in self._folders:
                self._files.make_folder(path)
                self._folders[parent] = None
                self.made[path] = None
        # The last one goes when its last file goes: it is never known to be there.
        self.made.pop(path, None)
        self._folders[path] = None
        return path

    def _close(self, length: int) -> Stored:
        assert self._file is not None
        file, self._file = self._file, None
        os.close(file)
        return Stored(length, self._digest.hexdigest())

    def _end(self) -> None:
        for file in (self._file, self._anchor):
            if file is not None:
                with suppress(OSError):
                    os.close(file)
        self._file = self._anchor = None

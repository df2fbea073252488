"""File systems for one test: a small one in memory, and one in an image that can be copied while it is in use."""

from __future__ import annotations

import subprocess
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase


def run(*command: str | Path) -> None:
    """Run a command, which must succeed."""
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


def mounted(test: SynchronousTestCase, *arguments: str | Path) -> Path:
    """Mount something, for one test; return where."""
    place = Path(test.mktemp()).resolve()
    place.mkdir()
    run("mount", *arguments, place)
    test.addCleanup(run, "umount", "--lazy", place)
    return place


def small_disk(test: SynchronousTestCase, size: int) -> Path:
    """Return a folder on a file system of so many bytes."""
    return mounted(test, "-t", "tmpfs", "-o", f"size={size}", "tmpfs")


def image(test: SynchronousTestCase, size: int) -> Path:
    """Return an image of so many bytes with an empty ext4 in it."""
    path = Path(test.mktemp()).resolve()
    with open(path, "wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-F", path)
    return path


def mount_image(test: SynchronousTestCase, path: Path) -> Path:
    """Mount an image; return where."""
    return mounted(test, "-o", "loop", path)


def fill_up(folder: Path) -> Path:
    """Take every byte that is left on a folder's file system; return the file that has them."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return ballast

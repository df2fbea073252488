"""What the operating system says of files, as errors of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from soledad.errors import BlobNotFound, StorageFailed, StorageFull
from soledad.server.interfaces import Place

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def storage_errors(place: Place | None = None, where: str = "blobs") -> Iterator[None]:
    """
    Turn what the operating system says into errors of ours; a missing file into `BlobNotFound` of ``place``.

    :param where: what there is no room for, when there is none.
    """
    try:
        yield
    except FileNotFoundError as error:
        if place is not None:
            raise BlobNotFound(place.blob_id, place.namespace) from error
        raise StorageFailed(str(error)) from error
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull(where) from error
        raise StorageFailed(str(error)) from error

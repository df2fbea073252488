"""
Many blobs of one namespace at a time: one reservation, one transaction.

Rules are those of single blobs, applied in the order of the batch.  All places of a batch have the same upload.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, insert

from soledad.errors import BlobExists, BlobNotFound, QuotaExceeded, StorageError, StorageFailed
from soledad.model.blob import BlobInfo
from soledad.model.ids import BlobId, Namespace, UserId
from soledad.server.interfaces import Place, Stored
from soledad.server.rows import (
    advance,
    end_expired,
    give_back,
    groups,
    info_of,
    live_rows,
    place_of,
    set_aside_for,
    user_row,
)
from soledad.server.schema import blobs, reservations


def reserve_batch(
    connection: Connection,
    user: UserId,
    namespace: Namespace,
    upload: str,
    wanted: Sequence[tuple[BlobId, int]],
    owner: str,
    default: int | None,
    now: int,
) -> list[StorageError | None]:
    """
    Set room aside for those of ``wanted`` (ids and bytes) that may be stored; return why not for each other.

    :param default: the quota of users who have none of their own.
    """
    row = user_row(connection, user, writes=True)
    end_expired(connection, user, now)
    quota = default if row.quota is None else row.quota
    available = None if quota is None else max(0, quota - row.used - set_aside_for(connection, user))
    taken: set[BlobId] = set(live_rows(connection, user, namespace, [blob_id for blob_id, _ in wanted]))
    outcomes: list[StorageError | None] = []
    total = 0
    for blob_id, size in wanted:
        refusal: StorageError | None = None
        if blob_id in taken:
            refusal = BlobExists(blob_id, namespace)
        elif available is not None and size > available - total:
            refusal = QuotaExceeded(size, available - total)
        else:
            taken.add(blob_id)
            total += size
        outcomes.append(refusal)
    if None in outcomes:
        connection.execute(insert(reservations).values(user_id=user, upload=upload, owner=owner, size=total))
    return outcomes


def commit_batch(connection: Connection, batch: Sequence[tuple[Place, Stored]], date: int) -> set[Place]:
    """
    Make the blobs exist, whose bytes are durable already; return those whose ids were taken meanwhile.

    :raise StorageFailed: the reservation is gone.
    """
    first, _ = batch[0]
    user, namespace = first.user, first.namespace
    user_row(connection, user, writes=True)
    taken = set(live_rows(connection, user, namespace, [place.blob_id for place, _ in batch]))
    if not give_back(connection, first):
        # Other processes took this one for dead, and the room may be another's by now.
        raise StorageFailed("the reservation is gone")
    new = [(place, stored) for place, stored in batch if place.blob_id not in taken]
    if new:
        _insert(connection, user, namespace, new, date)
    return {place for place, _ in batch if place.blob_id in taken}


def _insert(
    connection: Connection, user: UserId, namespace: Namespace, new: Sequence[tuple[Place, Stored]], date: int
) -> None:
    last = advance(connection, user, sum(stored.length for _, stored in new), len(new))
    before: dict[str, bytes | None] = {}
    for group in groups([place.blob_id for place, _ in new]):
        # The tombstones of earlier blobs stay with those that take their place.
        among = (blobs.c.user_id == user, blobs.c.namespace == namespace, blobs.c.blob_id.in_(group))
        removed = connection.execute(delete(blobs).where(*among).returning(blobs.c.blob_id, blobs.c.tombstone))
        before.update({row.blob_id: row.tombstone for row in removed})
    rows = [
        {
            "user_id": user,
            "namespace": namespace,
            "blob_id": place.blob_id,
            "upload": place.upload,
            "length": stored.length,
            "etag": stored.etag,
            "flags": 0,
            "stored": number,
            "changed": number,
            "date": date,
            "deleted": False,
            "tombstone": before.get(place.blob_id),
        }
        for number, (place, stored) in enumerate(new, last - len(new) + 1)
    ]
    connection.execute(insert(blobs), rows)


def find_batch(
    connection: Connection, user: UserId, namespace: Namespace, blob_ids: Sequence[BlobId], now: int
) -> list[tuple[BlobInfo, Place] | BlobNotFound]:
    """Return what there is of each blob, or that it is not there."""
    rows = live_rows(connection, user, namespace, blob_ids)
    return [
        BlobNotFound(blob_id, namespace) if (row := rows.get(blob_id)) is None else (info_of(row, now), place_of(row))
        for blob_id in blob_ids
    ]

"""
The tables of the two databases, as numbered migrations.

A migration that was released is never changed; a new one is added.  Source: docs/spec/store.rst.
"""

from __future__ import annotations

#: Bytes of a page.  docs/spec/store.rst, "Databases".
DOCUMENTS_PAGE, BLOBS_PAGE = 4096, 16384
#: KiB of pages that the writer of the documents keeps: ids and names of records are random, and each write finds the
#: pages of all of them.
DOCUMENTS_CACHE = 16384

_META = "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID"

DOCUMENTS = (
    f"""
    {_META};
    CREATE TABLE document (
        id INTEGER PRIMARY KEY,
        doc_id TEXT NOT NULL UNIQUE,
        rev TEXT NOT NULL,
        content TEXT,                           -- JSON; NULL: a tombstone
        attachments TEXT                        -- JSON: name -> pointer; NULL: none
    );
    CREATE TABLE transaction_log (
        generation INTEGER PRIMARY KEY AUTOINCREMENT,
        doc_id TEXT NOT NULL,
        transaction_id TEXT NOT NULL
    );
    CREATE TABLE blob_refs (                    -- which revision refers to which blob
        doc_id TEXT NOT NULL,
        rev TEXT NOT NULL,
        namespace TEXT NOT NULL,
        blob_id TEXT NOT NULL,
        PRIMARY KEY (doc_id, rev, namespace, blob_id)
    ) WITHOUT ROWID;
    CREATE INDEX blob_refs_by_blob ON blob_refs (namespace, blob_id);
    """,
    """
    CREATE TABLE query_index (                  -- each has a table of its own: index_<id> or text_<id>
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,                     -- keys, text
        name TEXT NOT NULL,
        definition TEXT NOT NULL,               -- JSON: a list of expressions
        UNIQUE (kind, name)
    );
    """,
    """
    CREATE TABLE alternative (                  -- the versions of documents in conflict, beside the current ones
        id INTEGER PRIMARY KEY,
        doc_id TEXT NOT NULL,
        rev TEXT NOT NULL,
        content TEXT,                           -- as in document
        attachments TEXT
    );
    CREATE INDEX alternative_by_document ON alternative (doc_id, rev);
    """,
    """
    CREATE TABLE sync_standing (                -- how far this device is with its server
        id INTEGER PRIMARY KEY CHECK (id = 1),
        server TEXT NOT NULL,                   -- URL
        account BLOB NOT NULL,                  -- which account keys names are made with
        cursor TEXT NOT NULL,
        head TEXT,                              -- tag of the head that was accepted
        digest BLOB NOT NULL,                   -- of sync_record
        checkpoint BLOB NOT NULL,               -- the last that was accepted, opened
        count INTEGER NOT NULL,                 -- own commits
        restarting INTEGER NOT NULL
    );
    CREATE TABLE sync_history (                 -- what each server was when it was met last
        server TEXT PRIMARY KEY,
        history TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE sync_record (                  -- what the server has, as far as this device was told
        name BLOB PRIMARY KEY,
        hash BLOB,                              -- SHA-256 of the record; NULL: it has lost it
        doc_id TEXT,                            -- NULL: none was good
        revs TEXT NOT NULL DEFAULT '',          -- in the last good record: the current one, and alternatives
        own INTEGER NOT NULL DEFAULT 0          -- the greatest count of this replica that the server ever had
    ) WITHOUT ROWID;
    CREATE TABLE sync_outgoing (                -- documents that the server has not got as they are here
        doc_id TEXT PRIMARY KEY,
        generation INTEGER NOT NULL             -- of the latest change
    ) WITHOUT ROWID;
    CREATE TABLE sync_push (                    -- the push of which is not known whether it arrived
        id INTEGER PRIMARY KEY CHECK (id = 1),
        count INTEGER NOT NULL,
        commit_id TEXT NOT NULL,
        follows TEXT,
        tag TEXT NOT NULL,
        digest BLOB NOT NULL,
        checkpoint BLOB NOT NULL,
        push BLOB NOT NULL,                     -- as it is sent
        incident INTEGER NOT NULL               -- up to which its checkpoint tells them
    );
    CREATE TABLE sync_sent (                    -- its records
        name BLOB PRIMARY KEY,
        hash BLOB NOT NULL,
        doc_id TEXT NOT NULL,
        revs TEXT NOT NULL,
        generation INTEGER NOT NULL,
        own INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE sync_problem (                 -- records that are set aside, and documents that cannot be sent
        name BLOB PRIMARY KEY,
        reason TEXT NOT NULL,
        doc_id TEXT,
        hash BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE sync_incident (                -- what was found, here and by other devices
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind INTEGER NOT NULL,
        time INTEGER NOT NULL,
        device TEXT NOT NULL,
        evidence TEXT NOT NULL,
        name BLOB,
        doc_id TEXT,
        told INTEGER NOT NULL,                  -- whether a checkpoint on the server has it
        UNIQUE (kind, device, evidence)
    );
    """,
    """
    CREATE TABLE dropped_ref (                  -- blobs that a version written here refers to no more
        namespace TEXT NOT NULL,
        blob_id TEXT NOT NULL,
        PRIMARY KEY (namespace, blob_id)
    ) WITHOUT ROWID;
    """,
)

BLOBS = (
    f"""
    {_META};
    CREATE TABLE blob (
        id INTEGER PRIMARY KEY,
        namespace TEXT NOT NULL,
        blob_id TEXT NOT NULL,
        status TEXT NOT NULL,
        priority INTEGER NOT NULL,
        length INTEGER NOT NULL,                -- bytes of data
        size INTEGER NOT NULL,                  -- bytes of the container
        header BLOB,                            -- of the container, as far as it is known
        commitment BLOB NOT NULL,
        file TEXT UNIQUE,                       -- its name, if the container is a file
        progress INTEGER NOT NULL DEFAULT 0,    -- bytes of the transfer under way
        attempts INTEGER NOT NULL DEFAULT 0,
        retry_at REAL,
        reason TEXT,                            -- of the last failure
        condemned REAL,                         -- seconds of the grace period that are over; NULL: not condemned
        UNIQUE (namespace, blob_id)
    );
    CREATE INDEX blob_by_status ON blob (status, priority DESC, id);
    CREATE INDEX blob_condemned ON blob (condemned) WHERE condemned IS NOT NULL;
    -- Apart from the row, which changes often: an UPDATE would write the bytes again.
    CREATE TABLE container (
        id INTEGER PRIMARY KEY REFERENCES blob (id) ON DELETE CASCADE,
        bytes BLOB NOT NULL
    );
    """,
    """
    -- ``length`` is -1 and ``commitment`` empty in the row of a blob that only a list has told of.
    -- ``retry_at`` is when a transfer that was asked for is to be tried; NULL: nobody asked.
    ALTER TABLE blob ADD COLUMN etag TEXT;      -- of the container on the server, as far as it is known
    ALTER TABLE blob ADD COLUMN upload TEXT;    -- the name of an upload that the server keeps
    ALTER TABLE blob ADD COLUMN partial TEXT;   -- the name of the file with what has come so far
    ALTER TABLE blob ADD COLUMN rejections INTEGER NOT NULL DEFAULT 0;  -- times that it failed verification
    ALTER TABLE blob ADD COLUMN replaces BLOB;  -- the commitment of what has to be deleted on the server first
    ALTER TABLE blob ADD COLUMN evicted INTEGER NOT NULL DEFAULT 0;     -- it is not to come back by itself
    ALTER TABLE blob ADD COLUMN seen INTEGER NOT NULL DEFAULT 1;        -- in the full comparison under way
    CREATE INDEX blob_queue ON blob (priority DESC, id) WHERE retry_at IS NOT NULL;
    CREATE TABLE listing (                      -- how far this device knows what changed on the server
        namespace TEXT PRIMARY KEY,
        head TEXT NOT NULL                      -- what to go on from
    ) WITHOUT ROWID;
    CREATE TABLE buried (                       -- what was deleted under ids that may be used again
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL,
        blob_id TEXT NOT NULL,
        commitment BLOB NOT NULL,
        UNIQUE (namespace, blob_id, commitment)
    );
    """,
    """
    ALTER TABLE blob ADD COLUMN ours INTEGER NOT NULL DEFAULT 0;    -- 1: this device deletes it on the server
    ALTER TABLE blob ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;  -- 1: its bytes stay here
    ALTER TABLE blob ADD COLUMN used INTEGER NOT NULL DEFAULT 0;    -- greater: used later
    CREATE INDEX blob_kept ON blob (namespace, status, pinned, used, size);
    -- What the server has lost, and gets from here again, is this device's affair from then on.
    CREATE TRIGGER blob_missed AFTER UPDATE OF status ON blob
    WHEN OLD.status = 'SYNCED' AND NEW.status = 'PENDING_UPLOAD'
    BEGIN
        UPDATE blob SET ours = 1 WHERE id = NEW.id;
    END;
    """,
    """
    -- What a sync makes wanted: whether there is any is asked at each.
    CREATE INDEX blob_absent ON blob (namespace) WHERE status = 'REMOTE' AND evicted = 0;
    """,
)

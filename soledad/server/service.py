"""
What reads the settings and builds the parts.

Here alone it is decided which implementations a server has.
"""

from __future__ import annotations

from typing import Any

from soledad.server.accounts import Accounts
from soledad.server.auth import Authenticator
from soledad.server.blobs import MAX_BLOB, BlobsArea
from soledad.server.http import Root
from soledad.server.interfaces import IBlobsBackend
from soledad.server.streaming import StreamingSite
from soledad.streams import Budget


def make_root(backend: IBlobsBackend, accounts: Accounts, max_blob: int = MAX_BLOB) -> Root:
    """Return the resource of a whole server."""
    return Root(Authenticator(accounts), {"blobs": BlobsArea(backend, max_blob)})


def make_site(root: Root, reactor: Any, budget: Budget) -> StreamingSite:
    """Return what listens: it streams bodies, and has the limits for slow clients."""
    return StreamingSite(root, reactor, budget)

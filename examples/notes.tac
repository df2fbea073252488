"""In this folder: ``SOLEDAD_PASSPHRASE=... [SERVER_URL=... SOLEDAD_TOKEN=...] twistd --nodaemon --python notes.tac``."""

import os
from pathlib import Path

from notes import NotesService
from twisted.application.service import Application

application = Application("notes")
NotesService(
    "alice",
    os.environ["SOLEDAD_PASSPHRASE"],
    Path("alice-store"),
    os.environ.get("SERVER_URL"),
    os.environ.get("SOLEDAD_TOKEN"),
).setServiceParent(application)

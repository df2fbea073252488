"""In this folder: ``SOLEDAD_PASSPHRASE=... twistd --nodaemon --python notes.tac``."""

import os
from pathlib import Path

from notes import NotesService
from twisted.application.service import Application

application = Application("notes")
NotesService("alice", os.environ["SOLEDAD_PASSPHRASE"], Path("alice-store")).setServiceParent(application)

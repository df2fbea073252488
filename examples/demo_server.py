"""A real server for the demonstration: the commands that an operator types, run as processes of their own."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.utils import getProcessOutputAndValue
from twisted.python.failure import Failure

#: Where the commands are: those of the Python that runs this.
SCRIPTS = Path(sysconfig.get_path("scripts"))
#: Seconds that a server gets to begin, and to end.
PATIENCE = 20.0


class CommandFailed(Exception):
    """A command of the server's did not do what it is for."""


async def soledad_server(folder: Path, *arguments: str) -> str:
    """
    Run ``soledad-server`` on a data folder; return what it printed.

    :raise CommandFailed: with what it said, if its exit status is not 0.
    """
    command = str(SCRIPTS / "soledad-server")
    out, err, status = await getProcessOutputAndValue(command, ["--data-dir", str(folder), *arguments], os.environ)
    if status:
        raise CommandFailed((err or out).decode(errors="replace").strip())
    printed: str = out.decode().strip()
    return printed


class ServerProcess(ProcessProtocol):
    """
    ``twist soledad``, listening on a free port of the loopback interface.

    Which port it is, the server's log tells: an event with named fields, as a line of JSON.
    """

    def __init__(self, reactor: Any, folder: Path) -> None:
        self._reactor = reactor
        self._folder = folder
        self._port = 0
        self._begin()

    def _begin(self) -> None:
        """Nothing was heard of the process yet."""
        self._listening: Deferred[str] = Deferred()
        self._ended: Deferred[None] = Deferred()
        self._line = b""
        self._errors = b""

    async def start(self) -> str:
        """
        Start the process, at the port that it had before; return the server's URL once it listens.

        :raise CommandFailed: it ended instead.
        """
        self._begin()
        options = ["--data-dir", str(self._folder), "--users", f"tcp:{self._port}:interface=127.0.0.1"]
        command = [str(SCRIPTS / "twist"), "--log-format", "json", "soledad", *options]
        self._reactor.spawnProcess(self, command[0], command, os.environ)
        return await self._listening.addTimeout(PATIENCE, self._reactor, _too_late)

    @property
    def pid(self) -> int:
        """The number of the process."""
        pid: int = self._process.pid
        return pid

    async def stop(self) -> None:
        """End the process, if it runs, and wait until it is gone."""
        if self.transport is None or self._ended.called:
            return
        self._signal("TERM")
        insist = self._reactor.callLater(PATIENCE, self._signal, "KILL")
        await self._ended
        if insist.active():
            insist.cancel()

    def outReceived(self, data: bytes) -> None:
        """Look into the log."""
        *lines, self._line = (self._line + data).split(b"\n")
        for event in map(_event_of, lines):
            if event.get("log_namespace") == "soledad.server.service" and "port" in event:
                self._port = event["port"]
                self._listen(f"http://{event['host']}:{self._port}")

    def errReceived(self, data: bytes) -> None:
        """Keep what it complains of."""
        self._errors = (self._errors + data)[-4096:]

    def processEnded(self, reason: Failure) -> None:
        """Tell whoever waits."""
        if not self._listening.called:
            said = self._errors.decode(errors="replace").strip() or reason.getErrorMessage()
            self._listening.errback(Failure(CommandFailed(f"the server did not start: {said}")))
        # Last: whoever waited may start it again at once.
        self._ended.callback(None)

    def _listen(self, url: str) -> None:
        if not self._listening.called:
            self._listening.callback(url)

    def _signal(self, name: str) -> None:
        try:
            self._process.signalProcess(name)
        except ProcessExitedAlready:
            return

    @property
    def _process(self) -> Any:
        return self.transport


def _event_of(line: bytes) -> Mapping[str, Any]:
    """Return an event of a log of Twisted's in JSON, which begins with a record separator; empty if it is none."""
    try:
        event = json.loads(line.lstrip(b"\x1e"))
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _too_late(_: object, seconds: float) -> NoReturn:
    raise CommandFailed(f"the server did not listen within {seconds:g} seconds")

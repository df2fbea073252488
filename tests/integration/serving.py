"""``twist soledad`` as a process of its own, which can be killed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

reactor = cast("Any", global_reactor)

CHECKOUT = Path(__file__).resolve().parents[2]
_SERVING = re.compile(rb"Serving users at 127\.0\.0\.1 port (\d+)")


def environment() -> dict[str, str]:
    """Return the environment in which a child finds soledad, and its plugin."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


class ServerProcess(ProcessProtocol):
    """A server that runs; its port is its own choice."""

    transport: Any

    def __init__(self) -> None:
        self.ready: Deferred[int] = Deferred()
        self.ended: Deferred[None] = Deferred()
        self.port = 0
        self._log = b""

    @classmethod
    async def start(cls, test: TestCase, folder: Path) -> ServerProcess:
        """Serve a folder until the test ends, or `kill`."""
        server = cls()
        endpoint = "tcp:0:interface=127.0.0.1"
        arguments = [sys.executable, "-m", "twisted", "--log-format=text", "soledad"]
        arguments += ["--data-dir", str(folder), "--users", endpoint]
        reactor.spawnProcess(server, sys.executable, arguments, env=environment())
        test.addCleanup(server.stop)
        server.port = await server.ready
        return server

    @property
    def url(self) -> str:
        """What devices are told."""
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """End it as an operator does."""
        await self._signal("TERM")

    async def kill(self) -> None:
        """End it at once."""
        await self._signal("KILL")

    async def _signal(self, name: str) -> None:
        try:
            self.transport.signalProcess(name)
        except ProcessExitedAlready:
            return
        await self.ended

    def outReceived(self, data: bytes) -> None:
        """Look for the port in the log."""
        self._log += data
        found = _SERVING.search(self._log)
        if found is not None and not self.ready.called:
            self.ready.callback(int(found[1]))

    def errReceived(self, data: bytes) -> None:
        """See `ProcessProtocol`."""
        self.outReceived(data)

    def processEnded(self, reason: Failure) -> None:
        """See `ProcessProtocol`."""
        if not self.ready.called:
            self.ready.errback(RuntimeError(self._log.decode(errors="replace")))
        self.ended.callback(None)

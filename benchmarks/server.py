"""
A server in a process of its own: ``python -m benchmarks.server FOLDER``.

It prints its port and a token, then answers each line of its input, the name of a `Probe`'s method, with a line of
JSON.  It ends with its input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from typing import Any

from attrs import define, field
from twisted.internet import stdio, task
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure

from benchmarks.probes import Lateness, Probe
from soledad.deferreds import deferred
from soledad.model.ids import UserId
from soledad.server import cli
from soledad.server.service import Options, ServerService, makeService

USER = UserId("bench")


class Control(LineReceiver):
    """Answers the process that started this one."""

    delimiter = b"\n"

    def __init__(self, probe: Probe) -> None:
        self.ended: Deferred[None] = Deferred()
        self._probe = probe

    def tell(self, what: object) -> None:
        """Send one answer."""
        self.sendLine(json.dumps(what).encode("ascii"))

    def lineReceived(self, line: bytes) -> None:
        """Do what is asked."""
        self.tell(getattr(self._probe, line.decode("ascii"))())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nobody asks any more."""
        self.ended.callback(None)


@deferred
async def main(reactor: Any, folder: str) -> None:
    """Serve until nobody asks any more."""
    token = StringIO()
    cli.main(["--data-dir", folder, "user", "add", USER], token)
    options = Options()
    options.parseOptions(["--data-dir", folder, "--users", "tcp:0:interface=127.0.0.1"])
    service = makeService(options)
    assert isinstance(service, ServerService)
    service.startService()
    control = Control(Probe(Lateness(reactor)))
    stdio.StandardIO(control)
    address: Any = service.ports[0].getHost()
    control.tell({"port": address.port, "token": token.getvalue().strip()})
    await control.ended
    await service.stopService()


@define(eq=False)
class ServerProcess:
    """The other end: the server as the process sees it that started it.  Asking blocks."""

    url: str
    token: str
    _process: subprocess.Popen[str] = field(repr=False)

    @classmethod
    def start(cls, folder: str) -> ServerProcess:
        """Start a server on a folder that has none yet."""
        command = [sys.executable, "-m", "benchmarks.server", folder]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        return cls(f"http://127.0.0.1:{told['port']}", told["token"], process)

    def ask(self, question: str) -> Any:
        """Call a method of the server's `Probe`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(question + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def stop(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


if __name__ == "__main__":
    task.react(main, sys.argv[1:])

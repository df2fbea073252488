"""The OpenAPI file against a real server: whatever is asked, the answer is one that the file tells."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from base64 import b64encode
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase

from soledad.deferreds import deferred
from soledad.server.http import JSON
from soledad.wire.routes import authorization
from soledad.wire.status import TABLE
from tests.integration.test_server import USER, ServerProcess, ServerTestCase
from tests.limits import examples, seconds
from tests.server.support import headers, status

CHECKOUT = Path(__file__).resolve().parents[2]
FILE = CHECKOUT / "docs" / "openapi.yaml"
#: What must hold of each answer.  What is left out calls conditions that do not hold (412) a mistake.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
    "unsupported_method",
    "allow_header_conformance",
)


@cache
def described() -> dict[str, Any]:
    """Return the file."""
    value: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    return value


def narrowed() -> dict[str, Any]:
    """Return the file with few names, so that requests are about the same things."""
    api = deepcopy(described())
    api["components"]["parameters"]["uuid"]["schema"] = {"const": USER}
    api["components"]["parameters"]["blob_id"]["schema"] = {"enum": ["a", "b", "c"]}
    metadata = [f"blob_id {b64encode(name).decode()}" for name in (b"upload", b"a", b"../x")]
    narrow = {
        "Upload-Metadata": {"enum": metadata},
        "Upload-Length": {"type": "integer", "minimum": 900, "maximum": 1000},
    }
    narrow |= {
        "since": {"const": "1.0123456789abcdef"},
        "after": {"const": "f" * 64},
        "records": {"const": "0" * 64},
    }
    sync, uploads = api["paths"]["/sync/{uuid}"], api["paths"]["/uploads/{uuid}"]
    # What answers `GET` answers `HEAD`, and pages have many arguments.
    sync["head"]["parameters"] = []
    for parameter in (*sync["get"]["parameters"], *uploads["post"]["parameters"]):
        if parameter.get("name") in narrow:
            parameter["schema"] = narrow[parameter["name"]]
    # A stream of events does not end: here they are another user's, and refused; `EventTests` has one.
    stranger = {"name": "uuid", "in": "path", "required": True, "schema": {"const": "bob"}}
    api["paths"]["/events/{uuid}"]["parameters"] = [stranger]
    return api


def operations() -> Iterator[dict[str, Any]]:
    """Give the operations of the file."""
    for path in described()["paths"].values():
        for method, operation in path.items():
            if method != "parameters":
                yield operation


def codes(response: dict[str, Any]) -> list[str]:
    """Return the codes of errors that a response of the file may have."""
    kind, _, name = response.get("$ref", "").rpartition("/")
    if kind:
        response = described()["components"]["responses"][name]
    schema = response.get("content", {}).get(JSON, {}).get("schema", {})
    told: list[str] = schema.get("properties", {}).get("error", {}).get("enum", [])
    return told


class FileTests(SynchronousTestCase):
    """What the file has."""

    def test_every_error(self) -> None:
        """Each error that the server has a name for is told of some request, and no other."""
        told = {
            (int(status), code)
            for operation in operations()
            for status, response in operation["responses"].items()
            for code in codes(response)
        }
        # No operation of the file is refused as one that is not offered.
        self.assertEqual({(entry.status, entry.code) for entry in TABLE} - told, {(405, "method_not_allowed")})
        self.assertEqual(told - {(entry.status, entry.code) for entry in TABLE}, set())

    def test_fields(self) -> None:
        """Each member that an error has is described."""
        members = {name for entry in TABLE for name, _ in entry.fields} | {"error", "detail"}
        self.assertEqual(set(described()["components"]["schemas"]["Error"]["properties"]), members)

    def test_offers(self) -> None:
        """What a server says that it offers are the paths that there are."""
        greeting = described()["paths"]["/"]["get"]["responses"]["200"]["content"][JSON]["schema"]
        paths = {path.split("/")[1] for path in described()["paths"]} - {""}
        self.assertEqual(set(greeting["properties"]["offers"]["items"]["enum"]), paths)
        self.assertEqual({operation["tags"][0] for operation in operations()} - {"server"}, paths)


class EventTests(ServerTestCase):
    """The one answer that does not end."""

    @deferred
    async def test_stream(self) -> None:
        """It begins as the file tells, and its first event has what the file says that an event has."""
        process = ServerProcess(self.folder)
        self.addCleanup(process.end)
        answer = await deferToThread(self.begin, await process.port)
        self.assertEqual(status(answer), 200)
        told = described()["paths"]["/events/{uuid}"]["get"]["responses"]["200"]
        self.assertEqual([headers(answer)["content-type"]], list(told["content"]))
        self.assertEqual(headers(answer)["cache-control"], told["headers"]["Cache-Control"]["schema"]["const"])
        (data,) = re.findall(rb"^event: heads\ndata: (.*)$", answer, re.MULTILINE)
        schema = described()["components"]["schemas"]["Heads"]
        self.assertEqual(set(json.loads(data)), set(schema["required"]))
        self.assertEqual(set(schema["properties"]), set(schema["required"]))

    def begin(self, port: int) -> bytes:
        """Read up to the end of the first event.  Blocks."""
        with socket.create_connection(("127.0.0.1", port), timeout=seconds(20)) as connection:
            connection.sendall(self.head(f"GET /events/{USER}"))
            answer = b""
            while b"\n\n" not in answer and (piece := connection.recv(65536)):
                answer += piece
        return answer


class ConformanceTests(ServerTestCase):
    """Requests made up from the file, good ones and bad ones, the same each time."""

    timeout = seconds(120)

    @deferred
    async def test_conformance(self) -> None:
        """No answer is another than the file tells."""
        process = ServerProcess(self.folder)
        self.addCleanup(process.end)
        port = await process.port
        folder = self.prepare()
        arguments = [
            *("-m", "schemathesis.cli", "run", str(folder / "openapi.yaml"), "--url", f"http://127.0.0.1:{port}"),
            *("-H", f"Authorization: {authorization(USER, self.token)}", "--phases", "coverage,fuzzing"),
            *("--checks", ",".join(CHECKS), "--max-examples", str(examples(8)), "--seed", "1", "--no-shrink"),
            *("--request-timeout", "10", "--warnings", "off", "--no-color"),
        ]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")]),
            "SCHEMATHESIS_HOOKS": "tests.openapi_hooks",
        }
        out, err, code = await getProcessOutputAndValue(sys.executable, arguments, environment, str(folder), reactor)
        self.assertEqual(code, 0, (out + err).decode(errors="replace")[-6000:])
        self.assertEqual(self.missed(process._output), set())

    def prepare(self) -> Path:
        """Make a folder that has the file; examples will be left there."""
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "openapi.yaml").write_text(yaml.safe_dump(narrowed()), "utf-8")
        return folder

    def missed(self, log: bytes) -> set[tuple[str, str, int]]:
        """Return what requests should have brought about at least once, and have not."""
        lines = re.findall(rb"([A-Z]+) /(blobs|stream|uploads|sync|keys|events)(?:/\S*)? (\d{3}) \d+", log)
        answered = {(method.decode(), area.decode(), int(code)) for method, area, code in lines}
        wanted = {
            *(("PUT", "blobs", code) for code in (201, 400, 409)),
            *(("GET", "blobs", code) for code in (200, 400, 404)),
            *(("POST", "blobs", code) for code in (204, 422)),
            *(("DELETE", "blobs", code) for code in (204, 404)),
            *(("POST", "stream", code) for code in (200, 400)),
            *(("POST", "uploads", code) for code in (201, 400)),
            *(("PATCH", "uploads", code) for code in (404, 415)),
            ("OPTIONS", "uploads", 204),
            *(("GET", "sync", code) for code in (200, 400, 410, 412)),
            *(("POST", "sync", code) for code in (204, 400, 412)),
            *(("GET", "keys", code) for code in (200, 304)),
            *(("PUT", "keys", code) for code in (201, 204, 400, 412)),
            ("GET", "events", 403),
        }
        return wanted - answered

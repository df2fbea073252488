"""The OpenAPI file against a real server: whatever is asked, the answer is one that the file tells."""

from __future__ import annotations

import os
import re
import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import yaml
from twisted.internet import reactor
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase

from soledad.deferreds import deferred
from soledad.wire.routes import authorization
from soledad.wire.status import TABLE
from tests.integration.test_server import USER, ServerProcess, ServerTestCase
from tests.limits import examples, seconds

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


def described() -> dict[str, Any]:
    """Return the file."""
    value: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
    return value


def narrowed() -> dict[str, Any]:
    """Return the file with few names, so that requests are about the same things."""
    api = described()
    api["components"]["parameters"]["uuid"]["schema"] = {"const": USER}
    api["components"]["parameters"]["blob_id"]["schema"] = {"enum": ["a", "b", "c"]}
    metadata = [f"blob_id {b64encode(name).decode()}" for name in (b"upload", b"a", b"../x")]
    narrow = {
        "Upload-Metadata": {"enum": metadata},
        "Upload-Length": {"type": "integer", "minimum": 900, "maximum": 1000},
    }
    for parameter in api["paths"]["/uploads/{uuid}"]["post"]["parameters"]:
        if parameter.get("name") in narrow:
            parameter["schema"] = narrow[parameter["name"]]
    return api


class FileTests(SynchronousTestCase):
    """What the file has."""

    def test_every_error(self) -> None:
        """Each status that an error has is told of some request."""
        operations = [operation for path in described()["paths"].values() for operation in path.values()]
        told = {int(code) for one in operations if isinstance(one, dict) for code in one["responses"]}
        # No operation of the file is refused as one that is not offered.
        self.assertEqual({entry.status for entry in TABLE} - told, {405})


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
            *("--warnings", "off", "--no-color"),
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
        lines = re.findall(rb"([A-Z]+) /(blobs|stream|uploads)(?:/\S*)? (\d{3}) \d+", log)
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
        }
        return wanted - answered

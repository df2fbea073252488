"""
The picture of what imports what, kept true.

``client -> crypto -> wire -> model -> errors`` and ``server -> wire``: that the server cannot read what it
keeps is visible here.  Imports are read from the source, those under ``TYPE_CHECKING`` and inside of
functions too, so nothing needs to be installed or run.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parent.parent

BASE = {"errors", "model"}
BRIDGE = {"deferreds", "streams", "writeback"}

#: For each part of soledad, the other parts that it may import; ``testing`` may import all.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "model": {"errors"},
    "wire": BASE,
    "crypto": BASE | {"wire"},
    "deferreds": BASE,
    "writeback": set(),
    "streams": BASE | {"deferreds"},
    "client": BASE | BRIDGE | {"wire", "crypto"},
    "server": BASE | BRIDGE | {"wire"},
    "testing": BASE | BRIDGE | {"wire", "crypto", "client", "server"},
    "": {"client", "errors", "model"},
}

#: For each distribution or part that only a few may use, those few.  What chooses the parts stands here too:
#: everything else is handed them.
ONLY_FOR: dict[str, set[str]] = {
    "sqlcipher3": {"soledad.client.local"},
    "treq": {"soledad.client.remote", "soledad.testing"},
    "sqlalchemy": {
        "soledad.server.accounts",
        "soledad.server.batches",
        "soledad.server.claims",
        "soledad.server.database",
        "soledad.server.heads",
        "soledad.server.index",
        "soledad.server.keyrings",
        "soledad.server.pending",
        "soledad.server.repairs",
        "soledad.server.rows",
        "soledad.server.records",
        "soledad.server.schema",
    },
    "platformdirs": {"soledad.client.api"},
    "soledad.client.local": {"soledad.client.local", "soledad.client.api", "soledad.testing"},
    "soledad.client.remote": {"soledad.client.remote", "soledad.client.api", "soledad.testing"},
    "soledad.server.backends": {
        "soledad.server.backends",
        "soledad.server.service",
        "soledad.server.cli",
        "soledad.testing",
    },
}

#: What would bring the reactor, files, the clock or chance into the parts that are plain functions of bytes.
IMPURE = {
    "asyncio",
    "glob",
    "io",
    "mmap",
    "os",
    "pathlib",
    "random",
    "secrets",
    "selectors",
    "shutil",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "time",
    "treq",
    "twisted",
}
PURE = {"errors", "model", "wire", "crypto"}


def is_in(module: str, packages: set[str]) -> bool:
    """Return whether ``module`` is one of ``packages`` or inside of one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def part_of(module: str) -> str:
    """Return the first name below ``soledad``, empty for the package itself."""
    return module.removeprefix("soledad").lstrip(".").partition(".")[0]


def modules() -> Iterator[tuple[str, Path]]:
    """Give each module of soledad: its full name, and where it is."""
    for path in sorted((CHECKOUT / "soledad").rglob("*.py")):
        names = path.relative_to(CHECKOUT).with_suffix("").parts
        yield ".".join(names[:-1] if names[-1] == "__init__" else names), path


def imported(source: str) -> Iterator[str]:
    """
    Give the full name of everything that ``source`` imports.

    Of ``from a import b`` that is ``a.b``: whether ``b`` is a module or a name in one does not matter here.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def imports() -> Iterator[tuple[str, str]]:
    """Give each import of soledad: the module that has it, and the full name of what it imports."""
    for module, path in modules():
        for name in imported(path.read_text("utf-8")):
            yield module, name


class ReadingTests(SynchronousTestCase):
    """That the source is read as it is meant: else every other test here passes for nothing."""

    def test_every_form(self) -> None:
        """Each way of writing an import is seen, wherever it stands."""
        source = "import a.b\nfrom c import d, e\nif x:\n from f.g import h as i\ndef j():\n  import k\nfrom . import l"
        self.assertEqual(set(imported(source)), {"a.b", "c.d", "c.e", "f.g.h", "k", "..l"})

    def test_every_module(self) -> None:
        """Packages are called by their names, and modules at any depth are found."""
        names = {module for module, _ in modules()}
        self.assertLessEqual({"soledad", "soledad.errors", "soledad.model", "soledad.model.ids"}, names)


class ShapeTests(SynchronousTestCase):
    """Each rule, over all of soledad; a failure lists what breaks it."""

    def test_absolute(self) -> None:
        """Imports give full names, which is what the other tests go by."""
        self.assertEqual([i for i in imports() if i[1].startswith(".")], [])

    def test_one_way(self) -> None:
        """A part imports only the parts below it; client and server never each other, the server never crypto."""
        wrong = [
            (module, name)
            for module, name in imports()
            if is_in(name, {"soledad"}) and part_of(name) not in MAY_IMPORT[part_of(module)] | {part_of(module)}
        ]
        self.assertEqual(wrong, [])

    def test_known_parts(self) -> None:
        """Each part has its place in the picture."""
        self.assertLessEqual({part_of(module) for module, _ in modules()}, set(MAY_IMPORT))

    def test_pure(self) -> None:
        """Values, wire and crypto know neither Twisted nor files; times and nonces are arguments."""
        wrong = [(module, name) for module, name in imports() if part_of(module) in PURE and is_in(name, IMPURE)]
        self.assertEqual(wrong, [])

    def test_one_place(self) -> None:
        """The only SQL, the only HTTP, and the only places where implementations are chosen."""
        wrong = [
            (module, name)
            for module, name in imports()
            for kept, users in ONLY_FOR.items()
            if is_in(name, {kept}) and not is_in(module, users)
        ]
        self.assertEqual(wrong, [])

    def test_nothing_but_names(self) -> None:
        """``soledad/__init__.py`` has the public names and nothing else."""
        body = ast.parse((CHECKOUT / "soledad" / "__init__.py").read_text("utf-8")).body
        self.assertEqual([node for node in body[1:] if not isinstance(node, ast.ImportFrom | ast.Assign)], [])

    def test_packages(self) -> None:
        """Each folder of soledad is a package: one without ``__init__.py`` escapes other tools."""
        folders = {path.parent for _, path in modules()}
        self.assertEqual([folder for folder in folders if not (folder / "__init__.py").exists()], [])

    def test_shared_folder(self) -> None:
        """``twisted/plugins`` is not a package here: it would hide Twisted itself, or the other plugins."""
        self.assertEqual(list((CHECKOUT / "twisted").rglob("__init__.py")), [])

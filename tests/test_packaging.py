"""
What an installed soledad must have for others to find it.

That a wheel and an editable install really have it is tried by ``make test-install``.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import entry_points, requires, version
from importlib.resources import files
from pathlib import Path

from twisted.application.service import IServiceMaker, ServiceMaker
from twisted.plugin import getPlugins
from twisted.python.reflect import namedAny
from twisted.python.usage import Options
from twisted.trial.unittest import SynchronousTestCase

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


class PackagingTests(SynchronousTestCase):
    """The metadata and files of the package that is installed."""

    def test_version(self) -> None:
        """What is installed is this checkout, in its present version."""
        self.assertEqual(version("soledad"), tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["version"])

    def test_typed(self) -> None:
        """Type checkers of those who use soledad see its types."""
        self.assertTrue(files("soledad").joinpath("py.typed").is_file())

    def test_server_is_extra(self) -> None:
        """A device installs no SQLAlchemy."""
        needed = [line for line in requires("soledad") or [] if "sqlalchemy" in line.lower()]
        self.assertTrue(needed)
        self.assertEqual([line for line in needed if "extra ==" not in line], [])

    def test_script(self) -> None:
        """``soledad-server`` is installed, and runs what exists."""
        (script,) = entry_points(group="console_scripts", name="soledad-server")
        self.assertTrue(callable(script.load()))


class PluginTests(SynchronousTestCase):
    """``twist soledad``."""

    def test_found(self) -> None:
        """Twisted finds the plugin, and what it names exists."""
        makers = [plugin for plugin in getPlugins(IServiceMaker) if plugin.tapname == "soledad"]
        self.assertTrue(makers)
        for maker in makers:
            assert isinstance(maker, ServiceMaker)
            self.assertIsInstance(maker.options(), Options)
            self.assertTrue(callable(namedAny(maker.module).makeService))

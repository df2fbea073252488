"""How Sphinx makes the documentation: ``make docs``."""

import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

project = "soledad"
author = "soledad contributors"
copyright = "2026, soledad contributors"
release = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]["version"]
version = ".".join(release.split(".")[:2])

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]

# `name` in a docstring is a name of Python's: a link where it is documented here, plain code elsewhere.
# References are therefore not checked one by one (nitpicky), and nothing is looked up on the network.
default_role = "py:obj"
add_module_names = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"soledad {release}"


def setup(app: Any) -> None:
    """Have signatures shown as callers see them."""
    app.connect("autodoc-process-signature", _as_called)


def _as_called(
    app: Any, what: str, name: str, called: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """A method whose body is a coroutine returns a Deferred; an interface has a name."""
    body = inspect.unwrap(called) if callable(called) else called
    if returned is not None and body is not called and inspect.iscoroutinefunction(body):
        returned = f"~twisted.internet.defer.Deferred[{returned}]"
    return _named(signature), _named(returned)


def _named(text: str | None) -> str | None:
    return None if text is None else re.sub(r"<InterfaceClass ([\w.]+)>", r"~\1", text)

"""How Sphinx makes the documentation: ``make docs``."""

import tomllib
from pathlib import Path

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
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = f"soledad {release}"

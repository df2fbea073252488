"""Vectors of the formats: cases that must open and cases that must not, with what makes and reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def load(name: str, kind: str) -> list[dict[str, Any]]:
    """Return the cases of one file: ``kind`` is ``open`` or ``refuse``."""
    cases: list[dict[str, Any]] = json.loads((FOLDER / name).read_text())[kind]
    return cases

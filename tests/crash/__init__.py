"""Tests on disks that fill up and lose power: they mount file systems, which needs root.  ``make test-crash``."""

"""How fast soledad is, and how little memory it takes: ``make bench``, docs/benchmarks.rst."""

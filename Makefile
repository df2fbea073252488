# Everything that is run from a clone.  Only Python 3 and make need to be there: the rest goes into .venv.
#
#     make demo FILE=picture.jpg     PYTHON=python3.11 make test     make test TESTS=tests.model

PYTHON ?= python3
VENV ?= .venv
TESTS ?= tests
FILE ?=
ARGS ?=

BIN := $(VENV)/bin
# What another environment set must not lead out of this one.
unexport PYTHONHOME PYTHONPATH VIRTUAL_ENV

.DEFAULT_GOAL := help
.PHONY: help demo test test-long test-crash test-install bench types lint format docs clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

help:  ## print this list
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' $(MAKEFILE_LIST) | expand -t 15

# A stamp for each extra of pyproject.toml, so that installing happens once.
$(VENV)/installed-%: pyproject.toml setup.py
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

demo: $(VENV)/installed-server  ## an attachment, end to end, with a server on this machine (FILE= for your own file)
	@$(BIN)/python examples/demo.py $(if $(FILE),'$(FILE)')

test: $(VENV)/installed-dev  ## all tests, quick and the same each time (TESTS= for some of them)
	$(BIN)/trial $(TESTS)

test-long: $(VENV)/installed-dev  ## the same tests with many more examples and rounds, at random: half an hour (TESTS= for some)
	SOLEDAD_TEST_LONG=1 $(BIN)/trial $(TESTS)

# These mount small and dying disks.  trial takes test_*.py from a folder; they are named otherwise and given one by one.
test-crash: $(VENV)/installed-dev  ## full disks and power cuts, on loop devices: needs root
	@test "$$(id -u)" = 0 || { echo "make test-crash needs root: it mounts file systems" >&2; exit 1; }
	$(BIN)/trial $(patsubst tests/crash/%.py,tests.crash.%,$(wildcard tests/crash/crash_*.py))

test-install: $(VENV)/installed-dev  ## the plugin and the script are found after each way of installing
	$(BIN)/python tests/installed.py

bench: $(VENV)/installed-dev  ## the measurements of docs/benchmarks.rst, on this machine (ARGS=--quick: do they work?)
	$(BIN)/python -m benchmarks $(ARGS)

types: $(VENV)/installed-dev  ## mypy, strict
	$(BIN)/mypy

lint: $(VENV)/installed-dev  ## ruff, and whether the news fragments can be read
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/towncrier build --draft --version next >/dev/null

format: $(VENV)/installed-dev  ## let ruff write the code as it should be
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/installed-docs  ## the documentation, in docs/_build/html; a warning is an error
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

clean:  ## remove what the other targets made
	rm -rf $(VENV) .tox build dist docs/_build .mypy_cache .ruff_cache .hypothesis *.egg-info _trial_temp* \
		twisted/plugins/dropin.cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

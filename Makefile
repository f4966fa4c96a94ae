# make run: the service on http://127.0.0.1:8000; make test: all tests. README.md shows both without make.

PYTHON ?= python3
INSTALL = .venv/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lint bench

run: .venv/run-ready
	.venv/bin/python app.py

test: .venv/test-ready tests/node_modules
	.venv/bin/python -m pytest

lint: .venv/test-ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/run-ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x run")'
	$(PYTHON) -m venv .venv
	$(INSTALL) -r requirements.txt
	touch $@

.venv/test-ready: requirements-dev.txt .venv/run-ready
	$(INSTALL) -r requirements-dev.txt
	touch $@

# The mock model server of the tests; without npm those tests say what to install.
tests/node_modules: tests/package-lock.json
	if command -v npm >/dev/null; then npm ci --prefix tests --silent --no-audit --no-fund; else mkdir -p $@; fi
	touch $@

# What docs/promises.md says about speed, measured: about ten minutes. Its extra packages go into the same .venv.
bench: .venv/test-ready
	$(INSTALL) -r bench/requirements.txt
	.venv/bin/python bench/run.py

# make run: the service on http://127.0.0.1:8000; make test: all tests. README.md shows both without make.

PYTHON ?= python3

.PHONY: run test lint bench

run: .venv/ready
	.venv/bin/python app.py

test: .venv/ready tests/node_modules
	.venv/bin/python -m pytest

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

.venv/ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x run")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

# The mock model server of the tests; without npm those tests say what to install.
tests/node_modules: tests/package-lock.json
	if command -v npm >/dev/null; then npm ci --prefix tests --silent --no-audit --no-fund; else mkdir -p $@; fi
	touch $@

# What the README says about speed, measured: about five minutes. Its extra packages go into the same .venv.
bench: .venv/ready
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	.venv/bin/python bench/run.py

"""Stands in for the installed package, so that the examples run from a checkout too. Your project does not need it."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parent.parent)]

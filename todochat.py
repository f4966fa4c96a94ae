"""This folder as the package `todochat`: in a checkout `from todochat import db` means what it means installed."""

from pathlib import Path

__path__ = [str(Path(__file__).resolve().parent)]

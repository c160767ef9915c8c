"""The file of results: what has been run, and what it was defined by."""

from __future__ import annotations

from pathlib import Path

from foveate.levels.ladder import Ladder
from foveate_benchmarks.results import environment
from foveate_benchmarks.stage import SLO_MS
from foveate_loadtest.bench import book

__all__ = ["Book"]


class Book(book.Book):
    """Saved after every change."""

    def __init__(self, path: Path, ladder: Ladder, seconds: float, fresh: bool = False) -> None:
        super().__init__(path, ladder, seconds, SLO_MS, environment(), fresh)

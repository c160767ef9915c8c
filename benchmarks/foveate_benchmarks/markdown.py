"""Tables in Markdown, as the documents hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

__all__ = ["Column", "Columns", "table", "told"]

Column = Callable[[Any], str]  # of a row
Columns = Sequence[tuple[str, Column]]  # by title


def table(rows: Iterable[Any], columns: Columns) -> str:
    """Numbers, all but the first column, stand to the right."""
    lines = [
        [title for title, _ in columns],
        ["---", *["---:"] * (len(columns) - 1)],
        *([cell(row) for _, cell in columns] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def told(table: str, about: str, module: str) -> str:
    """A table, and below it how it was measured, and by what."""
    return f"{table}\n\n{about}; `python -m foveate_benchmarks.{module}`."

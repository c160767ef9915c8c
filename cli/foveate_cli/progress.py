"""How far long work is, on standard error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column

__all__ = ["bars"]


@contextlib.contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """A line for each stage; call it with the stage, how much is done and how much there is.

    What follows a colon in the stage is a note behind the line. A total of 0 is one nobody knows.
    A stage is complete when the next one begins.
    """
    note = TextColumn("{task.fields[note]}", table_column=Column(overflow="ellipsis"))
    columns = TextColumn("{task.description:32}"), BarColumn(16), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), note, console=Console(stderr=True)) as progress:

        def complete() -> None:
            for task in progress.tasks[-1:]:
                progress.update(task.id, completed=task.total)
                progress.stop_task(task.id)

        def tell(stage: str, done: int, total: int) -> None:
            name, _, note = stage.partition(": ")
            if not progress.tasks or progress.tasks[-1].description != name:
                complete()
                progress.add_task(name, total=None, note="")
            task = progress.tasks[-1].id
            progress.update(task, completed=done, total=total or None, note=note)

        yield tell
        complete()

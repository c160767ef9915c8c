"""Options that mean the same in several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Data"]

Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of JPEG and PNG images. Sub-folders, if there are any, are their classes, "
        "named as in the model's labels.txt (without one: as many as classes, in alphabetical "
        "order); without sub-folders there are no labels.",
        show_default="the demo model's own images",
    ),
]

"""Options that mean the same in several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["REPOSITORY", "Admission", "Data", "Json", "Name", "Repository", "Threads"]

Name = Annotated[str | None, typer.Argument(help="Model. Default: the only one.")]
Repository = Annotated[Path, typer.Option(help="Folder of models, as Triton reads it.")]
REPOSITORY = Path("model_repository")
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of JPEG and PNG images. Sub-folders, if there are any, are their classes, "
        "named as in the model's labels.txt (without one: as many as classes, in alphabetical "
        "order); without sub-folders there are no labels.",
        show_default="the demo model's own images",
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads, as in serving.")]
Admission = Annotated[
    bool,
    typer.Option(
        "--admission/--no-admission", help="Refuse requests that would miss their deadline."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

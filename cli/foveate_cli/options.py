"""Options that mean the same in several commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ADMISSION",
    "REPOSITORY",
    "Data",
    "Device",
    "Executor",
    "ExecutorName",
    "Json",
    "Name",
    "Precision",
    "PrecisionName",
    "Repository",
    "Threads",
]

Name = Annotated[str | None, typer.Argument(help="Model name. Default: the only one.")]
Repository = Annotated[Path, typer.Option(help="Triton model repository.")]
REPOSITORY = Path("model_repository")
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder of JPEG and PNG images. Sub-folders, if any, are classes, named as in the "
        "model's labels.txt (without labels.txt: one for each class, in alphabetical order). "
        "Without sub-folders, images have no labels.",
        show_default="the demo model's own images",
    ),
]


Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, or cuda:N for GPU N; use the one you serve on.",
        metavar="DEVICE",
        show_default="what config.pbtxt says",
    ),
]


class PrecisionName(StrEnum):
    """As in :data:`foveate.settings.Precision`."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class ExecutorName(StrEnum):
    """As in :data:`foveate.inference.runtime.Executor`."""

    AUTO = "auto"
    COMPILED = "compiled"
    REFERENCE = "reference"


Executor = Annotated[
    ExecutorName,
    typer.Option(
        help="What runs levels on a CPU; use the one you serve with. compiled: OpenVINO, which "
        "auto takes if it is installed; reference: PyTorch."
    ),
]
Precision = Annotated[
    PrecisionName | None,
    typer.Option(
        help="Of products of matrices; use the one you serve. auto: on a GPU fp16, or bf16 where "
        "fp16 answers otherwise than fp32; on a CPU bf16 where it has AMX-BF16 or AVX512-BF16.",
        show_default="as served: the parameter in config.pbtxt, else FOVEATE_PRECISION",
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; use as many as for serving.")]
ADMISSION = typer.Option(
    "--admission/--no-admission",
    help="Reject requests that would miss their deadline.",
    show_default="admission",
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

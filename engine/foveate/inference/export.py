"""A level for OpenVINO, for batches of any size: traced with the operators' static forms.

Run as ``python -m foveate.inference.export``, it exports levels into a folder and tries them: a
compiler that dies takes this process with it, and not the one that serves.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn, cast

import openvino as ov
import torch
from torch import Tensor, nn

from foveate.inference.fixed import PLAIN, Forward
from foveate.inference.prepared import PreparedLadder, PreparedLevel
from foveate_kernels.library import tracing

__all__ = [
    "REFUSED",
    "TRIED",
    "UNWRITTEN",
    "compile_model",
    "export_level",
    "export_module",
    "reason",
]

REFUSED, UNWRITTEN = 3, 4  # exit status: the level cannot be compiled; the disk is full
TRIED = "tried"  # file that says it can
_SAMPLE = 2  # images of the trial


def export_level(level: PreparedLevel) -> ov.Model:
    """Pixels [b, H, W, 3] (uint8) -> scores [b, classes] and, of each reducer, where each row went.

    ``level`` is not adaptive: of such a one, each variant is exported.
    """
    config = level.vit.config
    example = torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8)
    return export_module(_Pass(level), example)


def export_module(module: nn.Module, example: Tensor) -> ov.Model:
    """Any module of one tensor, for batches of any size. ``example`` has a batch of one."""
    with warnings.catch_warnings(), torch.no_grad(), tracing():
        warnings.simplefilter("ignore")  # that counts become constants is what we want
        traced = torch.jit.trace(module.eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        shape = ov.PartialShape([-1, *example.shape[1:]])
        return cast(ov.Model, ov.convert_model(traced, example_input=example, input=[shape]))


def compile_model(model: ov.Model, size: int, precision: str, threads: int) -> Any:
    """Compile for batches of ``size`` images. ``precision`` is ``fp32`` or ``bf16``."""
    own = model.clone()
    own.reshape(ov.PartialShape([size, *list(own.input(0).partial_shape)[1:]]))
    options: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # others have our first core, too
    }
    if precision == "fp32":
        # OpenVINO 2026.4 dies of MLPs of 256 channels and less when it fuses them, and a token
        # selector is one. Without any such fusion, passes take up to 3 % longer.
        options["SNIPPETS_MODE"] = "DISABLE"
    return ov.Core().compile_model(own, "CPU", options)


class _Pass(nn.Module):
    def __init__(self, level: PreparedLevel) -> None:
        super().__init__()
        self._forward = Forward(level.schedule, level.vit, level.words, PLAIN, level.selectors)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        scores, dests = self._forward(pixels, torch.arange(2, dtype=torch.int32))
        return scores, *dests


def main() -> None:
    """Export every variant of each level to ``OUT/LEVEL/VARIANT.xml``, and try it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="version folder of the model")
    parser.add_argument("out", type=Path)
    parser.add_argument("precision", choices=["fp32", "bf16"])
    parser.add_argument("levels", type=int, nargs="+")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepared = PreparedLadder.load(options.folder)
    for level in options.levels:
        out = options.out / str(level)
        out.mkdir()
        for variant, own in enumerate(prepared.levels[level].variants):
            _export(own, out / f"{variant}.xml", options.precision)
        (out / TRIED).touch()


def _export(level: PreparedLevel, path: Path, precision: str) -> None:
    try:
        model = export_level(level)
    except Exception as error:  # whatever a converter raises of what it does not know
        _end(REFUSED, reason(error))
    try:
        ov.save_model(model, path, compress_to_fp16=False)
        saved = ov.Core().read_model(path)
    except RuntimeError as error:
        free = shutil.disk_usage(path.parent).free
        _end(UNWRITTEN, f"cannot be written, {free >> 20} MiB are free: {reason(error)}")
    config = level.vit.config
    sample = torch.zeros(_SAMPLE, config.height, config.width, 3, dtype=torch.uint8)
    try:
        compile_model(saved, _SAMPLE, precision, 1)([sample.numpy()])
    except RuntimeError as error:
        _end(REFUSED, reason(error))


def reason(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def _end(status: int, why: str) -> NoReturn:
    print(why, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()

"""The cases of every operator, at the shapes of models or tiny ones, and operators by name."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch

from foveate_benchmarks.kernels.case import OPS, Case, Shape

__all__ = ["OPS", "argument_names", "cases", "operator", "reference"]

TINY = (
    Shape("digits b2 n17", 2, 17, 2, 32),
    Shape("deit-s b3 n34", 3, 34, 2, 32),
    Shape("vit-l/384 b1 n70", 1, 70, 1, 64),
)
TINY_IMAGES = (("b2 p8", 2, 16, 8), ("b1 p14", 1, 28, 14))  # of patchify_u8
TINY_PATCHES = (("b2", 24, 48), ("b1", 9, 768))  # of vwt_assign


def cases(op: str, device: str, quick: bool) -> list[Case]:
    """Every case of an operator; the small ones if ``quick``."""
    module = importlib.import_module(f"foveate_benchmarks.kernels.{op}")
    torch.manual_seed(0)
    if not quick:
        return list(module.cases(device))
    tiny: dict[str, Any] = {}
    if hasattr(module, "SHAPES"):
        tiny["SHAPES"] = TINY if isinstance(module.SHAPES[0], Shape) else TINY_IMAGES
    if hasattr(module, "PATCHES"):
        tiny["PATCHES"] = TINY_PATCHES
    with patch.multiple(module, **tiny) if tiny else nullcontext():
        return [case for case in module.cases(device) if case.flops < 4e8 and case.bytes < 4e6]


def operator(op: str) -> Any:
    """The operator as PyTorch knows it: the kernel on a GPU, its reference on a CPU."""
    importlib.import_module(f"foveate_kernels.ops.{op}")
    return getattr(torch.ops.foveate, op).default


def reference(op: str) -> Any:
    """The same in PyTorch, on any device."""
    return importlib.import_module(f"foveate_kernels.ops.{op}").reference


def argument_names(op: str) -> list[str]:
    return [argument.name for argument in operator(op)._schema.arguments]

"""Stock hierarchical models, built by timm with random weights.

timm is no dependency of this project. Beside a CPU build of torch it runs from a folder of its own,
because transformers cannot be imported where a torchvision of another build is installed:

    pip install --no-deps --target .timm timm==1.0.31 torchvision==0.28.0
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

__all__ = ["build"]

FOLDER = Path(__file__).parents[3] / ".timm"
_declared: list[torch.library.Library] = []  # a declaration lives as long as its library


def build(name: str, **changes: Any) -> Any:
    """timm's model ``name`` in evaluation mode, for inference. Raises ImportError without timm."""
    torch.manual_seed(0)
    return _timm().create_model(name, **changes).eval().requires_grad_(False)


def _timm() -> Any:
    if FOLDER.exists() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        return importlib.import_module("timm")
    except RuntimeError:
        # torchvision describes operators that its library would have brought, but that was built
        # for another torch. Declared without a body, they can be described.
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        for module in [name for name in sys.modules if name.split(".")[0] == "timm"]:
            del sys.modules[module]  # imported by half
        return importlib.import_module("timm")

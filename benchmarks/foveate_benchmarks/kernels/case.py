"""What each operator is compiled, gated and timed on: the shapes of real models.

One file per operator beside this one holds ``cases(device)``. With ``device="meta"`` the tensors
have no data: enough to compile (``kernel_budgets.py``). On ``"cuda"`` they are timed (``gpu.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pkgutil import iter_modules
from typing import Any

import torch
from torch import Tensor

from foveate_kernels import ops

__all__ = ["DTYPES", "OPS", "SHAPES", "Case", "Shape", "lengths", "rand"]

OPS = sorted(module.name for module in iter_modules(ops.__path__))
DTYPES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


@dataclass(frozen=True)
class Shape:
    """A batch at one point of a model."""

    name: str
    images: int
    tokens: int
    heads: int
    dim: int  # of the residual stream

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def rows(self) -> int:
        return self.images * self.tokens


SHAPES = (
    Shape("digits b8 n145", 8, 145, 4, 128),
    Shape("deit-s b32 n197", 32, 197, 6, 384),
    Shape("deit-b b32 n197", 32, 197, 12, 768),
    Shape("deit-b b32 n98", 32, 98, 12, 768),
    Shape("vit-l/384 b8 n577", 8, 577, 16, 1024),
)


@dataclass(frozen=True)
class Case:
    """Arguments of ``launch`` and ``reference``, and what they ask of a GPU at the least."""

    name: str
    args: tuple[Any, ...]
    flops: float = 0.0  # of products, a multiply-add counts two
    bytes: float = 0.0  # each input read once, each output written once
    tensor_core: bool = False  # its products belong on the matrix units
    fp8: bool = False  # rounds to e4m3: only for GPUs that can
    peers: Mapping[str, Callable[[], object]] = field(default_factory=dict)  # the same by others


def rand(*shape: int, device: str, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(*shape, device=device, dtype=torch.float32).to(dtype)


def lengths(shape: Shape, device: str) -> Tensor:
    """``cu_seqlens`` of the batch: all images of one length, as fixed counts give them."""
    return (torch.arange(shape.images + 1, device=device) * shape.tokens).to(torch.int32)

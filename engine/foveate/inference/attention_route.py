"""Whose attention is faster on this GPU, PyTorch's or ours: it depends on the rows of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from foveate.inference.capture import captured
from foveate.inference.fixed import Maker, Routes
from foveate.inference.prepared import PreparedLevel
from foveate.model.vit import attend
from foveate_kernels.ops import varlen_attention
from foveate_kernels.ops.varlen_attention import HEAD_DIMS
from foveate_kernels.packed import uniform

__all__ = ["timed_routes"]

_CALLS = 20  # in a graph: a single one is shorter than its launch
_ROUNDS = 5


def timed_routes(
    levels: Sequence[PreparedLevel], device: torch.device, dtype: torch.dtype, batch: int
) -> Routes:
    """The defaults, and for every number of rows in these levels whose attention is faster, at
    ``batch`` images of the dense model. On a CPU, the defaults."""
    if device.type != "cuda":
        return Routes()
    config = levels[0].vit.config
    lengths = {
        n
        for level in levels
        for schedule in level.schedule.variants
        for n in schedule.tokens(config)[0]
    }
    heads, width = config.heads, config.dim // config.heads
    return Routes(
        plain_attention={n: _faster(batch, n, heads, width, device, dtype) for n in sorted(lengths)}
    )


@torch.inference_mode()
def _faster(
    batch: int, n: int, heads: int, width: int, device: torch.device, dtype: torch.dtype
) -> Maker:
    qkv = torch.randn(batch * n, 3, heads, width, device=device, dtype=dtype)
    q, k, v = qkv.unbind(1)
    cu_seqlens = uniform(batch, n, device)

    def theirs() -> Tensor:
        own_q, own_k, own_v = (x.view(batch, n, heads, width).transpose(1, 2) for x in (q, k, v))
        return attend(own_q, own_k, own_v, None).transpose(1, 2).flatten(0, 1).flatten(1)

    def ours() -> Tensor:
        return varlen_attention(q, k, v, cu_seqlens, n).out

    if width not in HEAD_DIMS:
        return "torch"
    return "torch" if _seconds(theirs, device) < _seconds(ours, device) else "foveate"


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Least time of many calls in a graph."""
    replay = captured(lambda: [run() for _ in range(_CALLS)], device)
    times: list[float] = []
    for _ in range(_ROUNDS):
        start, end = (_event() for _ in range(2))
        start.record()
        replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times) / 1e3


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]

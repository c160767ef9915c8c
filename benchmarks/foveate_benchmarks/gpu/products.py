"""Part ``products``: what 8 bits, and GELU within the product, would save of a layer.

The four products of a DeiT-B layer at batch 32, in bf16 and by ``torch._scaled_mm`` in float8 e4m3:
with a scale for each row and column, and with one for each matrix. Scales are known beforehand, as
in a kernel that writes 8 bits; ``quantised`` adds quantising the rows by PyTorch's operators.
And the first product of the MLP with its GELU: ``packed_linear``, a product and GELU by PyTorch,
and the GELU of tanh that PyTorch fuses.

On a CPU, a dry run multiplies what was quantised in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate_benchmarks.gpu.asked import Asked
from foveate_benchmarks.gpu.clock import Clock
from foveate_benchmarks.gpu.models import spec
from foveate_benchmarks.gpu.rows import Rows, table, tried
from foveate_kernels.ops import packed_linear

__all__ = ["measure", "report"]

BATCH = 32
GELU_BATCHES = (8, 32, 128)
FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max

Run = Callable[..., Tensor]


@torch.inference_mode()
def measure(rows: Rows, clock: Clock, asked: Asked) -> None:
    torch.manual_seed(0)
    config = spec("deit-b", clock.quick).config
    dim, mlp = config.dim, config.mlp_dim
    shapes = {"qkv": (dim, 3 * dim), "proj": (dim, dim), "fc1": (dim, mlp), "fc2": (mlp, dim)}
    many = (2 if clock.quick else BATCH) * config.tokens
    for name, (inner, outer) in shapes.items():
        key = f"fp8 {name} {many}x{inner}x{outer}"
        rows.run(key, partial(_eight_bits, clock, many, inner, outer))
    for batch in (2,) if clock.quick else GELU_BATCHES:
        many = batch * config.tokens
        rows.run(f"gelu fc1 {many}x{dim}x{mlp}", partial(_gelu, clock, many, dim, mlp))


def _eight_bits(clock: Clock, many: int, inner: int, outer: int) -> dict[str, Any]:
    x, weight, bias = _operands(clock, many, inner, outer)
    rowwise = (*_quantised(x, 1), *_quantised(weight, 1))
    whole = (*_quantised(x, None), *_quantised(weight, None))
    multiply = _scaled if clock.cuda else _widened
    contenders: dict[str, tuple[Run, tuple[Tensor, ...]]] = {
        "bf16": (F.linear, (x, weight, bias)),
        "row-wise": (multiply, (*rowwise, bias)),
        "row-wise, quantised": (partial(_quantise_first, multiply), (x, *rowwise[2:], bias)),
        "per tensor": (multiply, (*whole, bias)),
    }
    exact = x.double() @ weight.double().T + bias.double()
    return {
        name: tried(partial(_timed, clock, run, args, exact))
        for name, (run, args) in contenders.items()
    }


def _gelu(clock: Clock, many: int, inner: int, outer: int) -> dict[str, Any]:
    x, weight, bias = _operands(clock, many, inner, outer)
    present = torch.full((1,), many, dtype=torch.int32, device=clock.device)
    contenders: dict[str, tuple[Run, tuple[Tensor, ...]]] = {
        "packed_linear": (partial(packed_linear, gelu=True), (x, weight, bias, present)),
        "linear, gelu": (lambda *args: F.gelu(F.linear(*args)), (x, weight, bias)),
        "fused gelu of tanh": (_fused, (x, weight, bias)),
    }
    exact = F.gelu(x.double() @ weight.double().T + bias.double())
    return {
        name: tried(partial(_timed, clock, run, args, exact))
        for name, (run, args) in contenders.items()
    }


def _operands(clock: Clock, many: int, inner: int, outer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [many, inner], weight [outer, inner] and bias [outer]."""
    shapes = ((many, inner), (outer, inner), (outer,))
    x, weight, bias = (torch.randn(*shape, device=clock.device) for shape in shapes)
    dtype = torch.bfloat16 if clock.cuda else torch.float32
    return x.to(dtype), (weight * inner**-0.5).to(dtype), bias.to(dtype)


def _timed(clock: Clock, run: Run, args: tuple[Tensor, ...], exact: Tensor) -> dict[str, float]:
    off = float((run(*args).double() - exact).norm() / exact.norm())
    return {"ms": clock.rotated(run, *args), "off": off}


def _quantised(x: Tensor, dim: int | None) -> tuple[Tensor, Tensor]:
    """Rows in 8 bits, and the scale of each [n, 1], or of all [1, 1], in float32."""
    largest = x.abs().amax(dim, keepdim=True) if dim is not None else x.abs().amax().view(1, 1)
    scale = largest.float() / LARGEST
    return (x / scale).clamp(-LARGEST, LARGEST).to(FP8), scale


def _quantise_first(multiply: Run, x: Tensor, *others: Tensor) -> Tensor:
    return multiply(*_quantised(x, 1), *others)


def _scaled(x: Tensor, scale: Tensor, weight: Tensor, of_weight: Tensor, bias: Tensor) -> Tensor:
    product: Tensor = torch._scaled_mm(
        x,
        weight.T,
        scale_a=scale,
        scale_b=of_weight.T,
        bias=bias,
        out_dtype=bias.dtype,
        use_fast_accum=True,
    )
    return product


def _widened(x: Tensor, scale: Tensor, weight: Tensor, of_weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(x.float() * scale, weight.float() * of_weight, bias)


def _fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch._addmm_activation(bias, x, weight.T, use_gelu=True)


def report(rows: Rows, asked: Asked) -> dict[str, bool]:
    lines = [
        (key, who, f"{timed['ms'] * 1e3:.1f}", f"{timed['off']:.1e}")
        for key, row in rows.items()
        for who, timed in row.items()
        if "ms" in timed
    ]
    table("products", ("rows x inner x outer", "by", "us", "off"), lines)
    return {}

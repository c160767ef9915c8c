"""Part ``peers``: attention and selection against what PyTorch offers, at the lengths of levels.

Everybody runs in a CUDA graph of many calls, on inputs that together exceed the L2. Attention of
ours takes a bias for each key, and so does FlexAttention, where a mask of blocks keeps images
apart; FlashAttention's packed form takes none, and SDPA none here. Selection is ``select_tokens``
and ``compact_tokens`` against the same in PyTorch's operators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from foveate_benchmarks.gpu.asked import Asked
from foveate_benchmarks.gpu.clock import Clock
from foveate_benchmarks.gpu.rows import Rows, table, tried
from foveate_kernels.ops import compact_tokens, select_tokens, varlen_attention
from foveate_kernels.packed import uniform

__all__ = ["measure", "report"]

LENGTHS = (29, 52, 72, 100, 140, 197, 577)
MODELS = {"deit-s": (6, 384, 32), "deit-b": (12, 768, 32), "vit-l": (16, 1024, 8)}
# Rows of an image before a selection, and patches kept: the first and the last of a level.
STAGES = {
    "deit-s": ((197, 138), (99, 68)),
    "deit-b": ((197, 138), (99, 68)),
    "vit-l": ((577, 404), (285, 199)),
}
TINY = {"deit-s": (2, 32, 2)}
ATTENTION = "attention with bias"
FLEX = "flex-attention with bias"
FLASH = "flash-attention 2"
SELECTION = "selection"

Run = Callable[..., object]


@torch.inference_mode()
def measure(rows: Rows, clock: Clock, asked: Asked) -> None:
    torch.manual_seed(0)
    for model, (heads, dim, batch) in (TINY if clock.quick else MODELS).items():
        for n in (17, 29) if clock.quick else LENGTHS:
            step = partial(_attention, clock, heads, dim // heads, batch, n)
            rows.run(f"attention {model} b{batch} n{n}", step)
        for size in (1, batch):
            for n, keep in ((17, 8),) if clock.quick else STAGES[model]:
                step = partial(_selection, clock, heads, dim, size, n, keep)
                rows.run(f"selection {model} b{size} n{n} keep {keep}", step)


def _attention(clock: Clock, heads: int, dim: int, batch: int, n: int) -> dict[str, Any]:
    qkv = torch.randn(batch * n, 3, heads, dim, device=clock.device)
    qkv = qkv.to(torch.float16 if clock.cuda else torch.float32)
    bias = torch.rand(batch * n, device=clock.device)
    cu_seqlens = uniform(batch, n, clock.device)
    contenders: dict[str, tuple[Run, tuple[Any, ...]]] = {
        ATTENTION: (partial(_ours, n=n), (qkv, cu_seqlens, bias)),
        "attention": (partial(_ours, n=n), (qkv, cu_seqlens, None)),
        FLEX: (_flex(clock, batch, n), (qkv, bias)),
        "sdpa": (_sdpa, (qkv.view(batch, n, 3, heads, dim),)),
    }
    if clock.cuda and find_spec("torch.nn.attention.varlen"):
        contenders[FLASH] = (partial(_flash, n=n), (qkv, cu_seqlens))
    biased, plain = (_ours(qkv, cu_seqlens, given, n=n) for given in (bias, None))

    def timed(name: str) -> dict[str, float]:
        run, args = contenders[name]
        right = biased if name in (ATTENTION, FLEX) else plain
        torch.testing.assert_close(run(*args), right, rtol=2e-2, atol=2e-2)
        return _rotated(clock, run, args)

    return {name: tried(partial(timed, name)) for name in contenders}


def _ours(qkv: Tensor, cu_seqlens: Tensor, bias: Tensor | None, n: int) -> Tensor:
    q, k, v = qkv.unbind(1)
    return varlen_attention(q, k, v, cu_seqlens, n, key_bias=bias).out


def _flex(clock: Clock, batch: int, n: int) -> Run:
    """FlexAttention on packed rows, compiled where there is a GPU."""
    image = torch.arange(batch, device=clock.device).repeat_interleave(n)

    def same_image(b: Tensor, h: Tensor, row: Tensor, key: Tensor) -> Tensor:
        return image[row] == image[key]

    total = batch * n
    mask: BlockMask = create_block_mask(same_image, None, None, total, total, device=clock.device)

    def run(qkv: Tensor, bias: Tensor) -> Tensor:
        def add_bias(score: Tensor, b: Tensor, h: Tensor, row: Tensor, key: Tensor) -> Tensor:
            return score + bias[key]

        q, k, v = qkv.permute(1, 2, 0, 3).unsqueeze(1)
        out = flex_attention(q, k, v, score_mod=add_bias, block_mask=mask)
        return out[0].transpose(0, 1)

    if not clock.cuda:
        return run
    torch._dynamo.reset()  # or it would run uncompiled from the eighth shape on
    return cast(Run, torch.compile(run, dynamic=False, fullgraph=True))


def _flash(qkv: Tensor, cu_seqlens: Tensor, n: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = qkv.unbind(1)
    return cast(Tensor, varlen_attn(q, k, v, cu_seqlens, cu_seqlens, n, n))


def _sdpa(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)


def _selection(clock: Clock, heads: int, dim: int, batch: int, n: int, keep: int) -> dict[str, Any]:
    x = torch.randn(batch * n, dim, device=clock.device)
    x = x.to(torch.float16 if clock.cuda else torch.float32)
    scores = torch.rand(heads, batch * n, device=clock.device)
    cu_seqlens = uniform(batch, n, clock.device)
    args = (scores, x, cu_seqlens)
    contenders = {SELECTION: partial(_select, n=n, keep=keep)}
    contenders["torch"] = partial(_torch_select, n=n, keep=keep)
    both = [run(*args) for run in contenders.values()]
    torch.testing.assert_close(*both, rtol=1e-2, atol=1e-2)
    return {name: tried(partial(_rotated, clock, run, args)) for name, run in contenders.items()}


def _rotated(clock: Clock, run: Run, args: tuple[Any, ...]) -> dict[str, float]:
    return {"ms": clock.rotated(run, *args)}


def _select(scores: Tensor, x: Tensor, cu_seqlens: Tensor, n: int, keep: int) -> Tensor:
    plan = select_tokens(scores, cu_seqlens, n, keep=keep, fate="package")
    capacity = (len(cu_seqlens) - 1) * (keep + 2)
    return compact_tokens(x, plan, cu_seqlens, n, capacity=capacity).x


def _torch_select(scores: Tensor, x: Tensor, cu_seqlens: Tensor, n: int, keep: int) -> Tensor:
    """The same for images of one length: CLS, the best in their order, and the package."""
    batch = len(cu_seqlens) - 1
    rows, weight = x.view(batch, n, -1), scores.view(-1, batch, n).mean(0)
    best = weight[:, 1:].topk(keep, 1).indices.sort(1).values + 1
    stays = torch.cat([torch.zeros_like(best[:, :1]), best], 1)
    rest = weight.scatter(1, stays, 0.0)
    rest = rest / rest.sum(1, keepdim=True)
    package = torch.bmm(rest.to(x.dtype).unsqueeze(1), rows)
    kept = rows.gather(1, stays.unsqueeze(2).expand(-1, -1, rows.shape[2]))
    return torch.cat([kept, package], 1).flatten(0, 1)


def report(rows: Rows, asked: Asked) -> dict[str, bool]:
    bars: dict[str, bool] = {}
    lines = []
    for key, row in rows.items():
        ms = {other: timed["ms"] for other, timed in row.items() if "ms" in timed}
        mine = ms.get(ATTENTION, ms.get(SELECTION))
        if mine is None:
            continue
        others = "  ".join(f"{other} {value / mine:.2f}x" for other, value in ms.items())
        lines.append((key, f"{mine * 1e3:.1f}", others))
        n = int(key.split(" n")[1].split()[0])
        if FLASH in ms and n <= 197:
            ratio, bound = ms[FLASH] / mine, 1.0 if n <= 100 else 0.8
            bars[f"{key}: {ratio:.2f}x as fast as {FLASH}, at least {bound}x"] = ratio >= bound
        if "torch" in ms:
            bars[f"{key}: {ms['torch'] / mine:.2f}x as fast as PyTorch"] = ms["torch"] >= mine
    table("peers", ("row", "us, ours", "time of each, over ours"), lines)
    return {} if rows.hardware["identity"]["quick"] else bars

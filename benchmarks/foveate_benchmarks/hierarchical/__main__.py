"""Whether token and neuron reduction pay in hierarchical models: their time against their MACs.

    python -m foveate_benchmarks.hierarchical [--rounds 9]

Random weights: time and multiply-accumulates do not depend on them, accuracy cannot be shown. One
thread, process CPU time, rounds interleaved over all variants of a model, medians. MACs are those
torch counts while the reduced model runs. Needs timm: ``timm_models.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import typer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foveate.compress.report import times
from foveate.inference.allocator import tune_allocator
from foveate_benchmarks.hierarchical import efficientformer, pit, swin
from foveate_benchmarks.hierarchical.swin import Keep
from foveate_benchmarks.hierarchical.timm_models import build
from foveate_benchmarks.results import conclude

Run = Callable[[Tensor], Tensor]

# GMACs before and after, top-1 before and after: SPViT (arXiv 2112.13890), SNP (2404.11630).
PUBLISHED = {
    "pit_xs_224": (1.40, 1.13, 78.1, 77.86),
    "pit_s_224": (2.90, 2.22, 80.9, 80.32),
    "swin_tiny_patch4_window7_224": (4.50, 3.47, 81.2, 80.70),
    "swin_small_patch4_window7_224": (8.70, 6.35, 83.2, 82.71),
    "efficientformer_l1": (1.3, 0.6, 79.2, 75.53),
}


def pit_variants(model: Any) -> dict[str, Run]:
    """The same share of every stage's tokens."""
    grids = pit.grids(model)
    return {
        "nothing removed": partial(pit.forward, model, keep=grids),
        **{
            f"{share:.0%} of tokens": partial(
                pit.forward, model, keep=[round(n * share) for n in grids]
            )
            for share in (0.75, 0.5, 0.3)
        },
    }


def swin_variants(model: Any) -> dict[str, Run]:
    """Stages 2 to 4, as published. The last has one window, which stays."""
    everything = swin.kept_everything(model)

    def keep(windows: float, tokens: float) -> list[Keep]:
        return [
            everything[0],
            *(Keep(max(1, round(k.windows * windows)), round(49 * tokens)) for k in everything[1:]),
        ]

    names = {
        "nothing removed": (1, 1),
        "75% of tokens per window": (1, 0.75),
        "50% of tokens per window": (1, 0.5),
        "30% of tokens per window": (1, 0.3),
        "75% of windows": (0.75, 1),
        "50% of windows": (0.5, 1),
        "50% of windows, 50% of tokens": (0.5, 0.5),
    }
    return {
        name: partial(swin.forward, model, keep=keep(*shares)) for name, shares in names.items()
    }


def efficientformer_variants(model: Any) -> dict[str, Run]:
    """Half of the attention's neurons, and so much of the MLPs that the MACs are the published."""
    images = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    cut = partial(efficientformer.compress, model, images)
    return {
        "nothing removed": cut(hidden=1, pairs=1, values=1),
        "38% of MLPs, 50% of attention": cut(hidden=0.38, pairs=0.5, values=0.5),
        "29% of MLPs, 50% of attention": cut(hidden=0.29, pairs=0.5, values=0.5),
    }


MODELS: dict[str, Callable[[Any], dict[str, Run]]] = {
    "pit_xs_224": pit_variants,
    "pit_s_224": pit_variants,
    "swin_tiny_patch4_window7_224": swin_variants,
    "swin_small_patch4_window7_224": swin_variants,
    "efficientformer_l1": efficientformer_variants,
}


def count_macs(run: Run) -> int:
    """Of one image. Attention runs as plain products for this: fused on a CPU it is not counted."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run(torch.zeros(1, 3, 224, 224))
    return int(counter.get_total_flops()) // 2


def milliseconds(runs: dict[str, Run], batch: int, rounds: int) -> dict[str, float]:
    images = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    seconds = times([*runs.values()], [images] * (rounds + 1))
    return {name: 1e3 * taken for name, taken in zip(runs, seconds, strict=True)}


@torch.inference_mode()
def measure(name: str, rounds: int) -> dict[str, Any]:
    """All variants of one model, timm's own forward first."""
    model = build(name)
    runs: dict[str, Run] = {"timm": model, **MODELS[name](model)}
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(3))
    difference = (model(images) - runs["nothing removed"](images)).abs().max().item()
    by_batch = {batch: milliseconds(runs, batch, rounds) for batch in (1, 8)}
    dense, rows = count_macs(model), []
    print(f"{name}: nothing removed differs from timm by {difference:.0e}")
    for variant, run in runs.items():
        macs = count_macs(run)
        row: dict[str, Any] = {"variant": variant, "gmacs": macs / 1e9, "macs_share": macs / dense}
        for batch, found in by_batch.items():
            row[f"batch{batch}_ms"] = found[variant]
            row[f"batch{batch}_share"] = found[variant] / found["timm"]
        rows.append(row)
        print(
            f"  {variant:30} {row['gmacs']:5.2f} GMAC {row['macs_share']:6.1%}   "
            + "   ".join(
                f"batch {b} {row[f'batch{b}_ms']:7.1f} ms {row[f'batch{b}_share']:6.1%}"
                for b in by_batch
            ),
            flush=True,
        )
    return {"model": name, "difference": difference, "rows": rows}


def main(rounds: int = 9) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    models = [measure(name, rounds) for name in MODELS]
    reduced = [row for model in models for row in model["rows"][2:]]
    checks = {
        "nothing removed gives timm's answers": all(m["difference"] <= 1e-4 for m in models),
        **{
            f"fewer MACs take less time at batch {batch}, in every model": all(
                row[f"batch{batch}_share"] < 1 for row in reduced
            )
            for batch in (1, 8)
        },
    }
    published = {
        name: dict(zip(("gmacs", "reduced_gmacs", "top1", "reduced_top1"), values, strict=True))
        for name, values in PUBLISHED.items()
    }
    conclude("hierarchical", checks, rounds=rounds, models=models, published=published)


if __name__ == "__main__":
    typer.run(main)

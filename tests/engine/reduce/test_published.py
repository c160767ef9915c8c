"""The arithmetic of the papers, to the digit they print.

Counts of tokens are those the papers and their repositories give: ToMe (arXiv 2210.09461), EViT
(2202.07800), DynamicViT (2106.02034), DiffRate (2305.17997, ``compression_rate.json``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foveate.levels.schedule import Schedule
from foveate.model.macs import vit_macs
from foveate.model.vit import ViT, ViTConfig

WIDTH = {"T": 192, "S": 384, "B": 768, "L": 1024}
DEPTH = {"T": 12, "S": 12, "B": 12, "L": 24}
TOKENS = 197  # 14 x 14 patches and CLS


def giga(model: str, attention: Sequence[int], mlp: Sequence[int]) -> float:
    """Of a stock ViT/16 at 224 x 224 with these tokens per block, in 10^9."""
    width = WIDTH[model]
    config = ViTConfig(
        height=224, width=224, patch=16, classes=1000,
        dim=width, depth=DEPTH[model], heads=width // 64, mlp_dim=4 * width,
    )  # fmt: skip
    return vit_macs(config, attention, mlp, embedded=config.patches) / 1e9


def lagged(mlp: Sequence[int]) -> list[int]:
    """Tokens in the attention where each block reduces between attention and MLP."""
    return [TOKENS, *mlp[:-1]]


def tome(model: str, remove: int) -> float:
    mlp, n = [], TOKENS
    for _ in range(DEPTH[model]):
        n -= min(remove, (n - 1) // 2)
        mlp.append(n)
    return giga(model, lagged(mlp), mlp)


def evit(keep: float) -> float:
    """After the attention of blocks 3, 6, 9: CLS, the share ``keep`` of the rest, one fused."""
    mlp, n = [], TOKENS
    for block in range(12):
        if block in (3, 6, 9):
            n = 1 + math.ceil(keep * (n - 1)) + 1
        mlp.append(n)
    return giga("S", lagged(mlp), mlp)


def dynamicvit(model: str) -> float:
    """Before blocks 3, 6, 9: int(196 * 0.7^s) patches. The three predictors are included.

    A predictor is C -> C, then C -> C/2 -> C/4 -> 2 on every patch it scores.
    """
    kept = [int(196 * 0.7**stage) for stage in range(4)]
    tokens = [1 + kept[block // 3] for block in range(12)]
    c = WIDTH[model]
    predictor = c * c + c * c // 2 + c * c // 8 + c // 2
    return giga(model, tokens, tokens) + sum(kept[:3]) * predictor / 1e9


@pytest.mark.parametrize(("model", "printed"), [("T", 1.3), ("S", 4.6), ("B", 17.6), ("L", 61.6)])
def test_dense(model: str, printed: float) -> None:
    tokens = [TOKENS] * DEPTH[model]
    assert round(giga(model, tokens, tokens), 1) == printed


@pytest.mark.parametrize(
    ("model", "remove", "printed"), [("S", 13, 2.7), ("B", 16, 8.8), ("L", 8, 31.0)]
)
def test_tome(model: str, remove: int, printed: float) -> None:
    assert round(tome(model, remove), 1) == printed


@pytest.mark.parametrize(
    ("keep", "printed"), [(0.9, 4.0), (0.8, 3.5), (0.7, 3.0), (0.6, 2.6), (0.5, 2.3)]
)
def test_evit(keep: float, printed: float) -> None:
    assert round(evit(keep), 1) == printed


@pytest.mark.parametrize(("model", "printed"), [("S", 2.9), ("B", 11.4)])
def test_dynamicvit_prints_what_its_predictors_cost_too_and_cuts_off(
    model: str, printed: float
) -> None:
    assert math.floor(dynamicvit(model) * 10) / 10 == printed


# Tokens after each block. A list is named by the budget its search was given; those of DeiT-T at
# 0.6 and of ViT-L at 38.5 and 42.3 cost 0.65, 38.6 and 42.4 and are left out.
DIFFRATE = {
    ("T", 0.7): "196,192,158,133,103,88,72,64,58,49,3",
    ("T", 0.8): "196,190,172,154,125,107,96,84,78,70,3",
    ("T", 0.9): "196,194,188,172,147,129,115,107,103,96,3",
    ("S", 2.3): "180,156,127,109,98,80,66,52,37,31,3",
    ("S", 2.5): "186,160,133,119,107,96,82,66,43,37,3",
    ("S", 2.7): "188,170,147,131,119,109,96,76,54,45,3",
    ("S", 2.9): "194,176,156,141,133,121,107,88,64,56,3",
    ("S", 3.1): "196,186,164,150,141,133,121,103,78,68,3",
    ("B", 8.7): "178,162,141,115,96,78,60,47,21,13,3",
    ("B", 10.0): "186,174,156,137,117,105,90,66,31,19,3",
    ("B", 10.4): "190,184,164,145,131,107,94,74,31,21,3",
    ("B", 11.5): "197,192,178,158,145,127,111,94,50,35,3",
    ("B", 12.5): "196,194,190,176,160,145,131,115,68,47,3",
    ("L", 31.0): "191,184,172,161,151,145,135,125,117,106,96,89,80,72,64,54,50,40,27,27,23,14,14",
    ("L", 34.7): "193,190,185,173,164,159,154,142,137,121,111,103,97,82,76,67,61,58,48,35,32,18,18",
    (
        "L",
        46.1,
    ): "197,196,195,193,191,189,187,183,176,162,155,148,145,139,133,127,118,104,95,86,71,60,60",
}


@pytest.mark.parametrize(("model", "printed"), DIFFRATE)
def test_diffrate(model: str, printed: float) -> None:
    mlp = [TOKENS, *map(int, DIFFRATE[model, printed].split(","))]
    assert round(giga(model, lagged(mlp), mlp), 1) == printed


def test_the_formula_counts_what_torch_counts() -> None:
    config = ViTConfig(depth=2)
    vit = ViT(config).eval()
    # The fused attention of a CPU is not counted; its plain products are.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), plain:
        vit.encode(vit.embed(torch.zeros(1, config.patches, 192)))
        torch.nn.functional.linear(torch.zeros(1, config.dim), vit.head.weight)
    n = [config.patches + 1] * config.depth
    ours = vit_macs(config, n, n, embedded=config.patches)
    assert 2 * ours == counter.get_total_flops()
    assert ours == Schedule().macs(config)

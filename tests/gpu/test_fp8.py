"""Products in FP8 on a GPU that has them: as they are emulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from foveate.inference.engine import Engine
from foveate.inference.fp8 import Fp8Linear, has_fp8
from foveate.inference.graphs import GraphEngine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.model.vit import ViTConfig

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or not has_fp8(GPU), reason="needs a CUDA GPU with FP8"
)

CONFIG = ViTConfig(height=64, width=64, patch=8, dim=64, depth=4, heads=2, mlp_dim=256)
PRUNES = [{"kind": "prune", "block": b, "keep": k, "fate": "package"} for b, k in ((1, 16), (2, 6))]
LEVELS: list[list[dict[str, Any]]] = [[], [], PRUNES, [{"kind": "vwt-intra", "keep": 24}, *PRUNES]]


@torch.inference_mode()
@pytest.mark.parametrize(
    ("rows", "inner", "cols"), [(1, 64, 192), (197, 768, 3072), (6304, 384, 384)]
)
def test_a_product_is_what_its_emulation_gives(rows: int, inner: int, cols: int) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(inner, cols), torch.randn(rows, inner).bfloat16()
    here = Fp8Linear(linear, CPU, torch.bfloat16)(x)
    there = Fp8Linear(linear, GPU, torch.bfloat16)(x.to(GPU))
    error = (there.cpu().float() - here.float()).norm() / here.float().norm()
    assert error < 5e-3  # two roundings to bfloat16; Hopper sums with 14 bits


@torch.inference_mode()
def test_rows_that_are_not_finite_stay_so_and_change_no_other() -> None:
    torch.manual_seed(0)
    layer = Fp8Linear(nn.Linear(64, 96), GPU, torch.bfloat16)
    x = torch.randn(40, 64, device=GPU).bfloat16()
    clean = layer(x)
    x[3, 5], x[7, 9], x[9] = float("nan"), float("inf"), 0.0
    found = layer(x)
    assert not found[[3, 7]].isfinite().any()
    others = [row for row in range(40) if row not in (3, 7, 9)]
    assert torch.equal(found[others], clean[others])
    assert torch.equal(found[9], layer.bias)


def test_a_model_answers_as_its_emulation_does(build_engine: Callable[..., Engine]) -> None:
    engine = build_engine(LEVELS, CONFIG, std=0.1)
    marks = [None, *["fp8"] * (len(LEVELS) - 1)]
    levels: Any = [
        replace(level, precision=mark) for level, mark in zip(engine.levels, marks, strict=True)
    ]
    prepared = PreparedLadder(engine.ladder, tuple(levels))
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8, generator=generator)
    emulated = ReferenceEngine(prepared, emulate_fp8=True)
    graphs = GraphEngine(prepared, GPU, max_batch=8)
    for level in range(len(LEVELS)):
        expected = emulated.infer(pixels, [level] * 8).scores
        scores = graphs.infer(pixels, [level] * 8).scores
        assert (scores - expected).abs().median() < 0.02
        for _ in range(3):
            assert torch.equal(graphs.infer(pixels, [level] * 8).scores, scores)

"""A whole forward pass through the kernels: levels of every kind, batches that are not full."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from foveate.inference.fixed import PLAIN, Forward, Routes
from foveate.inference.fp8 import in_fp8
from foveate.levels.schedule import Schedule
from foveate.model.vit import BlockShape, ViT, ViTConfig
from foveate_kernels import library
from foveate_kernels.ops import select_tokens
from foveate_kernels.packed import uniform

CONFIG = ViTConfig(height=32, width=48, patch=8, dim=32, depth=3, heads=2, mlp_dim=64)
PRUNE = [{"kind": "prune", "block": b, "keep": k, "fate": "package"} for b, k in ((0, 9), (1, 4))]
LEVELS: dict[str, list[dict[str, Any]]] = {
    "dense": [],
    "package": PRUNE,
    "drop": [{**item, "fate": "drop"} for item in PRUNE],
    "last block": [{"kind": "prune", "block": 2, "keep": 9, "fate": "package"}],
    "intra and package": [{"kind": "vwt-intra", "keep": 14}, *PRUNE],
    "inter": [{"kind": "vwt-inter", "count": 12}],
    "sum of attention": [{**item, "fate": "package-sum", "score": "cls"} for item in PRUNE],
    "with sizes": [
        {"kind": "vwt-intra", "keep": 14},
        {**PRUNE[0], "fate": "merge"},
        {**PRUNE[1], "keep": 8},
        {"kind": "merge", "block": 2, "remove": 4},
    ],
}


@pytest.fixture(params=["torch", "foveate"])
def routes(request: pytest.FixtureRequest) -> Routes:
    return Routes(attention=request.param, gelu=request.param, norm=request.param)


@pytest.fixture
def interpreted() -> Iterator[None]:
    with library.launching("CPU"):
        yield


def model(config: ViTConfig = CONFIG) -> ViT:
    torch.manual_seed(0)
    vit = ViT(config).eval().requires_grad_(False)
    for parameter in vit.parameters():
        parameter.normal_(std=0.2)
    return vit


def test_interpreting_takes_the_kernels(interpreted: None) -> None:
    """A spare row tells: the reference calls it dropped, the kernel leaves it as it was."""
    plan = select_tokens(torch.rand(5), uniform(1, 4), 4, keep=2)
    assert plan.dest[4] == 2**31 - 1


# Heads as wide as those of SigLIP so400m and of ViT-H, and some that were pruned.
WIDTHS = {
    "72": replace(CONFIG, dim=144, heads=2),
    "80": replace(CONFIG, dim=160, heads=2),
    "pruned": replace(
        CONFIG,
        blocks=(
            BlockShape(heads=2, qk_dim=16, v_dim=40, mlp_dim=64),
            BlockShape(heads=1, qk_dim=24, v_dim=16, mlp_dim=32),
            BlockShape(heads=2, qk_dim=16, v_dim=16, mlp_dim=48),
        ),
    ),
}


@torch.inference_mode()
@pytest.mark.parametrize("width", list(WIDTHS))
def test_heads_of_any_width_take_our_attention(
    width: str, interpreted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = WIDTHS[width]
    cls_of_values = [{**item, "score": "cls-value"} for item in PRUNE]
    schedule = Schedule.parse(cls_of_values, config)
    pixels = torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8)
    present = torch.arange(3, dtype=torch.int32)
    expected, _ = Forward(schedule, model(config), None, routes=PLAIN)(pixels, present)
    monkeypatch.setattr("foveate.inference.fixed.attend", None)  # PyTorch's is not called
    scores, _ = Forward(schedule, model(config), None, routes=Routes())(pixels, present)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("level", list(LEVELS))
def test_kernels_answer_as_the_references_do_in_fp8(level: str, request: Any) -> None:
    schedule = Schedule.parse(LEVELS[level], CONFIG)
    words = torch.nn.functional.normalize(torch.randn(20, 192), dim=1)
    pixels = torch.randint(0, 256, (4, 32, 48, 3), dtype=torch.uint8)
    present = torch.arange(5, dtype=torch.int32).clamp(max=3)
    vit = in_fp8(model(), torch.device("cpu"), torch.float32)
    forward = Forward(schedule, vit, words, routes=Routes())
    expected, _ = forward(pixels, present)
    request.getfixturevalue("interpreted")
    scores, _ = forward(pixels, present)
    # A value on the edge between two of FP8 goes to either, by rounding.
    torch.testing.assert_close(scores[:3], expected[:3], rtol=0, atol=2e-2)


@torch.inference_mode()
@pytest.mark.parametrize("level", list(LEVELS))
def test_kernels_answer_as_the_references_do(level: str, routes: Routes, request: Any) -> None:
    schedule = Schedule.parse(LEVELS[level], CONFIG)
    words = torch.nn.functional.normalize(torch.randn(20, 192), dim=1)
    pixels = torch.randint(0, 256, (4, 32, 48, 3), dtype=torch.uint8)
    present = torch.arange(5, dtype=torch.int32).clamp(max=3)
    forward = Forward(schedule, model(), words, routes=routes)
    expected, expected_dests = forward(pixels, present)
    request.getfixturevalue("interpreted")
    scores, dests = forward(pixels, present)
    torch.testing.assert_close(scores[:3], expected[:3], rtol=1e-4, atol=1e-5)
    for dest, same in zip(dests, expected_dests, strict=True):
        rows = len(dest) // 4 * 3  # those of the real images
        assert torch.equal(dest[:rows], same[:rows])

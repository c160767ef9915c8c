"""What a GPU computes in: the first precision in which level 0 answers as in fp32."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from foveate.inference.engine import Engine
from foveate.inference.graphs import GraphEngine
from foveate.inference.precision import gpu_dtype
from foveate.model.vit import ViT

CPU = torch.device("cpu")


@pytest.fixture
def engine(build_engine: Callable[..., Engine]) -> Any:
    return build_engine([[]], std=0.1)


@pytest.fixture
def vit(engine: Any) -> ViT:
    return engine.levels[0].vit


def test_fp16_serves_where_it_answers_as_fp32_does(vit: ViT) -> None:
    assert gpu_dtype(vit, CPU) == torch.float16
    assert gpu_dtype(vit, CPU, "bf16") == torch.bfloat16
    assert gpu_dtype(vit, CPU, "fp32") == torch.float32


def test_a_channel_too_large_for_fp16_is_served_in_bf16(
    engine: Any, vit: ViT, caplog: pytest.LogCaptureFixture
) -> None:
    """Large models have such channels, which the last norm makes harmless: fp16 ends at 65504."""
    with torch.no_grad():
        vit.pos_embed[..., 0] += 8e4
        vit.norm.weight[0] = 0.0
    with caplog.at_level(logging.WARNING):
        dtype = gpu_dtype(vit, CPU)
    assert dtype == torch.bfloat16
    assert "in fp16, a score of level 0 is off by nan; levels run in bf16" in caplog.text
    pixels = torch.zeros(1, 96, 96, 3, dtype=torch.uint8)
    assert GraphEngine(engine, CPU, 1, dtype).infer(pixels, [0]).scores.isfinite().all()
    # Whoever asks for fp16 gets right answers.
    assert gpu_dtype(vit, CPU, "fp16") == torch.float32

"""Which precision serves: the first in which level 0 answers as in fp32."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from foveate.errors import InputError
from foveate.inference.engine import Engine
from foveate.inference.start import check_gpu, gpu_engine

CPU = torch.device("cpu")


@pytest.fixture
def small(build_engine: Callable[..., Engine]) -> Any:
    return build_engine([[]], std=0.1)


def test_fp16_serves_where_it_answers_as_fp32_does(small: Any) -> None:
    assert gpu_engine(small, CPU, 2, "auto").precision == "fp16"
    assert gpu_engine(small, CPU, 2, "bf16").precision == "bf16"
    assert gpu_engine(small, CPU, 2, "fp32").precision == "fp32"


def test_a_channel_too_large_for_fp16_is_served_in_bf16(
    small: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Large models have such channels, which the last norm makes harmless: fp16 ends at 65504."""
    vit = small.levels[0].vit
    with torch.no_grad():
        vit.pos_embed[..., 0] += 8e4
        vit.norm.weight[0] = 0.0
    with caplog.at_level(logging.WARNING):
        engine = gpu_engine(small, CPU, 2, "auto")
    assert engine.precision == "bf16"
    assert "levels run in bf16" in caplog.text
    assert engine.infer(torch.zeros(1, 96, 96, 3, dtype=torch.uint8), [0]).scores.isfinite().all()
    # Whoever asks for fp16 gets right answers.
    assert gpu_engine(small, CPU, 2, "fp16").precision == "fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_here_is_named() -> None:
    with pytest.raises(InputError, match=r"device=cuda:1: .* finds no GPU here"):
        check_gpu(torch.device("cuda", 1))

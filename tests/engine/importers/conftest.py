"""Checkpoints with random weights, as their libraries save them, and what those answer."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models() -> Any:
    """``foveate_benchmarks.parity.transformers_models``."""
    from foveate_benchmarks.parity import transformers_models  # transformers takes seconds

    return transformers_models


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, models: Any) -> Callable[[str], Any]:
    """``checkpoint(case)``: its folder, eight images and their logits; made once."""
    made: dict[str, SimpleNamespace] = {}

    def make(case: str) -> SimpleNamespace:
        if case not in made:
            folder = tmp_path_factory.mktemp("checkpoint")
            images = models.pixels(models.CASES[case].edge)
            logits = models.save(case, folder, images)
            made[case] = SimpleNamespace(folder=folder, images=images, logits=logits)
        return made[case]

    return make

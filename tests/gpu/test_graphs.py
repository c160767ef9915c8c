"""A small model on a GPU: replays equal the passes they captured, and the CPU's answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.inference.engine import Engine
from foveate.inference.fixed import Forward, Routes
from foveate.inference.graphs import GraphEngine
from foveate.model.vit import ViT, ViTConfig

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

CONFIG = ViTConfig(height=64, width=64, patch=8, dim=64, depth=4, heads=2, mlp_dim=256)
PRUNES = [{"kind": "prune", "block": b, "keep": k, "fate": "package"} for b, k in ((1, 16), (2, 6))]
LEVELS: list[list[dict[str, Any]]] = [
    [],
    PRUNES,
    [{**prune, "fate": "drop"} for prune in PRUNES],
    [{"kind": "vwt-intra", "keep": 24}, *PRUNES],
    [{"kind": "vwt-inter", "count": 20}],
    [{"kind": "vwt-intra", "keep": 24, "fate": "drop"}, {**PRUNES[0], "fate": "merge"}],
    [{"kind": "adaptive", "keeps": [12, 24, 48], "variance": 0.05}],
    [{**PRUNES[0], "score": "mlp-shift"}, {**PRUNES[1], "score": "random"}],
    [{**PRUNES[0], "fate": "package-sum", "score": "cls"}],
    [{"kind": "merge", "block": b, "remove": 16} for b in (0, 1)],
    [{"kind": "merge", "block": b, "remove": 16, "by": "pitome"} for b in (0, 1)],
]


@pytest.fixture(scope="module")
def engine(build_engine: Callable[..., Engine]) -> Engine:
    """A model with random weights and a level of every kind."""
    return build_engine(LEVELS, CONFIG, std=0.1)


@pytest.fixture(params=["torch", "foveate"])
def routes(request: pytest.FixtureRequest) -> Routes:
    return Routes(attention=request.param, gelu=request.param, norm=request.param)


@pytest.fixture
def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)


@torch.inference_mode()
def test_replays_equal_the_eager_pass_to_the_bit(
    engine: Engine, routes: Routes, pixels: Tensor
) -> None:
    device = torch.device("cuda", 0)
    graphs = GraphEngine(engine, device, max_batch=4, dtype=torch.float16, routes=routes)
    images = torch.tensor([3], dtype=torch.int32, device=device)
    for index, level in enumerate(engine.levels):
        vit = ViT(CONFIG).to(device, torch.float16)
        vit.load_state_dict(level.vit.state_dict())
        assert level.words is not None
        words = level.words.to(device, torch.float16)
        schedule = level.schedule.variants[-1]  # noise is busy, if the level is adaptive
        forward = Forward(schedule, vit, words, batch=4, routes=routes)
        eager = forward(pixels.to(device), images)[0][:3].cpu()
        for _ in range(3):
            assert torch.equal(graphs.infer(pixels[:3], [index] * 3).scores, eager), level.schedule


def test_it_answers_as_the_cpu_does(engine: Engine, routes: Routes, pixels: Tensor) -> None:
    graphs = GraphEngine(
        engine, torch.device("cuda", 0), max_batch=4, dtype=torch.float32, routes=routes
    )
    for level in range(len(LEVELS)):
        for images in (1, 3, 4):
            expected = engine.infer(pixels[:images], [level] * images, token_map=True)
            answers = graphs.infer(pixels[:images], [level] * images, token_map=True)
            torch.testing.assert_close(answers.scores, expected.scores, rtol=1e-3, atol=1e-4)
            assert answers.token_map is not None
            assert expected.token_map is not None
            assert torch.equal(answers.token_map, expected.token_map)

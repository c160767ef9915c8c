"""A small model on a GPU: replays equal the passes they captured, and the CPU's answers.

Without a GPU the same passes run on the CPU, as they are: so that this file is right when there is
one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.inference.engine import Answers, Engine
from foveate.inference.fixed import Forward, Routes
from foveate.inference.graphs import GraphEngine
from foveate.model.vit import ViT, ViTConfig

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", 0) if GPU else torch.device("cpu")

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


def captured(engine: Engine, dtype: torch.dtype, routes: Routes) -> GraphEngine:
    graphs = GraphEngine(engine, DEVICE, max_batch=4, dtype=dtype, routes=routes)
    if GPU:
        graphs.capture()
    return graphs


@torch.inference_mode()
def test_replays_equal_the_eager_pass_to_the_bit(
    engine: Engine, routes: Routes, pixels: Tensor
) -> None:
    graphs = captured(engine, torch.float16, routes)
    # The graph of four images, one of which has no rows.
    present = torch.tensor([0, 1, 2, 3, 3], dtype=torch.int32, device=DEVICE)
    own = torch.cat([pixels[:3], torch.zeros_like(pixels[:1])]).to(DEVICE)
    for index, level in enumerate(engine.levels):
        vit = ViT(CONFIG).to(DEVICE, torch.float16)
        vit.load_state_dict(level.vit.state_dict())
        assert level.words is not None
        words = level.words.to(DEVICE, torch.float16)
        schedule = level.schedule.variants[-1]  # noise is busy, if the level is adaptive
        forward = Forward(schedule, vit, words, routes)
        eager = forward(own, present)[0][:3].cpu()
        for _ in range(3):
            assert torch.equal(graphs.infer(pixels[:3], [index] * 3).scores, eager), level.schedule


def test_batches_under_way_do_not_meet(engine: Engine, routes: Routes, pixels: Tensor) -> None:
    graphs = captured(engine, torch.float32, routes)
    batches = [(pixels, [0, 1, 2, 3]), (pixels.flip(0), [5] * 4), (pixels[1:3], [1, 0])] * 4
    before: tuple[Callable[[], Answers], Tensor, list[int]] | None = None
    for images, levels in batches:
        wait = graphs.launch([images], levels, token_map=True)
        if before is not None:
            expected = engine.infer(before[1], before[2], token_map=True)
            answers = before[0]()
            torch.testing.assert_close(answers.scores, expected.scores, rtol=1e-3, atol=1e-4)
            assert torch.equal(answers.token_map, expected.token_map)
        before = wait, images, levels


def test_it_answers_as_the_cpu_does(engine: Engine, routes: Routes, pixels: Tensor) -> None:
    graphs = captured(engine, torch.float32, routes)
    for level in range(len(LEVELS)):
        for images in (1, 3, 4):
            expected = engine.infer(pixels[:images], [level] * images, token_map=True)
            answers = graphs.infer(pixels[:images], [level] * images, token_map=True)
            torch.testing.assert_close(answers.scores, expected.scores, rtol=1e-3, atol=1e-4)
            assert answers.token_map is not None
            assert expected.token_map is not None
            assert torch.equal(answers.token_map, expected.token_map)

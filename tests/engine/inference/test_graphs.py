"""The GPU's forward pass, run on the CPU in float32: it answers as the engine does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from foveate.inference.engine import Engine
from foveate.inference.fixed import Routes
from foveate.inference.graphs import GraphEngine
from foveate.inference.token_map import trace

LEVELS = range(9)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["torch", "foveate"])
def graphs(engine: Engine, request: pytest.FixtureRequest) -> GraphEngine:
    routes = Routes(attention=request.param, gelu=request.param, norm=request.param)
    return GraphEngine(engine, CPU, max_batch=4, dtype=torch.float32, routes=routes)


def test_batches_are_powers_of_two_up_to_the_largest(engine: Engine) -> None:
    few = GraphEngine(engine, CPU, max_batch=1, dtype=torch.float32)
    assert few.batches == (1,)
    assert GraphEngine(engine, CPU, max_batch=6, dtype=torch.float32).batches == (1, 2, 4, 6)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("images", [1, 3, 4])
def test_it_answers_as_the_engine_does(
    engine: Engine, graphs: GraphEngine, pixels: Tensor, level: int, images: int
) -> None:
    expected = engine.infer(pixels[:images], [level] * images, token_map=True)
    answers = graphs.infer(pixels[:images], [level] * images, token_map=True)
    torch.testing.assert_close(answers.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert expected.token_map is not None
    assert answers.token_map is not None
    assert torch.equal(answers.token_map, expected.token_map)


def test_two_batches_may_be_under_way_and_each_gets_its_own_answers(
    engine: Engine, graphs: GraphEngine, pixels: Tensor
) -> None:
    batches = [([pixels[:1], pixels[3:5]], [0, 5, 6]), ([pixels[4:8]], [5, 5, 5, 0])] * 3
    before, wanted = None, None
    for images, levels in batches:
        wait = graphs.launch(images, levels, token_map=True)
        if before is not None and wanted is not None:
            answers = before()
            torch.testing.assert_close(answers.scores, wanted.scores, rtol=1e-4, atol=1e-5)
            assert torch.equal(answers.token_map, wanted.token_map)
        before, wanted = wait, engine.infer(images, levels, token_map=True)


def test_a_batch_that_cannot_begin_leaves_room_for_the_next(
    graphs: GraphEngine, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        with pytest.raises(ValueError, match="levels: 2, expected one for each of 3 images"):
            graphs.launch([pixels[:3]], [0, 0])
        with pytest.raises(ValueError, match=r"uint8 \[2, 16, 96, 3\], expected uint8 \[B, 96, 96"):
            graphs.launch([pixels[:2, :16]], [0, 0])
        with pytest.raises(ValueError, match="images: 5, expected at most 4"):
            graphs.launch([pixels[:5]], [0] * 5)
        with monkeypatch.context() as broken:
            broken.setattr(graphs, "_write_orders", _no_memory)
            with pytest.raises(RuntimeError, match="no memory"):
                graphs.launch([pixels[:2]], [0, 0])
    assert len(graphs.infer(pixels[:3], [0, 0, 0]).scores) == 3


def _no_memory(*_: object) -> None:
    raise RuntimeError("no memory")


@pytest.mark.parametrize("levels", [7, 9, 12])
def test_each_image_of_a_large_batch_needs_a_level(
    graphs: GraphEngine, pixels: Tensor, levels: int
) -> None:
    with pytest.raises(ValueError, match=f"levels: {levels}, expected one for each of 8 images"):
        graphs.infer(pixels, [0] * levels)


def test_a_level_that_moves_nothing_has_its_token_map_where_it_computes(engine: Engine) -> None:
    """Copied there from the CPU, it would wait for what was launched before."""
    assert trace(engine.levels[0].schedule, engine.config, [], 3, torch.device("meta")).is_meta


def test_a_thread_that_waits_uses_the_gpu_that_computes(
    graphs: GraphEngine, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = torch.device("cuda", 1)
    chosen: list[tuple[int, torch.device]] = []
    wait = graphs.launch([pixels[:1]], [0])
    monkeypatch.setattr(graphs, "device", gpu)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: chosen.append((threading.get_ident(), device))
    )
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(wait).result().scores) == 1
        assert chosen == [(pool.submit(threading.get_ident).result(), gpu)]


def test_an_adaptive_level_looks_at_images_where_the_gpu_has_them(
    build_engine: Callable[..., Engine], pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor takes longer to look at an image than the GPU does to answer it."""
    engine = build_engine([[{"kind": "adaptive", "keeps": [9, 18, 36], "variance": 0.05}]])
    small = GraphEngine(engine, CPU, max_batch=4, dtype=torch.float32)
    stage, seen = small._pixels.device, []
    looked = small.parts
    monkeypatch.setattr(small, "parts", lambda *args: seen.append(args[0]) or looked(*args))
    images = pixels[:2, : engine.config.height, : engine.config.width]
    before = small.launch([images], [0, 0])
    small.launch([images], [0, 0])()
    before()
    places = [images.data_ptr() - stage.data_ptr() for images in seen]
    assert places == [0, 4 * stage.shape[1]]


def test_levels_mix_and_large_batches_are_split(
    engine: Engine, graphs: GraphEngine, pixels: Tensor
) -> None:
    levels = [5, 0, 5, 6, 5, 5, 5, 0]
    expected = engine.infer(pixels, levels)
    answers = graphs.infer(pixels, levels)
    torch.testing.assert_close(answers.scores, expected.scores, rtol=1e-4, atol=1e-5)
    assert answers.token_map is None

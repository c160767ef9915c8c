"""Levels of every kind of reducer, on small models with random weights: what is promised of all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from foveate.errors import LadderError, WeightsError
from foveate.inference.engine import Engine
from foveate.inference.fixed import PLAIN, Routes
from foveate.inference.graphs import GraphEngine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig
from foveate.reduce import prune as pruning
from foveate_kernels.library import tracing
from foveate_kernels.ops.bipartite_match import reference as bipartite_match
from foveate_kernels.ops.match_kept import reference as match_kept
from foveate_kernels.ops.select_tokens import select_tokens
from foveate_kernels.packed import FOLDED, Plan, uniform

CONFIG = ViTConfig(height=40, width=48, patch=8, dim=32, depth=4, heads=2, mlp_dim=64)
N = CONFIG.patches


def prune(block: int, keep: int, fate: str, score: str = "cls-value") -> dict[str, Any]:
    return {"kind": "prune", "block": block, "keep": keep, "fate": fate, "score": score}


def merge(block: int, remove: int, by: str = "tome") -> dict[str, Any]:
    return {"kind": "merge", "block": block, "remove": remove, "by": by}


LEVELS: dict[str, list[dict[str, Any]]] = {
    "dense": [],
    "intra, as published": [{"kind": "vwt-intra", "keep": 12, "fate": "drop"}],
    "adaptive": [{"kind": "adaptive", "keeps": [6, 12, 18], "variance": 0.05}],
    "evit": [prune(1, 14, "package-sum", "cls"), prune(2, 7, "package-sum", "cls")],
    "diffrate": [prune(0, 20, "merge"), prune(1, 14, "merge"), prune(3, 5, "merge")],
    "key": [
        prune(0, 20, "drop", "key"),
        prune(1, 14, "package", "key"),
        prune(3, 7, "merge", "key"),
    ],
    "shift": [prune(1, 14, "drop", "mlp-shift"), prune(2, 7, "package", "mlp-shift")],
    "selector": [prune(1, 14, "package", "selector"), prune(2, 7, "package", "selector")],
    "random": [prune(1, 14, "drop", "random"), prune(2, 7, "merge", "random")],
    "tome": [merge(block, 5) for block in range(4)],
    "pitome": [merge(block, 5, "pitome") for block in range(3)],
    "intra, tome, diffrate": [
        {"kind": "vwt-intra", "keep": 20},
        merge(0, 5),
        prune(2, 6, "merge"),
    ],
    "inter, package, pitome": [
        {"kind": "vwt-inter", "count": 20},
        prune(0, 12, "package"),
        merge(2, 4, "pitome"),
    ],
}


# Heads that read something else than CLS, and all that a checkpoint may differ in.
OTHERS = {
    "mean": replace(CONFIG, prefix=3, pool="mean", norm_last=True, qk_norm=True),
    "map": replace(CONFIG, prefix=0, pool="map", activation="gelu-tanh", unit=True, sigmoid=True),
    "both": replace(
        CONFIG, prefix=2, pool="cls+mean", norm_first=True, activation="quick-gelu", embedding=24
    ),
}


def fitting(config: ViTConfig) -> dict[str, list[dict[str, Any]]]:
    """The levels above that the model can have: without a CLS token, no score asks for it."""

    def asks_cls(reducers: list[dict[str, Any]]) -> bool:
        return any(str(reducer.get("score")).startswith("cls") for reducer in reducers)

    return {k: v for k, v in LEVELS.items() if config.reads_cls or not asks_cls(v)}


class Standin(nn.Module):
    """A selector as small as can be: a line in the tokens and their mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.line = nn.Linear(2 * CONFIG.dim, 1, dtype=torch.float64).requires_grad_(False)

    def forward(self, x: Tensor, packages: int = 0) -> Tensor:
        both = torch.cat([x, x.mean(1, keepdim=True).expand_as(x)], 2)
        return self.line(both).squeeze(2).float()


@pytest.fixture(scope="module")
def every(build_engine: Callable[..., Engine]) -> Engine:
    """One small model with all the levels above, in float64."""
    selectors = {1: Standin(), 2: Standin()}
    return build_engine(list(LEVELS.values()), CONFIG, selectors, std=0.2, dtype=torch.float64)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Six images [6, 40, 48, 3], nearly flat to busy; no two patches are the same."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (6, 40, 48, 3), dtype=torch.uint8, generator=generator)
    for i in range(6):
        pixels[i, : 8 * i] //= 16
        pixels[i, : 8 * i] += 40 * i
    return pixels


@pytest.mark.parametrize("maker", ["torch", "foveate"])
def test_the_sequence_of_kernels_answers_as_the_engine_does(
    every: Engine, pictures: Tensor, maker: Any
) -> None:
    routes = Routes(attention=maker, gelu=maker, norm=maker)
    graphs = GraphEngine(every, torch.device("cpu"), 4, torch.float64, routes)
    for level, name in enumerate(LEVELS):
        for images in (3, 6):
            wanted = [level] * images
            expected = every.infer(pictures[:images], wanted, token_map=True)
            answers = graphs.infer(pictures[:images], wanted, token_map=True)
            torch.testing.assert_close(answers.scores, expected.scores, rtol=0, atol=1e-6)
            assert answers.token_map is not None
            assert expected.token_map is not None
            assert torch.equal(answers.token_map, expected.token_map), name


def test_the_static_forms_of_the_operators_answer_as_the_engine_does(
    every: Engine, pictures: Tensor
) -> None:
    """What is traced to export a level. Every batch is full, as theirs are."""
    graphs = GraphEngine(every, torch.device("cpu"), 6, torch.float64, PLAIN)
    for level, name in enumerate(LEVELS):
        wanted = [level] * 6
        expected = every.infer(pictures, wanted, token_map=True)
        with tracing():
            answers = graphs.infer(pictures, wanted, token_map=True)
        torch.testing.assert_close(answers.scores, expected.scores, rtol=0, atol=1e-6)
        assert answers.token_map is not None
        assert expected.token_map is not None
        assert torch.equal(answers.token_map, expected.token_map), name


@pytest.mark.parametrize("score", ["cls", "cls-value", "key", "mlp-shift", "selector"])
def test_a_clear_choice_is_the_same_in_any_batch(
    build_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch, score: str
) -> None:
    """In float32, scores that choose differ by rounding, which moves no token but near a tie."""
    engine = build_engine(
        [[], [prune(1, 14, "drop", score)]], CONFIG, {1: Standin().float()}, std=0.2
    )
    seen: list[Tensor] = []

    def spy(scores: Tensor, *args: Any, **options: Any) -> Plan:
        seen.append(scores.mean(0).view(-1, CONFIG.tokens)[:, CONFIG.prefix :])
        return select_tokens(scores, *args, **options)

    monkeypatch.setattr(pruning, "select_tokens", spy)
    generator = torch.Generator().manual_seed(4)
    pixels = torch.randint(0, 256, (32, 40, 48, 3), dtype=torch.uint8, generator=generator)
    together = engine.infer(pixels, [1] * 32, token_map=True)
    alone = [engine.infer(pixels[i : i + 1], [1], token_map=True) for i in range(32)]
    scores = torch.cat(seen[1:])
    rounding = 1e-5 * scores.abs().amax(1)
    assert ((seen[0] - scores).abs() <= rounding.unsqueeze(1)).all()
    ranked = scores.sort(1, descending=True).values
    clear = ranked[:, 13] - ranked[:, 14] > 2 * rounding
    assert clear.sum() >= 24
    maps = torch.cat([answers.token_map for answers in alone])  # type: ignore[misc]
    assert together.token_map is not None
    assert torch.equal(together.token_map[clear], maps[clear])


def test_an_adaptive_level_runs_each_image_at_one_of_its_counts(
    build_engine: Callable[..., Engine], pictures: Tensor
) -> None:
    fixed = [[{"kind": "vwt-intra", "keep": keep}] for keep in (6, 12, 18)]
    engine = build_engine([[], LEVELS["adaptive"], *fixed], CONFIG)
    adaptive = engine.levels[1].schedule.input
    chosen = adaptive.choose(pictures, CONFIG.patch)  # type: ignore[union-attr]
    # Noise of any 8x8 patch is over 0.05 (a uniform byte has 1/12): 30 busy patches, 24, 18, ...
    assert chosen.tolist() == [2, 2, 2, 1, 0, 0]
    answers = engine.infer(pictures, [1] * 6, token_map=True)
    for i, variant in enumerate(chosen.tolist()):
        own = engine.infer(pictures[i : i + 1], [2 + variant], token_map=True)
        torch.testing.assert_close(answers.scores[i : i + 1], own.scores, rtol=0, atol=1e-5)
        assert answers.token_map is not None
        assert own.token_map is not None
        assert torch.equal(answers.token_map[i : i + 1], own.token_map)
    schedule = engine.levels[1].schedule
    assert schedule.tokens(CONFIG) == engine.levels[4].schedule.tokens(CONFIG)


@pytest.mark.parametrize("name", OTHERS)
def test_other_heads_are_served_alike(
    build_engine: Callable[..., Engine], pictures: Tensor, name: str
) -> None:
    """By both makers of operators, and with as many multiplications as said."""
    config = OTHERS[name]
    levels = fitting(config)
    selectors = {1: Standin(), 2: Standin()}
    engine = build_engine(
        list(levels.values()), config, selectors, seed=1, std=0.2, dtype=torch.float64
    )
    for maker in ("torch", "foveate"):
        routes = Routes(attention=maker, gelu=maker, norm=maker)  # type: ignore[arg-type]
        graphs = GraphEngine(engine, torch.device("cpu"), 4, torch.float64, routes)
        for level, kind in enumerate(levels):
            expected = engine.infer(pictures, [level] * 6, token_map=True)
            answers = graphs.infer(pictures, [level] * 6, token_map=True)
            torch.testing.assert_close(answers.scores, expected.scores, rtol=0, atol=1e-6)
            assert answers.token_map is not None
            assert expected.token_map is not None
            assert torch.equal(answers.token_map, expected.token_map), kind
            assert expected.token_map.max() < engine.levels[level].schedule.tokens(config)[1][-1]
    for level, kind in enumerate(levels):
        if kind not in ("adaptive", "selector"):
            schedule = engine.levels[level].schedule
            macs = engine.ladder.levels[level].macs - unread(schedule, config)
            assert count_macs(engine, level, pictures[:4]) == 4 * macs, kind


def test_a_score_by_cls_needs_a_head_that_reads_it() -> None:
    with pytest.raises(LadderError, match=r"score='cls-value'.*pool='map'.*'key'"):
        Schedule.parse([prune(1, 14, "drop")], OTHERS["map"])


@pytest.mark.parametrize(("name", "key"), [("map", "prefix=0"), ("mean", "prefix=3")])
def test_what_knows_the_original_vit_only_says_so(name: str, key: str) -> None:
    CONFIG.require_plain("compress")
    with pytest.raises(WeightsError, match=f"compress: the model has {key}"):
        OTHERS[name].require_plain("compress")


def test_a_mean_counts_what_rows_stand_for(build_engine: Callable[..., Engine]) -> None:
    """Where all patches are alike, merging them changes nothing that the head reads."""
    levels: list[list[dict[str, Any]]] = [[], [merge(2, 12), merge(3, 6)]]
    for name in ("mean", "map"):
        engine = build_engine(levels, OTHERS[name], std=0.2)
        engine.levels[0].vit.pos_embed.zero_()
        engine = ReferenceEngine(
            PreparedLadder(engine.ladder, engine.levels)
        )  # which folds positions into the embedding
        grey = torch.full((1, 40, 48, 3), 99, dtype=torch.uint8)
        answers = engine.infer(grey.repeat(2, 1, 1, 1), [0, 1]).scores
        torch.testing.assert_close(answers[0], answers[1], rtol=1e-4, atol=1e-6)


def test_counted_multiplications_are_those_of_the_formula(every: Engine, pictures: Tensor) -> None:
    """What torch counts, two operations each, and the matching our operators hide from it."""
    for level, name in enumerate(LEVELS):
        schedule = every.levels[level].schedule
        if name in ("adaptive", "selector"):  # counts of images, and layers of a selector
            continue
        words = 100 if name.startswith("inter") else 0
        macs = 4 * (schedule.macs(CONFIG, words) - unread(schedule, CONFIG))
        assert count_macs(every, level, pictures[:4], words) == macs, name


def unread(schedule: Schedule, config: ViTConfig) -> int:
    """Multiply-accumulates of one image that are not done: those of rows of the last block, after
    its attention, that nobody reads."""
    if config.pool != "cls" or config.depth - 1 in schedule.blocks:
        return 0
    shape = config.shapes[-1]
    rows = schedule.tokens(config)[1][-1] - 1
    return rows * config.dim * (shape.heads * shape.v_dim + 2 * shape.mlp_dim)


def count_macs(engine: Engine, level: int, pixels: Tensor, words: int = 100) -> int:
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    shapes = {flash: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=shapes) as counter:
        engine.infer(pixels, [level] * len(pixels))
        _match(engine.levels[level].schedule, engine.config, len(pixels), words)
    return counter.get_total_flops() // 2


def _match(schedule: Schedule, config: ViTConfig, images: int, words: int) -> None:
    """The products of matching alone, on rows of the right number."""
    attention, _ = schedule.tokens(config)
    first = config.prefix
    torch.randn(images * N, 192) @ torch.randn(192, words)
    packaged = schedule.input is not None and schedule.input.packages
    for block, reducer in schedule.blocks.items():
        n = attention[block]
        cu_seqlens = uniform(images, n)
        if getattr(reducer, "by", None) == "tome":
            bipartite_match(torch.randn(images * n, config.head_dim), cu_seqlens, n, 1, first)
        elif getattr(reducer, "fate", None) == "merge":
            left = first + reducer.keep + packaged  # type: ignore[union-attr]
            dest = torch.tensor([*range(left), *[FOLDED] * (n - left)] * images).int()
            match_kept(torch.randn(images * n, config.dim), dest, cu_seqlens, n, first)
        packaged = reducer.packages(packaged)


# What heads read, and the tokens it takes that are no patches.
POOLS: list[tuple[Any, int]] = [
    ("cls", 1),
    ("cls+dist", 2),
    ("cls+mean", 1),
    ("mean", 0),
    ("map", 0),
]


class Case(NamedTuple):
    config: ViTConfig
    levels: list[list[dict[str, Any]]]
    seed: int
    order: list[int]  # level of each image


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A small model, levels of any valid reducers, and a batch that mixes them."""
    heads, depth = draw(st.sampled_from([1, 2, 3])), draw(st.integers(2, 4))
    pool, least = draw(st.sampled_from(POOLS))
    config = ViTConfig(
        height=8 * draw(st.integers(2, 5)),
        width=8 * draw(st.integers(3, 5)),
        patch=8,
        dim=16 * heads,
        depth=depth,
        heads=heads,
        mlp_dim=draw(st.sampled_from([16, 48])),
        classes=draw(st.integers(2, 11)),
        pool=pool,
        prefix=least + draw(st.integers(0, 3)),
        norm_last=pool == "mean" and draw(st.booleans()),
        norm_first=draw(st.booleans()),
        qk_norm=draw(st.booleans()),
        activation=draw(st.sampled_from(["gelu", "gelu-tanh", "quick-gelu"])),
        embedding=draw(st.sampled_from([0, 24])),
        unit=draw(st.booleans()),
        sigmoid=draw(st.booleans()),
    )
    levels = [[], *(draw(levels_of(config)) for _ in range(2))]
    order = draw(st.lists(st.integers(0, 2), min_size=1, max_size=5))
    return Case(config, levels, draw(st.integers(0, 2**16)), order)


@st.composite
def levels_of(draw: st.DrawFn, config: ViTConfig) -> list[dict[str, Any]]:
    reducers: list[dict[str, Any]] = []
    n, packaged = config.patches, False  # of patches and packages
    cls = ["cls", "cls-value"] if config.reads_cls else []
    kind = draw(st.sampled_from(["none", "package", "drop", "inter"]))
    if kind == "inter":
        n = draw(st.integers(4, n))
        reducers.append({"kind": "vwt-inter", "count": n})
    elif kind != "none":
        keep = draw(st.integers(4, n - 1))
        packaged = kind == "package"
        reducers.append({"kind": "vwt-intra", "keep": keep, "fate": kind})
        n = keep + packaged
    for block in sorted(draw(st.sets(st.integers(0, config.depth - 1)))):
        most = min(n // 2, n - 4)
        if draw(st.booleans()) and most >= 1:
            by = draw(st.sampled_from(["tome", "pitome"]))
            reducers.append(merge(block, draw(st.integers(1, most)), by))
            n, packaged = n - reducers[-1]["remove"], False
        elif n - packaged > 4:
            score = draw(st.sampled_from([*cls, "key", "random", "mlp-shift"]))
            if score == "mlp-shift" and block == config.depth - 1:
                score = "key"
            fates = ["drop", "package", "merge", *["package-sum"] * (score == "cls")]
            fate, keep = draw(st.sampled_from(fates)), draw(st.integers(4, n - packaged - 1))
            reducers.append(prune(block, keep, fate, score))
            packaged = packaged or fate.startswith("package")
            n = keep + packaged
    return reducers


@dataclass
class Counts:
    """Rows that pass through the attention and the MLP of each block."""

    attention: list[int]
    mlp: list[int]

    def watch(self, engine: Engine) -> list[Any]:
        handles = []
        for block in engine.levels[0].vit.blocks:
            for layer, seen in ((block.attn.qkv, self.attention), (block.mlp.fc1, self.mlp)):
                hook = lambda _, args, __, seen=seen: seen.append(len(args[0]))  # noqa: E731
                handles.append(layer.register_forward_hook(hook))  # type: ignore[operator, union-attr]
        return handles


@settings(max_examples=60, derandomize=True)
@given(case=cases())
def test_any_schedule_keeps_its_promises(build_engine: Callable[..., Engine], case: Case) -> None:
    """Level 0 is the plain model, mates do not matter, a rerun is the same, counts are as said.

    In float64, whose rounding is too small to swap two tokens.
    """
    config, order = case.config, case.order
    engine = build_engine(case.levels, config, seed=case.seed, std=0.2, dtype=torch.float64)
    shape = (len(order), config.height, config.width, 3)
    generator = torch.Generator().manual_seed(case.seed)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    pixels[:, :8] //= 16

    counts = Counts([], [])
    handles = counts.watch(engine)
    answers = engine.infer(pixels, order, token_map=True)
    for handle in handles:
        handle.remove()
    attention, mlp = [], []
    for level in dict.fromkeys(order):  # one after the other
        schedule, images = engine.levels[level].schedule, order.count(level)
        attended, fed = schedule.tokens(config)
        if unread(schedule, config):
            fed[-1] = 1
        attention += [images * n for n in attended]
        mlp += [images * n for n in fed]
    assert counts.attention == attention
    assert counts.mlp == mlp

    again = engine.infer(pixels, order, token_map=True)
    assert torch.equal(again.scores, answers.scores)
    dense = engine.levels[0].vit.scores(engine.levels[0].vit(pixels))
    for i, level in enumerate(order):
        own = engine.infer(pixels[i : i + 1], [level], token_map=True)
        assert answers.token_map is not None
        assert own.token_map is not None
        assert torch.equal(own.token_map[0], answers.token_map[i])
        torch.testing.assert_close(own.scores[0], answers.scores[i], rtol=0, atol=1e-6)
        if level == 0:
            torch.testing.assert_close(answers.scores[i], dense[i], rtol=0, atol=1e-6)


@settings(max_examples=60, derandomize=True)
@given(case=cases())
def test_a_schedule_is_read_and_written_alike(case: Case) -> None:
    for reducers in case.levels:
        schedule = Schedule.parse(reducers, case.config)
        assert Schedule.parse(schedule.dump(), case.config) == schedule

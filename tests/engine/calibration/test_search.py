"""Coordinate search over the counts of a schedule."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.calibration.candidate import COUNTS, WEIGHTS, Point, label, legal
from foveate.calibration.cost import Cost, learn_overheads
from foveate.calibration.families import FAMILIES, Family
from foveate.calibration.moves import moves
from foveate.calibration.search import descend
from foveate.inference.block_times import BlockTimes
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig

CONFIG = ViTConfig()


def kept(point: Point) -> int:
    """Sum of the counts of reducers that keep."""
    return sum(reducer["keep"] for reducer in point.reducers)


def rows(point: Point) -> int:
    """Tokens of all blocks."""
    return sum(map(sum, Schedule.parse(point.reducers, CONFIG).tokens(CONFIG)))


def loss(point: Point) -> float:
    """Convex; for a sum of k it is least where k is proportional to the root of its weight."""
    counts = [reducer["keep"] for reducer in point.reducers]
    return sum(weight / count for weight, count in zip((9.0, 4.0, 1.0), counts, strict=True))


def test_search_finds_the_optimum_that_uniform_schedules_miss() -> None:
    family = next(family for family in FAMILIES if family.name == "vwt-intra + drop")
    budget = 120
    start = next(point for point in family.uniform(CONFIG) if kept(point) <= budget)

    def near(point: Point, step: int) -> Iterator[Point]:
        return moves(
            point,
            step,
            multiple=1,
            legal=lambda p: legal(p, CONFIG),
            fits=lambda p: kept(p) <= budget,
        )

    found = descend(start, near, loss, steps=(9, 3, 1), patience=500)
    optimum = (3 + 2 + 1) ** 2 / budget  # Cauchy-Schwarz: at 60, 40 and 20 tokens
    assert loss(start) > 1.02 * optimum
    assert loss(found) <= 1.001 * optimum
    assert kept(found) <= budget


@settings(max_examples=20)
@given(
    family=st.sampled_from([family for family in FAMILIES if not family.needs]),
    share=st.floats(0.2, 0.9),
    step=st.integers(1, 12),
    multiple=st.sampled_from([1, 4, 8]),
)
def test_moves_are_legal_fit_and_change_something(
    family: Family, share: float, step: int, multiple: int
) -> None:
    line = list(family.uniform(CONFIG, multiple=multiple))
    start = line[int(share * len(line))]
    budget = rows(start)
    near = list(
        moves(
            start,
            step,
            multiple=multiple,
            legal=lambda p: legal(p, CONFIG),
            fits=lambda p: rows(p) <= budget,
        )
    )
    for point in near:
        assert legal(point, CONFIG)
        assert rows(point) <= budget
        assert point.key != start.key
        assert all(r[COUNTS[r["kind"]][0]] % multiple == 0 for r in point.reducers)


def test_leaving_more_tokens_means_merging_fewer() -> None:
    point = Point(family="x", reducers=({"kind": "merge", "by": "tome", "block": 2, "remove": 20},))
    assert rows(point.spend(0, 3)) > rows(point) > rows(point.spend(0, -3))


def test_a_learned_selector_stays_at_its_block() -> None:
    reducer = {"kind": "prune", "score": "selector", "fate": "drop", "block": 2, "keep": 40}
    start = Point(family="x", reducers=(reducer,))
    near = moves(start, 1, multiple=1, legal=lambda p: legal(p, CONFIG), fits=lambda p: True)
    assert {point.reducers[0]["block"] for point in near} == {2}


def test_a_search_stops_when_its_patience_ends() -> None:
    tried: list[int] = []

    def record(point: int) -> float:
        tried.append(point)
        return -point

    descend(0, lambda point, step: [point + step], record, steps=(1,), patience=7)
    assert tried == [0, 1, 2, 3, 4, 5, 6, 7]


def test_overheads_are_learned_from_whole_passes() -> None:
    tokens = (5, 145)
    line = [1e-3 * n / 145 for n in tokens]
    blocks = BlockTimes(tokens=tokens, attention=[line] * 6, mlp=[line] * 6)
    cost = Cost(configs={WEIGHTS: CONFIG}, blocks={WEIGHTS: blocks})
    points = [
        point
        for family in FAMILIES
        if not family.needs
        for point in list(family.uniform(CONFIG))[20:100:20]
    ]
    measured = []
    for point in points:
        extra = sum(1e-5 * len(label(reducer)) for reducer in point.reducers)
        measured.append(cost.seconds(point) + 2e-4 + extra)
    learned = learn_overheads(cost, points, measured)
    for point, seconds in zip(points, measured, strict=True):
        assert math.isclose(learned.seconds(point), seconds, rel_tol=1e-3)


def test_names_tell_reducers_and_counts() -> None:
    drop = {"kind": "prune", "fate": "drop"}
    reducers = (
        {"kind": "vwt-intra", "keep": 43},
        {**drop, "block": 2, "keep": 18},
        {**drop, "block": 4, "keep": 7},
    )
    tome = {"kind": "merge", "by": "tome"}
    merges = ({**tome, "block": 0, "remove": 9}, {**tome, "block": 3, "remove": 5})
    assert Point(family="dense").name == "dense"
    assert Point(family="dense").in_fp8.name == "fp8"
    assert Point(family="x", reducers=merges).name == "tome9-5"
    assert Point(family="x", reducers=merges).in_fp8.name == "fp8+tome9-5"
    assert Point(family="x", reducers=reducers).name == "intra43+drop18-7"
    assert Point(family="x", reducers=reducers[:1], weights="slim.safetensors").name == (
        "slim+intra43"
    )


def test_without_a_cls_token_families_ask_keys() -> None:
    """Every family but EViT's, whose weights are CLS attention, has schedules for such a model."""
    config = replace(CONFIG, prefix=0, pool="mean")
    for family in (family for family in FAMILIES if not family.needs):
        line = list(family.uniform(config))
        assert bool(line) == (not family.name.startswith("evit")), family.name
        prunes = [r for point in line for r in point.reducers if r["kind"] == "prune"]
        assert {reducer["score"] for reducer in prunes} <= {"key"}

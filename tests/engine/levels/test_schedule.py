"""Reading a level's reducers, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from foveate.errors import LadderError
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig

CONFIG = ViTConfig()


def prune(**changes: Any) -> dict[str, Any]:
    return {"kind": "prune", "block": 1, "keep": 50, "fate": "drop", **changes}


def merge(**changes: Any) -> dict[str, Any]:
    return {"kind": "merge", "block": 1, "remove": 10, **changes}


def adaptive(**changes: Any) -> dict[str, Any]:
    return {"kind": "adaptive", "keeps": [40, 80], "variance": 0.01, **changes}


@pytest.mark.parametrize(
    ("reducers", "reason"),
    [
        ([{"kind": "blur"}], "kind='blur'"),
        ([{"kind": "vwt-intra"}], "keep"),
        ([{"kind": "vwt-intra", "keep": 200}], r"keep=200: expected a whole number in 3\.\.143"),
        ([{"kind": "vwt-intra", "keep": 9}, {"kind": "vwt-inter", "count": 9}], "one input"),
        ([prune(block=6)], "block=6"),
        ([prune(), prune()], "block=1"),
        ([prune(keep=144)], r"keep=144: .* 4\.\.143"),
        ([prune(), prune(block=2, keep=50)], r"keep=50: .* 4\.\.49 at block 2"),
        ([prune(fate="burn")], "fate='burn': expected 'drop' or"),
        ([prune(score="size")], "score='size': expected 'cls-value' or"),
        ([prune(fate="package-sum")], "score='cls-value': expected 'cls'"),
        ([prune(block=5, score="mlp-shift")], r"block=5: expected 0\.\.4"),
        ([prune(keep="50")], "keep='50': expected a whole number"),
        ([prune(keep=True)], "keep=True"),
        ([prune(keep=3)], r"keep=3: .* 4\.\.143"),
        ([prune(colour=1)], "colour"),
        ([merge(remove=73)], r"remove=73: .* 1\.\.72 at block 1"),
        ([prune(block=0, keep=5), merge(remove=2)], r"remove=2: .* 1\.\.1"),
        ([prune(block=0, keep=4), merge(remove=1)], "remove=1: expected none, too few tokens"),
        ([merge(by="hand")], "by='hand': expected 'tome' or 'pitome'"),
        ([merge(), prune()], "block=1: a block has one reducer"),
        ([{"kind": "vwt-intra", "keep": 3, "fate": "drop"}], r"keep=3: .* 4\.\.143"),
        ([{"kind": "vwt-intra", "keep": 9, "fate": "merge"}], "fate='merge'"),
        ([{"kind": "vwt-inter", "count": 145}], r"count=145: .* 4\.\.144"),
        ([adaptive(keeps=[9])], r"keeps=\[9\]: expected two"),
        ([adaptive(keeps=[9, 9])], "rising"),
        ([adaptive(keeps=[9, 144])], "keep=144"),
        ([adaptive(variance=1)], r"variance=1: .* 0\.\.0\.25"),
        ([adaptive(keeps=[9, 80]), prune(keep=12)], r"keep=12: .* 4\.\.8"),
    ],
)
def test_a_wrong_reducer_is_refused_with_key_and_value(
    reducers: list[dict[str, Any]], reason: str
) -> None:
    with pytest.raises(LadderError, match=reason):
        Schedule.parse(reducers, CONFIG)


def test_dump_is_the_inverse_of_parse() -> None:
    reducers = [{"kind": "vwt-intra", "keep": 72}, prune(keep=30), prune(block=3, keep=10)]
    assert list(Schedule.parse(reducers, CONFIG).dump()) == reducers


def test_tokens_count_cls_and_package() -> None:
    reducers = [{"kind": "vwt-intra", "keep": 72}, prune(keep=30, fate="package")]
    attention, mlp = Schedule.parse(reducers, CONFIG).tokens(CONFIG)
    assert attention == [74, 74, 32, 32, 32, 32]
    assert mlp == [74, 32, 32, 32, 32, 32]


def test_tokens_of_merging_and_of_a_score_the_mlp_gives() -> None:
    reducers = [prune(block=0, keep=100, score="mlp-shift"), merge(block=2, remove=20)]
    attention, mlp = Schedule.parse(reducers, CONFIG).tokens(CONFIG)
    assert attention == [145, 101, 101, 81, 81, 81]
    assert mlp == [145, 101, 81, 81, 81, 81]


def test_a_selector_is_paid_for_every_patch_it_sees() -> None:
    schedule = Schedule.parse([prune(score="selector", keep=50)], CONFIG)
    other = Schedule.parse([prune(score="cls", keep=50)], CONFIG)
    assert schedule.macs(CONFIG, selector=1000) == other.macs(CONFIG) + 144_000


def test_macs_of_the_dense_model() -> None:
    """Per block 12 n C^2 + 2 n^2 C, plus embedding and head (the formula of the field)."""
    n, c = 145, 128
    expected = 6 * (12 * n * c * c + 2 * n * n * c) + 144 * 192 * c + c * 10
    assert Schedule().macs(CONFIG) == expected

"""Reading a level's reducers, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from foveate.errors import LadderError
from foveate.schedule import Schedule
from foveate.vit import ViTConfig

CONFIG = ViTConfig()


def prune(**changes: Any) -> dict[str, Any]:
    return {"kind": "prune", "block": 1, "keep": 50, "fate": "drop", **changes}


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
        ([prune(fate="burn")], "fate='burn'"),
        ([prune(colour=1)], "colour"),
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


def test_macs_of_the_dense_model() -> None:
    """Per block 12 n C^2 + 2 n^2 C, plus embedding and head (the formula of the field)."""
    n, c = 145, 128
    expected = 6 * (12 * n * c * c + 2 * n * n * c) + 144 * 192 * c + c * 10
    assert Schedule().macs(CONFIG) == expected

"""Ladders and latency tables: what is refused, and what is computed from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from foveate.errors import BadWish, LadderError
from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable

LEVEL = {
    "name": "dense",
    "reducers": [],
    "weights": "model.safetensors",
    "vocabulary": None,
    "tokens": [5, 5],
    "macs": 100,
    "quality": {"top1": 0.97, "agreement": 1.0, "n": 100},
    "selector": None,
    "precision": None,
}
FP8 = {**LEVEL, "name": "fp8", "precision": "fp8"}
CHEAP = {
    **LEVEL,
    "name": "cheap",
    "reducers": [{"kind": "vwt-intra", "keep": 2}],
    "tokens": [4, 4],
    "quality": {"top1": 0.95, "agreement": 0.96, "n": 100},
}
DATA = {"schema": 1, "model": "toy", "image_size": [8, 8], "tokens": 5, "levels": [LEVEL, CHEAP]}


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_round_trip(tmp_path: Path) -> None:
    ladder = Ladder.load(write(tmp_path / "a.json", DATA))
    ladder.save(tmp_path / "b.json")
    assert Ladder.load(tmp_path / "b.json") == ladder
    assert json.loads((tmp_path / "b.json").read_text()) == DATA


def test_a_level_that_does_not_know_of_selectors_has_none(tmp_path: Path) -> None:
    old = [{k: v for k, v in level.items() if k != "selector"} for level in (LEVEL, CHEAP)]
    ladder = Ladder.load(write(tmp_path / "old.json", {**DATA, "levels": old}))
    assert ladder == Ladder.load(write(tmp_path / "new.json", DATA))


def test_a_level_that_keeps_every_token_may_be_in_fp8(tmp_path: Path) -> None:
    data = {**DATA, "levels": [LEVEL, FP8, {**CHEAP, "precision": "fp8"}]}
    ladder = Ladder.load(write(tmp_path / "a.json", data))
    assert [level.precision for level in ladder.levels] == [None, "fp8", "fp8"]
    ladder.save(tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()) == data


def test_the_fingerprint_tells_fp8_and_does_not_change_without(tmp_path: Path) -> None:
    def digest(*levels: dict[str, Any]) -> str:
        return Ladder.load(write(tmp_path / "a.json", {**DATA, "levels": levels})).digest

    old = [{k: v for k, v in level.items() if k != "precision"} for level in (LEVEL, CHEAP)]
    assert digest(*old) == digest(LEVEL, CHEAP) == "d911e3341b83a6b7"
    assert digest(LEVEL, CHEAP) != digest(LEVEL, {**CHEAP, "precision": "fp8"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "schema=2"),
        ({"levels": [FP8, CHEAP]}, r"levels\[0\]: precision='fp8'"),
        (
            {"levels": [LEVEL, {**CHEAP, "precision": "int4"}]},
            "level 'cheap': precision='int4': expected 'fp8' or null",
        ),
        ({"levels": [LEVEL, {**CHEAP, "precision": ["fp8"]}]}, r"precision=\['fp8'\]"),
        ({"levels": []}, "dense"),
        ({"levels": [CHEAP]}, "dense"),
        ({"levels": [{k: v for k, v in LEVEL.items() if k != "macs"}]}, "macs"),
        ({"image_size": [8]}, "values to unpack"),
        ({"tokens": "many"}, "many"),
        ({"levels": [{**LEVEL, "macs": float("inf")}]}, "infinity"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_ladder_that_cannot_be_used_is_refused(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LadderError, match=reason) as failure:
        Ladder.load(write(tmp_path / "ladder.json", {**DATA, **change}))
    assert "ladder.json" in str(failure.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LadderError, match=r"ladder\.json"):
        Ladder.load(tmp_path / "ladder.json")
    (tmp_path / "ladder.json").write_text("{")
    with pytest.raises(LadderError, match=r"ladder\.json"):
        Ladder.load(tmp_path / "ladder.json")


def test_json_too_deep_to_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ladder.json"
    path.write_text("[" * 100_000)
    with pytest.raises(LadderError, match=str(path)):
        Ladder.load(path)


def test_levels_are_found_by_name_and_index(tmp_path: Path) -> None:
    ladder = Ladder.load(write(tmp_path / "ladder.json", DATA))
    assert [ladder.index(name) for name in ("dense", "0", "cheap", "1")] == [0, 0, 1, 1]
    with pytest.raises(BadWish, match="level='2'"):
        ladder.index("2")


def test_a_quality_wish_finds_the_cheapest_level_that_has_it(tmp_path: Path) -> None:
    ladder = Ladder.load(write(tmp_path / "ladder.json", DATA))
    assert [ladder.cheapest_at_least(q) for q in (0.0, 0.95, 0.96, 0.97)] == [1, 1, 0, 0]
    with pytest.raises(BadWish, match=r"quality=0\.98"):
        ladder.cheapest_at_least(0.98)


def test_without_labels_quality_is_agreement(tmp_path: Path) -> None:
    unlabelled = [
        {**level, "quality": {**level["quality"], "top1": None}}  # type: ignore[dict-item]
        for level in (LEVEL, CHEAP)
    ]
    ladder = Ladder.load(write(tmp_path / "ladder.json", {**DATA, "levels": unlabelled}))
    assert [ladder.quality(i) for i in range(2)] == [1.0, 0.96]


def test_batch_times_are_linear_between_measured_sizes() -> None:
    table = LatencyTable(device="d", ladder="l", batches=(1, 4, 8), seconds=((1.0, 4.0, 6.0),))
    assert [table.batch_seconds(0, b) for b in (1, 2, 4, 6, 8, 10)] == [1, 2, 4, 5, 6, 7]


def test_a_level_slower_than_a_dearer_one_is_not_useful() -> None:
    table = LatencyTable(
        device="d", ladder="l", batches=(1, 8), seconds=((1, 8), (1, 9), (1, 4), (1, 4), (1, 2))
    )
    assert table.useful() == (0, 2, 4)


@pytest.mark.parametrize(
    "change",
    [
        {"batches": []},
        {"batches": [2, 8]},
        {"batches": [1, 1]},
        {"seconds": [[0.1]]},
        {"seconds": [[0.1, 0]]},
        {"seconds": [[0.1, float("nan")]]},
        {"seconds": "fast"},
        {"device": None, "batches": None},
    ],
    ids=str,
)
def test_a_damaged_latency_file_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    good = {"device": "d", "ladder": "l", "batches": [1, 8], "seconds": [[0.1, 0.8]]}
    assert LatencyTable.load(write(tmp_path / "good.json", good))
    with pytest.raises(LadderError, match=r"latency\.json"):
        LatencyTable.load(write(tmp_path / "latency.json", {**good, **change}))


def test_a_latency_file_round_trips(tmp_path: Path) -> None:
    table = LatencyTable(device="d", ladder="l", batches=(1, 8), seconds=((0.1, 0.8), (0.05, 0.4)))
    table.save(tmp_path / "deep" / "latency.json")
    assert LatencyTable.load(tmp_path / "deep" / "latency.json") == table
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["latency.json"]


def test_padded_batches_run_in_the_parts_that_are_quickest() -> None:
    seconds = ((1.0, 2.0, 5.0), (0.5, 1.0, 4.5))
    table = LatencyTable(device="d", ladder="l", batches=(1, 2, 8), seconds=seconds, padded=True)
    batches = (0, 1, 2, 3, 4, 5, 8, 9, 18)
    assert [table.batch_seconds(0, n) for n in batches] == [0, 1, 2, 3, 4, 5, 5, 6, 12]
    assert [table.parts(0, n) for n in (0, 1, 3, 4, 5, 8)] == [
        (),
        (1,),
        (1, 2),
        (2, 2),
        (8,),
        (8,),
    ]
    assert table.parts(1, 8) == (2, 2, 2, 2)
    assert replace(table, padded=False).parts(0, 5) == (5,)

"""The comparison on a CPU runs the same weights in every contender, and judges what it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from foveate.inference.prepared import PreparedLadder
from foveate_benchmarks.cpu_peers import bars, tables
from foveate_benchmarks.cpu_peers.groups import OURS, Bench, Group, Row
from foveate_benchmarks.cpu_peers.machine import machine
from foveate_benchmarks.cpu_peers.models import PRUNE, SELECTOR, VWT, Model, model

REPOSITORY = Path(__file__).parents[2] / "model_repository"
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def toy() -> Model:
    """With its first two levels."""
    whole = model("toy", REPOSITORY, 2)
    ladder = replace(whole.prepared.ladder, levels=whole.prepared.ladder.levels[:2])
    return replace(whole, prepared=PreparedLadder(ladder, whole.prepared.levels[:2]))


@pytest.fixture(scope="module")
def rows(toy) -> list[Row]:
    return Bench(toy, inductor=False).measure(Group("toy", 1, 2), rounds=1, seconds=1)


def test_levels_cost_what_their_names_say() -> None:
    deit = model("deit-t", REPOSITORY, 1)
    assert deit.share(deit.level(PRUNE)) == pytest.approx(0.63, abs=0.005)
    assert deit.share(deit.level(SELECTOR)) == pytest.approx(0.51, abs=0.005)
    assert deit.share(deit.level(VWT)) == pytest.approx(0.5, abs=0.03)
    assert deit.share(len(deit.prepared.levels) - 1) == pytest.approx(0.25, abs=0.005)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="models='vit': expected demo, deit-t"):
        model("vit", REPOSITORY, 1)


def test_whoever_is_dense_computes_the_same(toy, rows) -> None:
    dense = [row for row in rows if not row.level and row.best_ms is not None]
    names = {row.who for row in dense if row.precision == "fp32"}
    assert names >= {"openvino", "openvino call", "eager", "foveate, bare request", OURS}
    for row in dense:
        assert row.difference is not None
        assert row.difference < (1e-5 if row.precision == "fp32" else 0.05), row


def test_what_does_not_run_says_why(rows) -> None:
    missing = {(row.who, row.precision): row.missing for row in rows if row.missing is not None}
    assert missing["compile", "fp32"] == "left out"
    assert not {who for who, precision in missing if precision == "fp32"} - {
        "compile",
        "onnxruntime",
    }


def test_every_level_is_held_against_openvino_of_its_precision(toy, rows) -> None:
    best = {(row.who, row.precision, row.level): row.best_ms for row in rows}
    found = bars.level_facts([toy], rows)
    assert {row["level"] for row in found} == {*range(len(toy.prepared.levels))}
    for row in found:
        dense = best["openvino", row["precision"], None]
        assert row["time_share"] == row["best_ms"] / dense
        assert row["realised"] == pytest.approx(row["macs_share"] / row["time_share"])


def test_tables_are_made_of_what_was_measured(toy, rows) -> None:
    data = {
        "rows": [row.facts() for row in rows],
        "levels": bars.level_facts([toy], rows),
        "judged": [],
        "machine": machine(),
        "served": None,
    }
    dense, levels = tables.dense("toy")(data), tables.levels("toy")(data)
    assert "OpenVINO, bare request, fp32" in dense
    assert "Without fp32 of `torch.compile`: left out." in dense
    assert all(level.name in levels for level in toy.prepared.ladder.levels)
    assert "| `torch.compile` | – |" in tables.short(data)


def facts(name: str, level: int, title: str, share: float, time: float, batch: int = 1):
    return {
        "model": name, "threads": 1, "batch": batch, "precision": "fp32", "level": level,
        "name": title, "macs_share": share, "time_share": time, "realised": share / time,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "verdicts"),
    [
        (facts("deit-s", 0, "dense", 1.0, 1.03), [True]),
        (facts("deit-s", 0, "dense", 1.0, 1.04), [False]),
        (facts("deit-t", 1, PRUNE, 0.63, 0.73), [False]),
        (facts("deit-s", 1, PRUNE, 0.63, 0.70), [True, True]),
        (facts("deit-s", 2, SELECTOR, 0.51, 0.66), [True, False]),
        (facts("deit-s", 3, VWT, 0.5, 0.54, batch=8), [True, False]),
        (facts("demo", 2, "cheap", 0.4, 0.48, batch=8), [False]),
        (facts("demo", 4, "cheapest", 0.17, 0.5), []),
        (facts("toy", 0, "dense", 1.0, 2.0), []),
    ],
)
def test_bars(row, verdicts) -> None:
    assert [bar.met for bar in bars.bars([row])] == verdicts

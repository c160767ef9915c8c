"""Latency tables: measured once, and by one process at a time."""

from __future__ import annotations

import fcntl
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
import torch

from foveate.inference import latency
from foveate.inference.engine import Engine
from foveate.inference.latency import load_or_measure, table_path
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.levels.latency_table import LatencyTable


def test_a_model_waits_for_another_that_measures(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And takes the table that came meanwhile, if it is its own."""
    engine = ReferenceEngine(PreparedLadder.load(repository / "digits" / "1"))
    rows = tuple((0.1,) * len(engine.batches) for _ in engine.levels)
    table = LatencyTable(
        device="this",
        ladder=engine.ladder.digest,
        padded=False,
        batches=engine.batches,
        seconds=rows,
    )
    measured: list[Engine] = []
    monkeypatch.setattr(latency, "measure", lambda engine, **_: measured.append(engine) or table)
    with ThreadPoolExecutor(1) as pool:
        with (tmp_path / "measuring.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            waiting = pool.submit(load_or_measure, engine, tmp_path)
            assert not wait([waiting], timeout=0.5).done
            table.save(table_path(engine, tmp_path))
        assert waiting.result(timeout=60) == table
    assert not measured
    assert load_or_measure(engine, tmp_path / "new") == table
    assert len(measured) == 1


def test_full_batches_are_split_without_an_empty_pass(repository: Path) -> None:
    engine = ReferenceEngine(PreparedLadder.load(repository / "digits" / "1"), (1, 2))
    rows = tuple((0.1, 0.2) for _ in engine.levels)
    table = LatencyTable(
        device="this", ladder=engine.ladder.digest, batches=engine.batches, seconds=rows
    )
    pixels = torch.zeros(4, 96, 96, 3, dtype=torch.uint8)
    plain = engine.infer(pixels, [0] * 4).scores
    engine.split_by(table)
    assert torch.equal(engine.infer(pixels, [0] * 4).scores, plain)

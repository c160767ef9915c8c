"""``foveate_benchmarks.gpu`` runs from end to end without a GPU and finds faults."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate_benchmarks.gpu import __main__ as gpu_main
from foveate_benchmarks.gpu import parity
from foveate_benchmarks.gpu.cases import OPS
from foveate_benchmarks.gpu.rows import OutOfTime, Rows

ROOT = Path(__file__).parents[2]


def dry_run(out: Path, *part: str) -> dict[str, dict[str, Any]]:
    """Rows of a dry run that ended well."""
    options = ["--device", "cpu", "--quick", "--out", str(out)]
    run = subprocess.run(
        [sys.executable, "-m", "foveate_benchmarks.gpu", *part, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    data = json.loads((out / f"gpu-{'-'.join(part)}.json").read_text())
    assert data["running"] is None
    rows: dict[str, dict[str, Any]] = data["rows"]
    return rows


def test_parity_covers_every_operator_and_whole_models(tmp_path: Path) -> None:
    rows = dry_run(tmp_path, "parity")
    for start in (*OPS, "model dense", "model vwt-inter"):
        assert any(key.startswith(f"{start}: ") for key in rows), start
    assert not [key for key, row in rows.items() if row.get("wrong")]


def test_ops_time_every_operator(tmp_path: Path) -> None:
    rows = dry_run(tmp_path, "ops")
    for op in OPS:
        assert any(key.startswith(f"{op}: ") and row["ms"] > 0 for key, row in rows.items()), op


def test_model_times_every_level_by_every_route_and_its_peers(tmp_path: Path) -> None:
    rows = dry_run(tmp_path, "model", "deit-s")
    for level in ("dense", "keep 0.7", "keep 0.5", "vwt-intra"):
        for route in ("torch", "attention", "gelu", "norm", "attention gelu norm"):
            assert rows[f"b2 {level} foveate {route}"]["images_per_s"] > 0
    assert {"b1 dense eager", "b1 tome torch"} <= rows.keys()


def test_peers_time_attention_and_selection_and_the_next_run_nothing(tmp_path: Path) -> None:
    rows = dry_run(tmp_path, "peers")
    assert dry_run(tmp_path, "peers") == rows
    assert rows["attention deit-s b2 n17"]["attention with bias"]["ms"] > 0
    assert rows["selection deit-s b1 n17 keep 8"]["torch"]["ms"] > 0


def swap_rows(outputs: list[torch.Tensor]) -> None:
    outputs[0][[3, 4]] = outputs[0][[4, 3]]


def write_nan(outputs: list[torch.Tensor]) -> None:
    outputs[0][0] = float("nan")


def choose_another(outputs: list[torch.Tensor]) -> None:
    outputs[0][:] = (outputs[0] + 1) % 50


@pytest.mark.parametrize(
    ("op", "spoil"),
    [
        ("select_tokens", swap_rows),
        ("cls_importance", write_nan),
        ("packed_linear", lambda outputs: outputs[0].mul_(1.01)),
        ("compact_tokens", swap_rows),
        ("bipartite_match", swap_rows),
        ("vwt_assign", choose_another),
    ],
)
def test_parity_finds_a_wrong_kernel(
    op: str,
    spoil: Callable[[list[torch.Tensor]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, arguments = next(parity.variants(op, "cpu", True))
    right = parity.operator(op)

    def wrong(*args: Any) -> list[torch.Tensor]:
        result = right(*args)
        outputs = [result.clone()] if isinstance(result, torch.Tensor) else list(result)
        spoil(outputs)
        return outputs

    assert parity.check(op, arguments, kernel=False)["wrong"] == []
    monkeypatch.setattr(parity, "operator", lambda op: wrong)
    assert parity.check(op, arguments, kernel=False)["wrong"]


WORKER = """
import os, sys, time
from pathlib import Path
from foveate_benchmarks.gpu.rows import Rows
rows = Rows(Path(sys.argv[1]), {"identity": {}}, time.monotonic() + 60)
rows.run("good", lambda: {"ms": 1.0})
rows.run("raises", lambda: 1 / 0)
rows.run("crashes", lambda: os.abort())
rows.run("hangs", lambda: time.sleep(600))
rows.run("last", lambda: {"ms": 2.0})
sys.exit(1 if rows.close() else 0)
"""


def test_a_row_that_raises_crashes_or_hangs_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "rows.json"
    command = [sys.executable, "-c", WORKER, str(path)]
    assert gpu_main.supervise(command, path, time.monotonic() + 60, patience=5.0) == 1
    rows = json.loads(path.read_text())["rows"]
    assert rows["good"] == {"ms": 1.0}
    assert rows["raises"]["error"] == "ZeroDivisionError: division by zero"
    assert rows["crashes"]["error"] == f"its process ended with {-6}"
    assert rows["hangs"]["error"] == "no end after 5 s"
    assert rows["last"] == {"ms": 2.0}


def test_rows_of_other_code_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    until = time.monotonic() + 60
    Rows(path, {"identity": {"name": "one GPU"}}, until).run("row", lambda: {"ms": 1.0})
    assert "row" in Rows(path, {"identity": {"name": "one GPU"}}, until)
    assert "row" not in Rows(path, {"identity": {"name": "another"}}, until)


def test_no_row_starts_after_its_time(tmp_path: Path) -> None:
    late = Rows(tmp_path / "rows.json", {"identity": {}}, time.monotonic() - 1)
    with pytest.raises(OutOfTime):
        late.run("row", dict)

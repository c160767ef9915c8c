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


def start(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "foveate_benchmarks.gpu", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def dry_run(out: Path, *part: str, options: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Rows of a dry run that ended well."""
    run = start(*part, "--device", "cpu", "--quick", "--out", str(out), *options)
    assert run.returncode == 0, run.stdout + run.stderr
    data = json.loads((out / "cpu" / f"{'-'.join(part)}.json").read_text())
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


def test_a_part_of_a_part_can_be_asked_for(tmp_path: Path) -> None:
    options = ("--batches=2", "--routes=served,dense eager", "--no-energy")
    rows = dry_run(tmp_path, "model", "deit-s", options=options)
    timed = {key for key, row in rows.items() if "ms" in row}
    levels = ("dense", "keep 0.7", "keep 0.5", "vwt-intra")
    assert timed == {
        "b2 dense eager",
        *(f"b2 {level} foveate attention norm" for level in levels),
    }
    assert not [key for key in rows if key.endswith("energy")]
    rows = dry_run(tmp_path, "ops", options=("--op=vwt_assign", "--op=match_kept"))
    assert {key.split(":")[0] for key in rows} == {"vwt_assign", "match_kept"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("ops", "--batches=2"),
        ("model", "deit-s", "--op=vwt_assign"),
        ("model", "deit-s", "--batches=x"),
    ],
)
def test_what_a_part_does_not_know_is_refused(arguments: tuple[str, ...]) -> None:
    run = start(*arguments, "--device=cpu", "--quick")
    assert run.returncode == 2
    assert arguments[-1].partition("=")[0] in run.stderr


def test_products_compare_all_that_is_offered(tmp_path: Path) -> None:
    rows = dry_run(tmp_path, "products")
    fp8 = [row for key, row in rows.items() if key.startswith("fp8 ")]
    gelu = [row for key, row in rows.items() if key.startswith("gelu ")]
    assert len(fp8) == 4
    for row in fp8:
        assert row["bf16"]["off"] < 1e-6 < row["row-wise"]["off"] < 0.05
        assert 1e-6 < row["per tensor"]["off"] < 0.05
    for row in gelu:
        assert row["packed_linear"]["off"] < 1e-6
        assert row["fused gelu of tanh"]["off"] < 1e-2


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


def test_rows_of_other_code_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    until = time.monotonic() + 60
    Rows(path, {"identity": {"torch": "one"}}, until).run("row", lambda: {"ms": 1.0})
    assert "row" in Rows(path, {"identity": {"torch": "one"}}, until)
    before = path.read_text()
    assert "row" not in Rows(path, {"identity": {"torch": "another"}}, until)
    [aside] = tmp_path.glob("rows-*.json")
    assert aside.read_text() == before


def test_no_row_starts_after_its_time(tmp_path: Path) -> None:
    late = Rows(tmp_path / "rows.json", {"identity": {}}, time.monotonic() - 1)
    with pytest.raises(OutOfTime):
        late.run("row", dict)

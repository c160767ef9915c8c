"""The session on a rented GPU fits its time, and is rehearsed without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from foveate_benchmarks.gpu import races, session
from foveate_benchmarks.gpu.device import folder_name
from foveate_benchmarks.gpu.session import Step

ROOT = Path(__file__).parents[2]
OF_ANOTHER = {"identity": {"name": "NVIDIA H100 80GB HBM3"}, "rows": {"row": {"ms": 1.0}}}


def rehearse(out: Path, steps: str, **environment: str) -> str:
    """What it printed; it ends well."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "foveate_benchmarks.gpu.session"),
            *("--rehearse", f"--steps={steps}", f"--out={out}"),
        ],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_all_limits_together_fit_ten_minutes() -> None:
    assert session.longest() <= session.BUDGET_S == 600
    assert all(step.patience_s < step.limit_s for step in session.STEPS)
    assert {step.letter for step in session.STEPS} == {*"abcdef"}


def test_every_gpu_has_a_folder_of_its_own() -> None:
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 PCIe", "NVIDIA H200")
    folders = [folder_name(name) for name in names]
    assert folders == ["nvidia-h100-80gb-hbm3", "nvidia-h100-pcie", "nvidia-h200"]
    assert (ROOT / "benchmarks" / "results" / "gpu" / folders[0] / "parity.json").exists()


def test_steps_are_rehearsed_and_those_that_are_done_are_not_repeated(tmp_path: Path) -> None:
    of_another = tmp_path / folder_name("NVIDIA H100 80GB HBM3") / "ops.json"
    of_another.parent.mkdir()
    of_another.write_text(json.dumps(OF_ANOTHER))
    folder = tmp_path / "cpu"
    rehearse(tmp_path, "b,d,f")
    steps = read(folder / "session.json")["steps"]
    assert {name: facts["outcome"] for name, facts in steps.items()} == {
        "tests": "done",
        "products": "done",
        "races": "done",
    }
    tests, products = (read(folder / f"{part}.json")["rows"] for part in ("tests", "products"))
    assert any("test_it_answers_as_the_cpu_does" in key for key in tests)
    assert all("seconds" in row for row in tests.values())
    assert str(ROOT) not in (folder / "tests.json").read_text()  # it is to be published
    assert len(products) > 4
    found = read(folder / "races.json")["rows"]
    assert all("compute-sanitizer" in found[op]["skipped"] for op in races.OPS)
    stamp = (folder / "products.json").stat().st_mtime_ns
    assert rehearse(tmp_path, "b,d,f").count("done before") == 3
    assert (folder / "products.json").stat().st_mtime_ns == stamp
    assert read(of_another) == OF_ANOTHER


@pytest.mark.parametrize("module", ["foveate_benchmarks.gpu", "foveate_benchmarks.gpu.session"])
def test_help_says_what_is_measured(module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert f"    python -m {module} " in text
    assert "Run again, " in text


def test_a_tool_that_finds_a_race_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(
        '#!/bin/sh\nshift 2\n"$@" && echo "==== RACECHECK SUMMARY: 2 hazards displayed (2)"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert races.check("merge_groups", "cpu")()["hazards"] == 2
    tool.write_text("#!/bin/sh\necho Device not supported\nexit 1\n")
    with pytest.raises(RuntimeError, match="Device not supported"):
        races.check("merge_groups", "cpu")()


# Like a worker with a server: what it starts is in a session of its own.
HANGS = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


def test_a_step_that_hangs_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    commands = {"hangs": ["-c", HANGS, str(child)], "ends": ["-c", "pass"]}
    monkeypatch.setattr(
        session, "command_of", lambda step, options: [sys.executable, *commands[step.name]]
    )
    steps = (Step("a", ("hangs",), 3.0, 1.0), Step("b", ("ends",), 30.0, 1.0))
    begin = time.monotonic()
    assert not session.run_steps(steps, tmp_path / "results", [])
    assert time.monotonic() - begin < 30
    found = read(tmp_path / "results" / "session.json")["steps"]
    assert found["hangs"]["outcome"] == "no end after 3 s"
    assert found["ends"]["outcome"] == "done"
    assert not runs(int(child.read_text()))


def test_steps_of_other_code_are_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def command_of(step: Step, options: Sequence[str]) -> list[str]:
        done.append(step.name)
        return [sys.executable, "-c", "pass"]

    monkeypatch.setattr(session, "command_of", command_of)
    steps = (Step("a", ("one",), 30.0, 1.0),)
    for _ in range(2):
        assert session.run_steps(steps, tmp_path, [])
    assert done == ["one"]
    monkeypatch.setattr(session, "source_digest", lambda: "another")
    assert session.run_steps(steps, tmp_path, [])
    assert done == ["one", "one"]


@pytest.mark.alone
def test_the_server_is_rehearsed(tmp_path: Path) -> None:
    rehearse(tmp_path, "a")
    rows = read(tmp_path / "cpu" / "served.json")["rows"]
    for key in ("b8 dense", "b8 vwt-intra", "b1 dense", "host only b8", "host only b1"):
        assert rows[key]["images_per_s"] > 0, key
        assert rows[key]["p50_ms"] <= rows[key]["p99_ms"], key
        assert 0 < rows[key]["model_process_busy"] <= 1, key
    assert rows["burst"]["requests"] > 0
    for level in ("dense", "keep 0.7", "keep 0.5", "vwt-intra"):
        assert rows[f"scores served {level}"]["most_off"] < 1e-4, level
        assert rows[f"scores bf16 {level}"]["median_off"] < 0.05, level

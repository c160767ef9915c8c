"""Kernels also compile with the Triton of PyTorch's CUDA builds, which ``make test`` puts apart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
OTHER = ROOT / ".triton37"

pytestmark = pytest.mark.skipif(
    not (OTHER / "triton").is_dir(),
    reason="Triton 3.7 is not installed: make test does it, where PyPI can be reached",
)


def run(tmp_path: Path, *command: str) -> str:
    """What a module says that imports the other Triton."""
    environment = {**os.environ, "PYTHONPATH": str(OTHER), "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.parametrize("arch", ["sm_90", "sm_120"])
def test_the_largest_case_of_every_operator_compiles(arch: str, tmp_path: Path) -> None:
    """They fit, use matrix units, overwrite nothing, and on sm_90 do not spill."""
    budgets = "foveate_benchmarks.kernels.kernel_budgets"
    told = run(tmp_path, budgets, "--brief", "--arch", arch)
    assert "this is 3.7" in told
    assert "varlen_attention_kernel" in told


def test_its_pipeline_still_overwrites_what_it_squares(tmp_path: Path) -> None:
    told = run(tmp_path, "pytest", "-q", "tests/kernels/test_budgets.py", "-k", "pipeline")
    assert "2 passed" in told

"""A small sample of what the fuzzer and the flood of ``foveate_benchmarks.hardening`` do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def sample(name: str, *options: str) -> str:
    """Output of a benchmark that met its bars."""
    done = subprocess.run(
        [sys.executable, "-m", f"foveate_benchmarks.hardening.{name}", *options],
        env=os.environ | {"FOVEATE_STATE_DIR": str(ROOT / ".state")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.parametrize("target", ["decode", "metrics", "policy"])
def test_inputs_nobody_thought_of_do_no_harm(target: str) -> None:
    told = sample("fuzz", "--inputs=10000", f"--target={target}", "--no-save")
    assert f"met    {target}: " in told


@pytest.mark.alone  # it starts a server
def test_malformed_requests_disturb_nobody_and_learn_nothing() -> None:
    assert "met    4 good requests" in sample("flood", "--requests=200", "--no-save")

"""Every kernel compiles for GPUs that are not here, within its budget of registers and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ARCHS = ("sm_80", "sm_90", "sm_100")


@pytest.fixture(scope="module")
def compilations(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One process an architecture, side by side."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    processes = {
        arch: subprocess.Popen(
            [sys.executable, "benchmarks/kernel_budgets.py", "--arch", arch],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for arch in ARCHS
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_compile_within_their_budgets(
    arch: str, compilations: dict[str, subprocess.Popen[str]]
) -> None:
    output, _ = compilations[arch].communicate()
    assert compilations[arch].returncode == 0, output

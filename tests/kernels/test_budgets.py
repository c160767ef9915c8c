"""Every kernel compiles for GPUs that are not here, within its budget of registers and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_kernels_compile_within_their_budgets(arch: str, tmp_path: Path) -> None:
    script = [sys.executable, "benchmarks/kernel_budgets.py", "--arch", arch]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr

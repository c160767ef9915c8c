"""Run every benchmark, one after another; exit 1 if any misses a bar."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NAMES = (
    "kernel_budgets",
    "levels",
    "compress",
    "selector",
    "calibrate",
    "forward",
    "parity",
    "import_memory",
    "methods",
    "overhead",
    "control_cost",
    "mixed",
    "switches",
    "burst",
    "control",
    "serve --quick --fresh",
    "crosscheck",
    "simulated",
    "detection",
    "console",
    "fuzz",
    "flood",
    "soak",
)

if __name__ == "__main__":
    missed = []
    for name in NAMES:
        print(f"== {name}", flush=True)
        script, *options = name.split()
        if subprocess.run(
            [sys.executable, Path(__file__).with_name(f"{script}.py"), *options]
        ).returncode:
            missed.append(name)
    sys.exit(f"bars missed in: {', '.join(missed)}" if missed else 0)

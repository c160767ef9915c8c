"""Run what needs no GPU, no timm and no download, one after another; exit 1 for a missed bar."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "kernels.kernel_budgets",
    "cpu_peers --served",
    "ladders.precision",
    "ladders.fp8",
    "ladders.compress",
    "ladders.selector",
    "ladders.calibrate",
    "parity",
    "ladders.import_memory",
    "methods",
    "serving.overhead",
    "serving.start_up",
    "control.control_cost",
    "serving.mixed",
    "serving.switches",
    "control.burst",
    "control",
    "control.serve --quick --fresh",
    "serving.crosscheck",
    "control.simulated",
    "control.detection",
    "control.scaling",
    "serving.console",
    "hardening.fuzz",
    "hardening.flood",
    "serving.soak",
)

if __name__ == "__main__":
    missed = []
    for name in NAMES:
        print(f"== {name}", flush=True)
        module, *options = name.split()
        command = [sys.executable, "-m", f"foveate_benchmarks.{module}", *options]
        if subprocess.run(command, check=False).returncode:
            missed.append(name)
    sys.exit(f"bars missed in: {', '.join(missed)}" if missed else 0)

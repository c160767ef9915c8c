"""What every benchmark says about itself, and where it writes it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "bars", "environment", "save"]

RESULTS = Path(__file__).parents[1] / "results"


def environment() -> dict[str, Any]:
    """Commit, versions and hardware of this run."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    cpu = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "commit": commit.stdout.strip() or None,
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "numpy", "nvidia-pytriton", "tritonclient")},
    }


def save(name: str, data: dict[str, Any]) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def bars(checks: dict[str, bool]) -> None:
    """Print each bar as met or missed; exit 1 if any is missed."""
    for name, met in checks.items():
        print("met   " if met else "MISSED", name)
    if not all(checks.values()):
        sys.exit(1)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

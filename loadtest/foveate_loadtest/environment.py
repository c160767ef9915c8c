"""The environment of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["environment"]

_DISTRIBUTIONS = ("foveate", "gevent", "grpcio", "locust", "numpy", "tritonclient")
_OF_THE_SERVER = ("torch", "nvidia-pytriton")  # if it is of the same installation


def environment() -> dict[str, str]:
    """Commit (of a checkout), versions, processor, and the cores this process may use."""
    return {
        "commit": _commit(),
        "python": platform.python_version(),
        **{name: _version(name) for name in (*_DISTRIBUTIONS, *_OF_THE_SERVER)},
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "client_cores": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()

"""What the deployment files say, and the tools that judge them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def tool() -> Callable[..., str]:
    """``tool(name, *arguments)``: its output; it must end with 0. Skips, naming it, if missing."""

    def run(name: str, *arguments: str | Path, package: str = "") -> str:
        beside = Path(sys.executable).parent / name  # of our own environment
        found = str(beside) if beside.exists() else shutil.which(name)
        if found is None:
            pytest.skip(f"{name} is not installed{package and f' (Debian: apt install {package})'}")
        done = subprocess.run(
            [found, *map(str, arguments)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    return run

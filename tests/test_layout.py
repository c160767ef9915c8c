"""Promises about the shape of the project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_top_level_folders_are_containers_not_packages() -> None:
    for folder in ("kernels", "engine", "adapter", "loadtest", "benchmarks"):
        assert not (ROOT / folder / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("foveate", "torch"),
        ("foveate.cli", "torch"),
        ("foveate.ladder", "numpy"),
        ("foveate.governor", "torch"),
        ("foveate_adapter.app", "torch"),
        ("foveate_loadtest", "gevent"),
    ],
)
def test_importing_stays_light(module: str, absent: str) -> None:
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_bare_adapter_needs_no_torch_at_all() -> None:
    """The adapter and what it imports must work where torch is not installed."""
    code = "import sys; sys.modules['torch'] = None; import foveate_adapter.__main__"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Promises about the shape of the project."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_top_level_folders_are_containers_not_packages() -> None:
    for folder in ("kernels", "engine", "adapter", "loadtest", "cli", "benchmarks"):
        assert not (ROOT / folder / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("foveate", "torch"),
        ("foveate_cli.main", "torch"),
        ("foveate.levels.ladder", "numpy"),
        ("foveate.control.governor", "torch"),
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


def test_the_extra_of_the_load_test_has_what_it_imports() -> None:
    files = (ROOT / "loadtest" / "foveate_loadtest").glob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    imported = {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    imported.add("sklearn")  # of the digits it sends
    imported = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
    ours = {"foveate", "foveate_loadtest", "foveate_adapter"}
    names = {"PIL": "pillow", "sklearn": "scikit-learn", "grpc": "grpcio"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["loadtest"]]
    given = {text.split(">")[0].split("[")[0] for text in wanted}
    assert {names.get(name, name) for name in imported - ours} <= given

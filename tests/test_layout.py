"""Promises about the shape of the project."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_top_level_folders_are_containers_not_packages() -> None:
    for folder in ("kernels", "engine", "adapter", "loadtest", "cli", "benchmarks"):
        assert not (ROOT / folder / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


# Imports only go down: each may use those before it.
PACKAGES = {
    "foveate_kernels": "kernels",
    "foveate": "engine",
    "foveate_adapter": "adapter",
    "foveate_loadtest": "loadtest",
    "foveate_cli": "cli",
    "foveate_benchmarks": "benchmarks",
}
# The same for the engine: its few files at the top, and its rooms.
ROOMS = (
    "",  # foveate itself: its version
    "errors",
    "usable_cpus",
    "devices",
    "settings",
    "atomic_file",
    "model",
    "reduce",
    "levels",
    "repository",
    "images",
    "control",
    "inference",
    "backend",
    "accuracy",
    "importers",
    "calibration",
    "compress",
    "selector",
    "digits",
)
# What serves and what prepares do not know each other.
SERVING, PREPARING = {"backend", "control"}, {*ROOMS[ROOMS.index("accuracy") :]}


def imports(source: str) -> Iterator[str]:
    """Modules and names that a source file imports, absolute and dotted, also within functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def goes_up(file: str, module: str) -> bool:
    """Whether a file of the project may not import ``module``."""
    order = list(PACKAGES)
    _, package, *inside = Path(file).with_suffix("").parts
    head, *parts = module.split(".")
    if package == head == "foveate":
        own, other = (
            name if name in ROOMS else "" for name in (inside[0], parts[0] if parts else "")
        )
        apart = {own, other} & SERVING and {own, other} & PREPARING
        return bool(apart) or ROOMS.index(other) > ROOMS.index(own)
    return head in order and order.index(head) > order.index(package)


def sources() -> Iterator[tuple[str, str]]:
    for package, folder in PACKAGES.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), path.read_text()


def test_imports_only_go_down() -> None:
    found = [
        f"{file} imports {module}"
        for file, source in sources()
        for module in imports(source)
        if goes_up(file, module)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("kernels/foveate_kernels/checks.py", "import foveate"),
        ("engine/foveate/levels/ladder.py", "from foveate.inference.engine import Engine"),
        ("engine/foveate/errors.py", "from foveate import settings"),
        ("engine/foveate/backend/model.py", "from foveate.calibration import seeds"),
        ("engine/foveate/calibration/seeds.py", "from foveate.control import governor"),
        ("engine/foveate/model/vit.py", "def f():\n    import foveate_adapter.app"),
        ("adapter/foveate_adapter/loop.py", "from foveate_loadtest import run"),
        ("loadtest/foveate_loadtest/run.py", "from foveate_cli.main import app"),
        ("cli/foveate_cli/main.py", "import foveate_benchmarks.results"),
        ("engine/foveate/model/vit.py", "from foveate import repository"),
    ],
)
def test_an_import_that_goes_up_is_found(file: str, line: str) -> None:
    source = (ROOT / file).read_text()
    (module,) = set(imports(f"{source}\n{line}")) - set(imports(source))
    assert goes_up(file, module)


def test_the_version_may_be_read_anywhere() -> None:
    assert not goes_up("engine/foveate/model/vit.py", "foveate")


def test_a_container_holds_one_package() -> None:
    for package, folder in PACKAGES.items():
        found = {path.relative_to(ROOT / folder).parts[0] for path in (ROOT / folder).rglob("*.py")}
        assert found == {package}


def test_the_engine_has_no_file_without_a_room() -> None:
    engine = ROOT / "engine" / "foveate"
    files = {path.stem for path in engine.glob("*.py")}
    few = {"errors", "usable_cpus", "devices", "settings", "atomic_file", "repository"}
    assert files == {"__init__", *few}
    rooms = {path.name for path in engine.iterdir() if path.is_dir() and path.name[0] != "_"}
    assert rooms == set(ROOMS) - files - {""}


def test_only_the_plugin_knows_triton() -> None:
    knowing = {
        file
        for file, source in sources()
        for module in imports(source)
        if module.startswith("triton_python_backend_utils")
    }
    assert knowing == {"engine/foveate/backend/model.py"}


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("foveate", "torch"),
        *(("foveate_cli.main", absent) for absent in ("torch", "numpy", "scipy", "locust")),
        ("foveate.levels.ladder", "numpy"),
        ("foveate.control.governor", "torch"),
        ("foveate_adapter.__main__", "torch"),
        ("foveate_loadtest", "gevent"),
    ],
)
def test_importing_stays_light(module: str, absent: str) -> None:
    code = f"import sys, {module}; sys.exit({absent!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "module", ["foveate_adapter.__main__", "foveate_loadtest.simulate.compare"]
)
def test_adapter_and_simulation_need_no_torch_at_all(module: str) -> None:
    """They and what they import must work where torch is not installed."""
    code = f"import sys; sys.modules['torch'] = None; import {module}"
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

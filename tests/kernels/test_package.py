"""What every operator of the package promises."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foveate_kernels import ops

FOLDER = Path(ops.__file__).parent
ROOT = Path(__file__).parent.parent.parent
OPERATORS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def test_importing_looks_for_no_gpu() -> None:
    script = (
        "import foveate_kernels.ops, torch\n"
        "from triton.runtime.driver import driver\n"
        "assert driver._active is None and driver._default is None\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("path", [*FOLDER.parent.rglob("*.py")], ids=lambda path: path.stem)
def test_nothing_reads_the_environment_or_tunes_at_run_time(path: Path) -> None:
    text = path.read_text()
    for word in ("environ", "getenv", "triton.autotune"):
        assert word not in text


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_has_all_its_parts(name: str) -> None:
    """Reference, kernel, launcher; exported, registered, tested and timed under the same name."""
    module = importlib.import_module(f"foveate_kernels.ops.{name}")
    assert callable(module.reference)
    assert callable(module.launch)
    assert getattr(ops, name) is getattr(module, name)
    assert hasattr(torch.ops.foveate, name)
    benchmark = "benchmarks/foveate_benchmarks/kernels/{}"
    for place in ("tests/kernels/test_{}", "tests/interpreter/test_{}", benchmark):
        assert (ROOT / f"{place.format(name)}.py").exists()

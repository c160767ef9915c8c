"""What every operator of the package promises."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foveate_benchmarks.gpu.cases import cases, operator
from foveate_kernels import ops
from foveate_kernels.packed import uniform

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


@pytest.mark.parametrize("name", OPERATORS)
def test_no_gradient_is_silently_none(name: str) -> None:
    """What could have one raises when asked for it, and not before."""
    args = [
        x.detach().requires_grad_() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for x in cases(name, "cpu", quick=True)[0].args
    ]
    given = [x for x in args if isinstance(x, torch.Tensor) and x.requires_grad]
    outputs = operator(name)(*args)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    floats = [x for x in outputs if x.is_floating_point()]
    assert [x.requires_grad for x in floats] == [bool(given)] * len(floats)
    for output in floats if given else ():
        with pytest.raises(NotImplementedError, match=f"foveate::{name} has no backward"):
            output.float().sum().backward()
    with torch.inference_mode():
        operator(name)(*args)


def test_a_compiler_that_derives_the_backward_first_says_the_same() -> None:
    def program(q: torch.Tensor) -> torch.Tensor:
        return ops.cls_importance(q, q, q, uniform(1, 5), 5).sum()

    compiled = torch.compile(program, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match="foveate::cls_importance has no backward"):
        compiled(torch.randn(5, 2, 16, requires_grad=True))
    with torch.no_grad():
        compiled(torch.randn(5, 2, 16, requires_grad=True))

"""Every kernel compiles for GPUs that are not here, within its budget of registers and memory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
import triton.language as tl

from foveate_benchmarks.kernels import kernel_budgets
from foveate_kernels.compile_only import compile_only, usage

ROOT = Path(__file__).parent.parent.parent
ARCHS = ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120")


@pytest.fixture(scope="module")
def compilations(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One process an architecture, side by side."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    processes = {
        arch: subprocess.Popen(
            [
                sys.executable,
                "-m",
                "foveate_benchmarks.kernels.kernel_budgets",
                "--arch",
                arch,
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for arch in ARCHS
    }
    yield processes
    for process in processes.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("arch", ARCHS)
def test_kernels_compile_within_their_budgets(request: pytest.FixtureRequest, arch: str) -> None:
    """They did, and nothing has changed; or else compile them, as ``make long`` always does."""
    if kernel_budgets.changed():
        process: subprocess.Popen[str] = request.getfixturevalue("compilations")[arch]
        output, _ = process.communicate()
        assert process.returncode == 0, output


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, ...]:
    """A copy of what the budgets were measured on, in another place."""
    copies = tuple(tmp_path / folder.name for folder in kernel_budgets.SOURCES)
    for folder, copy in zip(kernel_budgets.SOURCES, copies, strict=True):
        shutil.copytree(folder, copy)
    return copies


BUDGETS: dict[str, Any] = {"sm_90": {"an_op: a_kernel: a case": {"registers": 64}}}


def test_a_checkout_elsewhere_is_no_change(sources: tuple[Path, ...]) -> None:
    known = kernel_budgets.digest(BUDGETS)
    for folder in sources:
        for path in folder.rglob("*.py"):
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        (folder / "__pycache__").mkdir(exist_ok=True)
        (folder / "__pycache__" / "case.cpython-311.pyc").write_bytes(b"compiled")
    assert kernel_budgets.digest(BUDGETS, sources) == known


@pytest.mark.parametrize(
    "file",
    [
        "foveate_kernels/ops/vwt_assign.py",
        "foveate_kernels/matmul.py",
        "kernels/vwt_assign.py",
        "kernels/case.py",
    ],
)
def test_one_byte_of_a_source_is_a_change(sources: tuple[Path, ...], file: str) -> None:
    path = sources[0].parent / file
    path.write_bytes(path.read_bytes().replace(b"1", b"2", 1))
    assert kernel_budgets.digest(BUDGETS, sources) != kernel_budgets.digest(BUDGETS)


def test_a_source_more_or_less_is_a_change(sources: tuple[Path, ...]) -> None:
    known = kernel_budgets.digest(BUDGETS)
    shutil.copy(sources[0] / "topk.py", sources[0] / "ops" / "topk.py")
    assert kernel_budgets.digest(BUDGETS, sources) != known
    (sources[0] / "topk.py").unlink()
    assert kernel_budgets.digest(BUDGETS, sources) != known


def test_another_budget_or_compiler_is_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    known = kernel_budgets.digest(BUDGETS)
    looser = {"sm_90": {"an_op: a_kernel: a case": {"registers": 65}}}
    assert kernel_budgets.digest(looser) != known
    monkeypatch.setattr(triton, "__version__", "3.6.1")
    assert kernel_budgets.digest(BUDGETS) != known


def test_kernels_and_cases_use_nothing_that_is_not_looked_at() -> None:
    text = "".join(
        path.read_text() for folder in kernel_budgets.SOURCES for path in folder.rglob("*.py")
    )
    used = set(re.findall(r"^ *(?:from|import) (foveate\w*(?:\.\w+)?)", text, re.M))
    allowed = {"foveate_kernels", "foveate_benchmarks.kernels"}
    assert not [name for name in used if not name.startswith(tuple(allowed))]


@triton.jit
def gram_kernel(x_ptr, product_ptr, square_ptr, width: tl.constexpr, squared: tl.constexpr):
    rows = tl.arange(0, 64)
    product = tl.zeros([64, 64], tl.float32)
    square = tl.zeros([64], tl.float32)
    for low in range(0, width, 64):
        cols = low + tl.arange(0, 64)
        x = tl.load(x_ptr + rows[:, None] * width + cols[None, :])
        y = tl.load(x_ptr + (64 + rows)[:, None] * width + cols[None, :])
        product = tl.dot(x, tl.trans(y), product)
        if squared:
            x, y = x.to(tl.float32), y.to(tl.float32)
            square += tl.sum(x * x, 1) + tl.sum(y * y, 1)
    tl.store(product_ptr + rows[:, None] * 64 + rows[None, :], product)
    tl.store(square_ptr + rows, square)


@pytest.mark.parametrize("squared", [False, True])
def test_a_pipeline_that_overwrites_what_it_multiplies_is_noticed(squared: bool) -> None:
    """If this fails with another Triton, its pipeline is mended: ``inverse_norms`` can go."""
    x = torch.empty(128, 512, dtype=torch.float16, device="meta")
    out = torch.empty(64, 64, device="meta")
    with compile_only("sm_90") as kernels:
        gram_kernel[(1,)](x, out, out, width=512, squared=squared, num_warps=4, num_stages=3)
    found = usage(kernels[0])
    assert found.tensor_core == "wgmma"
    assert found.overwritten == squared

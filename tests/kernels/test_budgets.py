"""Every kernel compiles for GPUs that are not here, within its budget of registers and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from foveate_kernels.compile_only import compile_only, usage

ROOT = Path(__file__).parent.parent.parent
ARCHS = ("sm_80", "sm_90", "sm_100")


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
def test_kernels_compile_within_their_budgets(
    arch: str, compilations: dict[str, subprocess.Popen[str]]
) -> None:
    output, _ = compilations[arch].communicate()
    assert compilations[arch].returncode == 0, output


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

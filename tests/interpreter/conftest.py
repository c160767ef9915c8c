"""Kernels under Triton's interpreter, in a process of their own: ``TRITON_INTERPRET=1 pytest
tests/interpreter``, which ``make test`` runs. The variable must be set before triton is imported.

Outputs start as NaN, inputs lie between rows of NaN, and everything is compared with float64.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore_glob = [] if INTERPRETED else ["test_*.py"]

# Largest ‖x - reference‖ / ‖reference‖ by what is compared and the dtype of the inputs.
TOLERANCE = {
    "output": {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2},
    "score": {torch.float32: 1e-5, torch.float16: 1e-4, torch.bfloat16: 1e-3},
    "package": {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3},
}


def pytest_report_header() -> str | None:
    if INTERPRETED:
        return None
    return "tests/interpreter: not collected, TRITON_INTERPRET=1 is not set (make test runs them)"


@pytest.fixture(scope="session", autouse=True)
def _poison() -> None:
    """Memory that nobody wrote reads as NaN, or as the largest integer."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]


@pytest.fixture(scope="session", autouse=True)
def _widen_bfloat16() -> None:
    """The interpreter multiplies the bit patterns of bfloat16 (triton#11584): widen them first."""
    import numpy as np
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

    create_dot = InterpreterBuilder.create_dot

    def widen(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.view(np.uint16).astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def dot(self: InterpreterBuilder, a: TensorHandle, b: TensorHandle, *rest: object) -> object:
        return create_dot(self, widen(a), widen(b), *rest)

    InterpreterBuilder.create_dot = dot


@pytest.fixture(scope="session", autouse=True)
def _round_to_fp8() -> None:
    """The interpreter loses what is subnormal, NaN or a tie in FP8: have PyTorch round to it, which
    does as the instruction of a GPU does."""
    import numpy as np
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

    convert = InterpreterBuilder.create_fp_to_fp

    def fp_to_fp(
        self: InterpreterBuilder, source: TensorHandle, to: Any, rounding: Any
    ) -> TensorHandle:
        if to.scalar != tl.float8e4nv:
            return convert(self, source, to, rounding)
        values = torch.from_numpy(source.data.astype(np.float32)).to(torch.float8_e4m3fn)
        return TensorHandle(values.view(torch.uint8).numpy(), tl.float8e4nv)

    InterpreterBuilder.create_fp_to_fp = fp_to_fp


@pytest.fixture(scope="session")
def pack() -> Callable[..., tuple[Tensor, int]]:
    """``pack([3, 0, 5]) -> cu_seqlens, 5``: lengths of images to packed form."""

    def make(lengths: list[int]) -> tuple[Tensor, int]:
        ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
        return ends, max(lengths, default=0)

    return make


@pytest.fixture(scope="session")
def guard() -> Callable[[Tensor], Tensor]:
    """The same tensor, as a view between rows of NaN: reading outside it shows."""

    def make(x: Tensor) -> Tensor:
        rows = 3
        nan = float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max
        wide = x.new_full((x.shape[0] + 2 * rows, *x.shape[1:]), nan)
        wide[rows:-rows] = x
        return wide[rows:-rows]

    return make


@pytest.fixture(scope="session")
def close() -> Callable[[Tensor, Tensor, str, torch.dtype], None]:
    """``close(x, reference, kind, dtype)``: within the tolerance of its kind, and no NaN."""

    def compare(x: Tensor, reference: Tensor, kind: str, dtype: torch.dtype) -> None:
        assert x.shape == reference.shape
        assert not x.isnan().any(), "NaN: an output was not written, or a guard was read"
        size = reference.double().norm().item()
        error = (x.double() - reference.double()).norm().item() / (size or 1.0)
        assert error <= TOLERANCE[kind][dtype], f"relative error {error:.2e}"

    return compare

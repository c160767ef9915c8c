"""Every kernel on a GPU: equal to float64, and to itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from foveate_benchmarks.gpu.cases import OPS
from foveate_benchmarks.gpu.parity import check, variants
from foveate_kernels.ops import (
    bipartite_match,
    compact_tokens,
    match_kept,
    merge_groups,
    select_tokens,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
LENGTHS = [0, 1, 2, 15, 16, 17, 0, 64, 65, 197, 577, 0]


@torch.inference_mode()
@pytest.mark.parametrize("op", OPS)
def test_kernel_equals_float64(op: str) -> None:
    found = {key: check(op, given, kernel=True) for key, given in variants(op, "cuda", True)}
    assert not {key: row["wrong"] for key, row in found.items() if row["wrong"]}


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 197, 1576])
def test_the_gelu_of_cublas_is_that_of_tanh(rows: int) -> None:
    """As ``foveate.inference.fixed`` assumes of a product that ends with it."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator).half().cuda()
        for shape in ((rows, 384), (1536, 384), (1536,))
    )
    found = torch._addmm_activation(bias, x, weight.T / 16, use_gelu=True)
    sums = x.double() @ weight.double().T / 16 + bias.double()
    expected = torch.nn.functional.gelu(sums, approximate="tanh")
    torch.testing.assert_close(found.double(), expected, rtol=2e-3, atol=2e-3)


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_plans_of_ragged_batches_are_carried_out_as_on_the_cpu(dtype: torch.dtype) -> None:
    """Choices on the GPU, carried out there and, in float64, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    cu_seqlens = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32).cuda()
    total, longest = sum(LENGTHS), max(LENGTHS)
    x = torch.randn(total, 96, generator=generator).to(dtype).cuda()
    scores = torch.rand(2, total, generator=generator).cuda()
    sizes = torch.randint(1, 5, (total,), generator=generator).float().cuda()
    batch = (cu_seqlens, longest)
    folded = select_tokens(scores, *batch, ratio=(1, 2), fate="merge")
    plans: dict[str, tuple[Any, Any]] = {
        "package": (compact_tokens, select_tokens(scores, *batch, keep=16, fate="package")),
        "drop": (compact_tokens, select_tokens(scores, *batch, threshold=0.5)),
        "tome": (merge_groups, bipartite_match(x, *batch, r=8)),
        "tps": (merge_groups, match_kept(x, folded, *batch)),
    }
    for name, (carry_out, plan) in plans.items():
        got = carry_out(x, plan, *batch, sizes=sizes)
        here = type(plan)(*(None if field is None else field.cpu() for field in plan))
        want = carry_out(x.cpu().double(), here, cu_seqlens.cpu(), longest, sizes=sizes.cpu())
        rows = int(want.cu_seqlens[-1])
        assert torch.equal(got.cu_seqlens.cpu(), want.cu_seqlens), name
        assert torch.equal(got.sizes[:rows].cpu(), want.sizes[:rows]), name
        error = (got.x[:rows].cpu().double() - want.x[:rows]).norm() / want.x[:rows].norm()
        assert error < {torch.float32: 1e-5, torch.float16: 1e-3}.get(dtype, 8e-3), name

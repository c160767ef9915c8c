"""Part ``ops``: the time of every kernel against what the GPU can move and multiply.

Also of its reference on the same GPU and of its peers. ``ms`` is one call that finds nothing in the
caches, launched by itself; ``graph_ms`` one of many in a CUDA graph, as in a model. Shares are of
the copy and the matrix product measured on this GPU, at ``graph_ms``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from foveate_benchmarks.gpu.asked import Asked
from foveate_benchmarks.gpu.cases import OPS, cases, operator, reference
from foveate_benchmarks.gpu.clock import Clock
from foveate_benchmarks.gpu.rows import Rows, table, tried
from foveate_benchmarks.kernels.case import DTYPES, Case

__all__ = ["measure", "report"]


@torch.inference_mode()
def measure(rows: Rows, clock: Clock, asked: Asked) -> None:
    """Raises ValueError naming an operator that there is not."""
    if unknown := set(asked.ops or ()) - {*OPS}:
        raise ValueError(f"--op {unknown.pop()}: expected one of {', '.join(OPS)}")
    for op in asked.ops or OPS:
        for case in cases(op, clock.device, clock.quick):
            rows.run(f"{op}: {case.name}", partial(_row, op, case, rows, clock))


def _row(op: str, case: Case, rows: Rows, clock: Clock) -> dict[str, Any]:
    call, plain = operator(op), reference(op)
    row: dict[str, Any] = {"ms": clock.cold(lambda: call(*case.args))}
    row["graph_ms"] = clock.rotated(call, *case.args)
    seconds = row["graph_ms"] / 1e3
    row["copy_share"] = case.bytes / seconds / rows.hardware["copy_bytes_per_s"]
    rates = rows.hardware["matmul_flops_per_s"]
    dtypes = (DTYPES.get(x.dtype) for x in case.args if isinstance(x, Tensor))
    dtype = next((name for name in dtypes if name in rates), None)
    if case.flops and dtype:
        row["matmul_share"] = case.flops / seconds / rates[dtype]
    others = {"reference": lambda: plain(*case.args), **case.peers}
    row["others"] = {name: tried(partial(_cold, run, clock)) for name, run in others.items()}
    return row


def _cold(run: Callable[[], object], clock: Clock) -> dict[str, float]:
    return {"ms": clock.cold(run)}


def report(rows: Rows, asked: Asked) -> dict[str, bool]:
    lines = []
    for key, row in rows.items():
        timed = {other: t["ms"] / row["ms"] for other, t in row["others"].items() if "ms" in t}
        cells = [f"{row['ms'] * 1e3:.1f}", f"{row['graph_ms'] * 1e3:.1f}"]
        cells.append(f"{row['copy_share']:.2f}")
        cells.append(f"{row['matmul_share']:.2f}" if "matmul_share" in row else "")
        lines.append((key, *cells, "  ".join(f"{o} {ratio:.2f}x" for o, ratio in timed.items())))
    head = ("operator and case", "us alone", "us in a graph", "of copy", "of matmul", "others take")
    table("operators", head, lines)
    return {}

"""Part ``races``: compute-sanitizer's racecheck on the kernels that match or merge.

    python -m foveate_benchmarks.gpu.races OPERATOR DEVICE

is what it checks: one small case. Where the tool is not installed, rows say so.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from foveate_benchmarks.gpu.asked import Asked
from foveate_benchmarks.gpu.clock import Clock
from foveate_benchmarks.gpu.rows import Rows, table

__all__ = ["OPS", "check", "measure", "report"]

TOOL = "compute-sanitizer"
OPS = ("bipartite_match", "match_kept", "merge_groups", "vwt_assign", "select_tokens")
# Where CUDA is installed without being on PATH.
ELSEWHERE = "/usr/local/cuda/bin"
_SUMMARY = re.compile(r"RACECHECK SUMMARY: (\d+) hazards? displayed.*")
_LIMIT_S = 35.0


def measure(rows: Rows, clock: Clock, asked: Asked) -> None:
    # All at once: most of the time is the tool's own, while PyTorch is imported.
    checks = {op: check(op, clock.device) for op in OPS if op not in rows}
    for op, result in checks.items():
        rows.run(op, result)


def check(op: str, device: str) -> Callable[[], dict[str, Any]]:
    """Begin to check one small case; what is returned waits for the hazards that the tool counts.

    That raises RuntimeError with what the tool says, if it counts none.
    """
    tool = shutil.which(TOOL) or shutil.which(TOOL, path=ELSEWHERE)
    if tool is None:
        return lambda: {"skipped": f"{TOOL} is neither on PATH nor in {ELSEWHERE}"}
    process = subprocess.Popen(
        [tool, "--tool", "racecheck", sys.executable, "-m", __name__, op, device],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def result() -> dict[str, Any]:
        said, _ = process.communicate(timeout=_LIMIT_S)
        found = _SUMMARY.search(said)
        if found is None or process.returncode:
            raise RuntimeError(f"{TOOL} ended with {process.returncode}: {said[-800:]}")
        return {"hazards": int(found[1]), "summary": found[0]}

    return result


def run_case(op: str, device: str) -> None:
    import torch

    from foveate_benchmarks.gpu.cases import cases, operator

    case = cases(op, device, quick=True)[0]
    with torch.inference_mode():
        operator(op)(*case.args)
        if device == "cuda":
            torch.cuda.synchronize()


def report(rows: Rows, asked: Asked) -> dict[str, bool]:
    table("racecheck", ("operator", "found"), [(key, str(row)) for key, row in rows.items()])
    return {
        f"{op}: {row['hazards']} hazards": row["hazards"] == 0
        for op, row in rows.items()
        if "hazards" in row
    }


if __name__ == "__main__":
    run_case(sys.argv[1], sys.argv[2])

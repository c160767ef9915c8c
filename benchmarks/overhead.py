"""What the server adds to the forward pass: batch 1, pixels, median.

    python benchmarks/overhead.py [NAME] [--repository model_repository]

Request duration is Triton's own (``nv_inference_request_duration_us``: from receipt to response),
one request at a time; the forward pass is the engine's, in a process of its own, the same image at
the same level. Both on the same core, interleaved in short turns; medians over turns.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))

import httpx
import torch
import tritonclient.grpc as triton
import typer

from foveate.allocator import tune_allocator
from foveate.digits.images import test_set
from foveate.engine import Engine
from foveate.local import running
from results import bars, environment, save


def main(
    name: str = "digits", repository: Path = Path("model_repository"), turns: int = 400
) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))
    engine = Engine.load(repository / name / "1")
    level = len(engine.levels) - 1  # the shortest forward pass, where overhead weighs most
    pixels, _ = test_set(1)
    image = torch.from_numpy(pixels)
    tensor = triton.InferInput("PIXELS", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    pattern = re.compile(
        rf'^nv_inference_request_duration_us{{model="{name}",version="1"}} (\S+)', re.M
    )
    served, computed = [], []
    with running(repository, "--no-pin-cap", "--no-adapter", core=cores[0]) as server:
        os.sched_setaffinity(0, {cores[0]})
        client = triton.InferenceServerClient(server.grpc)

        def duration() -> float:
            return float(pattern.search(httpx.get(server.metrics).text).group(1))  # type: ignore[union-attr]

        for turn in range(turns):
            before = duration()
            client.infer(name, [tensor], parameters={"level": level})
            spent = duration() - before
            start = time.perf_counter()
            engine.infer(image, [level])
            forward = (time.perf_counter() - start) * 1e6
            if turn >= turns // 10:
                served.append(spent)
                computed.append(forward)
    overhead = median(served) - median(computed)
    print(
        f"request {median(served):.0f} us, forward {median(computed):.0f} us, "
        f"overhead {overhead:.0f} us"
    )
    checks = {"overhead of at most 1 ms": overhead <= 1000}
    save(
        "overhead",
        {
            "environment": environment(),
            "turns": turns,
            "level": engine.ladder.levels[level].name,
            "request_us": median(served),
            "forward_us": median(computed),
            "overhead_us": overhead,
            "bars": checks,
        },
    )
    bars(checks)


if __name__ == "__main__":
    typer.run(main)

"""What the server adds to the forward pass: batch 1, pixels, median.

    python benchmarks/overhead.py [NAME] [--repository model_repository]

Two counters of the same requests, one request at a time: Triton's own request duration (from
receipt to response) and the time the model process spent on the batch. That time holds the
governor's decision, which is timed apart and counted as overhead. Medians over turns of five
requests; server on the first core, client on the last.
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
import tritonclient.grpc as triton
import typer

from foveate import governor
from foveate.digits.images import test_set
from foveate.ladder import LatencyTable
from foveate.local import running
from results import bars, environment, save

TURN = 5


def decision_us(levels: int) -> float:
    """Median processor time of one decision about one request."""
    table = LatencyTable(
        device="",
        ladder="",
        batches=(1, 8),
        seconds=tuple((0.01 / k, 0.08 / k) for k in range(1, levels + 1)),
    )
    config = governor.Config(latency=table, max_batch=8, slo_ns=200_000_000)
    state, spent = governor.State(), []
    for step in range(2000):
        look = governor.Observation(
            now_ns=step * 20_000_000, wishes=(governor.Wish(),), policy=None
        )
        start = time.process_time()
        state, _ = governor.decide(config, state, look)
        spent.append(time.process_time() - start)
    return median(spent) * 1e6


def main(
    name: str = "digits", repository: Path = Path("model_repository"), turns: int = 100
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    pixels, _ = test_set(1)
    tensor = triton.InferInput("PIXELS", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    request = re.compile(
        rf'^nv_inference_request_duration_us{{model="{name}",version="1"}} (\S+)', re.M
    )
    batch = re.compile(rf'^foveate_batch_seconds_total{{.*model="{name}"}} (\S+)', re.M)
    os.sched_setaffinity(0, {cores[-1]})
    overheads, requests = [], []
    with running(repository, "--no-pin-cap", core=cores[0]) as server:
        client = triton.InferenceServerClient(server.grpc)

        def counters() -> tuple[float, float]:
            time.sleep(0.5)  # the model process publishes about seven times a second
            text = httpx.get(server.metrics).text
            spent = sum(float(value) for value in batch.findall(text))
            return float(request.search(text).group(1)), spent * 1e6  # type: ignore[union-attr]

        outputs = [triton.InferRequestedOutput(output) for output in ("SCORES", "LEVEL")]
        client.infer(name, [tensor], outputs=outputs)
        for _ in range(turns):
            before = counters()
            for _ in range(TURN):
                client.infer(name, [tensor], outputs=outputs)
            after = counters()
            requests.append((after[0] - before[0]) / TURN)
            overheads.append(requests[-1] - (after[1] - before[1]) / TURN)
    deciding = decision_us(5)
    overhead = median(overheads) + deciding
    print(
        f"request {median(requests):.0f} us, overhead {overhead:.0f} us "
        f"(of which the governor {deciding:.0f} us)"
    )
    checks = {"overhead of at most 1 ms": overhead <= 1000}
    save(
        "overhead",
        {
            "environment": environment(),
            "requests": turns * TURN,
            "request_us": median(requests),
            "governor_us": deciding,
            "overhead_us": overhead,
            "bars": checks,
        },
    )
    bars(checks)


if __name__ == "__main__":
    typer.run(main)

"""Half an hour under load: does any process grow, is anything left behind?

    python -m foveate_benchmarks.serving.soak [--minutes 30] [--load 0.8] [--no-save]

Poisson arrivals at a share of what the cheapest level carried just before. Every ten seconds the
memory of each process: the server, its model processes, the adapter. After five minutes to settle,
its median over the first minute and over the last must differ by less than 1 %. Shared memory files
that they mapped must be gone in the end.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Annotated

import psutil
import typer

from foveate_benchmarks.results import conclude
from foveate_loadtest.arrivals import Schedule, poisson
from foveate_loadtest.capacity import measure_capacities
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.run import LoadtestConfig, run
from foveate_loadtest.temporary_server import running

EVERY_S, SETTLED_MIN, MOST_GROWTH = 10.0, 5.0, 0.01
NAMES = {
    "tritonserver": "server",
    "digits_0_0": "model process",
    "digits_decode_0_0": "decode process",
    "foveate_adapter": "adapter",
}


def processes() -> dict[str, psutil.Process]:
    """The processes of the server we started, by what they are."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        words = process.cmdline()
        stub = any("python_backend_stub" in word for word in words[:1])
        for word in words[8:9] if stub else words:
            if (name := NAMES.get(Path(word).name)) is not None:
                found[name] = process
    return found


def watch(
    over: threading.Event, memory: dict[str, list[tuple[float, int]]], shared: set[Path]
) -> None:
    """Note the memory of every process until ``over``: seconds since the start, bytes; and the
    shared memory files they map."""
    start, watched = time.monotonic(), processes()
    while not over.wait(EVERY_S):
        for name, process in watched.items():
            memory[name].append((time.monotonic() - start, process.memory_info().rss))
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            shared.update(map(Path, re.findall(r"/dev/shm/triton_\S+", maps)))


def growth(samples: list[tuple[float, int]], minutes: float) -> dict[str, float]:
    """From the first settled minute to the last one."""
    settled = min(SETTLED_MIN, minutes / 2) * 60
    early = median(rss for at, rss in samples if settled <= at < settled + 60)
    late = median(rss for at, rss in samples if at >= samples[-1][0] - 60)
    return {"mib": round(early / 2**20, 1), "growth": round(late / early - 1, 5)}


def main(
    minutes: float = 30.0,
    load: float = 0.8,
    repository: Path = Path("model_repository"),
    keep: Annotated[bool, typer.Option("--save/--no-save")] = True,
) -> None:
    ladder = LadderFacts.from_file(repository / "digits" / "1" / "ladder.json")
    memory: dict[str, list[tuple[float, int]]] = defaultdict(list)
    shared: set[Path] = set()
    over = threading.Event()
    with running(repository, "--no-pin-cap") as server:
        capacity = measure_capacities(server.grpc, "digits", ladder).cheapest
        times = poisson(load * capacity, minutes * 60, seed=1)
        schedule = Schedule(
            times=times, seconds=minutes * 60, scenario="soak", seed=1, cv2=1.0, capacities=None
        )
        watcher = threading.Thread(target=watch, args=(over, memory, shared))
        watcher.start()
        report = run(LoadtestConfig(server=server.grpc, schedule=schedule, slo_ms=200))
        over.set()
        watcher.join()
    left = sorted(str(path) for path in shared if path.exists())
    grown = {name: growth(samples, minutes) for name, samples in memory.items()}
    for name, figures in grown.items():
        print(f"{name:16} {figures['mib']:8.1f} MiB {figures['growth']:+.2%}")
    checks = {
        "all four processes were watched": set(grown) == set(NAMES.values()) and bool(shared),
        **{f"{name}: flat": one["growth"] < MOST_GROWTH for name, one in grown.items()},
        "nothing left in shared memory": not left,
        "requests were answered": report.attainment > 0,
    }
    conclude(
        "soak",
        checks,
        keep,
        minutes=minutes,
        load=load,
        capacity_per_s=round(capacity, 1),
        requests=report.requests,
        attainment=report.attainment,
        memory=grown,
        left_in_shared_memory=left,
    )


if __name__ == "__main__":
    typer.run(main)

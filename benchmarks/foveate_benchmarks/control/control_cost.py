"""What control costs: the governor per batch, the adapter per second, both per request.

    python -m foveate_benchmarks.control.control_cost [NAME] [--repository model_repository]

The governor in this process, medians. The adapter as a child of ``foveate serve``, processor time
over a minute of 100 requests a second. Processor time of the server and its model processes per
request, every request at level 0, while the adapter runs and while it is stopped (SIGSTOP), which
to them is as if there was none: A B B A, medians. One server for both: two of them differ by more
than control costs. gRPC, PIXELS, open loop; server on the first core, client on the last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil
import typer

from foveate.control import governor
from foveate.control.policy import Policy
from foveate.levels.latency_table import LatencyTable
from foveate_benchmarks.results import conclude
from foveate_loadtest.arrivals import Schedule, Times, constant, poisson
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.run import LoadtestConfig, run
from foveate_loadtest.temporary_server import Addresses, cores_apart, running

RATE = 100.0  # requests per second, of every kind of batch
PINNED_RATE = 50.0  # evenly spaced: every batch is of one request, with an adapter and without
WARM_UP_S = 10.0  # the client takes a few seconds to start
SETTLE_S, TURN_S = 3.0, 5.0  # the lease of the last policy runs for 2 s; what is measured
PERIOD_NS = 50_000_000  # between two queue depths, as the adapter brings them
BATCHES = 2000
FULL = 16  # requests of the demo's largest batch


@dataclass(frozen=True)
class Server:
    """A running server, and the processes it is made of."""

    addresses: Addresses
    triton: list[psutil.Process]
    adapter: list[psutil.Process]


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Processor time while requests came, in seconds."""

    wall_s: float
    requests: float
    triton_s: float
    adapter_s: float


@contextmanager
def started(repository: Path, core: int, *options: str) -> Iterator[Server]:
    with running(repository, "--no-pin-cap", *options, core=core) as addresses:
        (serve,) = psutil.Process().children()
        adapter: list[psutil.Process] = []
        triton: list[psutil.Process] = []
        for child in serve.children():
            group = adapter if "foveate_adapter" in child.cmdline() else triton
            group += [child, *child.children(recursive=True)]
        yield Server(addresses, triton, adapter)


def cpu_s(processes: list[psutil.Process]) -> float:
    """Processor time spent so far."""
    times = [process.cpu_times() for process in processes]
    return float(sum(spent.user + spent.system for spent in times))


def spent(server: Server, model: str) -> Spent:
    """All that was spent so far."""
    (requests,) = server.addresses.counters(model, "nv_inference_request_success")
    return Spent(
        wall_s=time.monotonic(),
        requests=requests,
        triton_s=cpu_s(server.triton),
        adapter_s=cpu_s(server.adapter),
    )


def spend(server: Server, model: str, seconds: float) -> Spent:
    """What is spent in the next ``seconds``."""
    before = asdict(spent(server, model))
    time.sleep(seconds)
    after = asdict(spent(server, model))
    return Spent(**{key: after[key] - before[key] for key in after})


@contextmanager
def loaded(
    server: Server, model: str, times: Times, seconds: float, level: str | None = None
) -> Iterator[None]:
    """Requests at ``times``, already warmed up; each of them must be answered."""
    schedule = Schedule(
        times=times, seconds=seconds, scenario="cost", seed=1, cv2=0.0, capacities=None
    )
    config = LoadtestConfig(
        server=server.addresses.grpc, schedule=schedule, slo_ms=200.0, model=model, level=level
    )
    with ThreadPoolExecutor() as pool:
        report = pool.submit(run, config)
        time.sleep(WARM_UP_S)
        yield
        errors = report.result().errors
    assert not errors, errors


def policy(sequence: int, at_ns: int, queue_depth: int) -> Policy:
    return Policy(
        epoch=1,
        sequence=sequence,
        lease_expires_ns=at_ns + 2_000_000_000,
        slo_ns=200_000_000,
        quality_floor_level=4,
        margin=0.5,
        dearest=0,
        cheapest=4,
        queue_depth=queue_depth,
        queue_depth_at_ns=at_ns,
    )


def governor_us(requests: int, queue_depth: int) -> float:
    """Median time of ``decide`` and ``settle`` about a batch of ``requests``, one every 25 ms."""
    table = LatencyTable(
        device="",
        ladder="",
        batches=(1, FULL),
        seconds=tuple((0.01 / k, 0.12 / k) for k in range(1, 6)),
    )
    quality = (0.99, 0.98, 0.97, 0.95, 0.92)
    config = governor.Config(latency=table, quality=quality, max_batch=FULL, slo_ns=200_000_000)
    wishes = (governor.PLAIN,) * requests  # as the classifier reads them
    state, spent = governor.State(), []
    for batch in range(1, BATCHES + 1):
        now_ns = batch * PERIOD_NS // 2
        seen_ns = now_ns // PERIOD_NS * PERIOD_NS
        word = policy(seen_ns // PERIOD_NS, seen_ns, queue_depth)
        look = governor.Observation(now_ns=now_ns, wishes=wishes, policy=word)
        start = time.perf_counter()
        state, decision = governor.decide(config, state, look)
        state = governor.settle(state, decision, decision.predicted_s)
        spent.append(time.perf_counter() - start)
        assert decision.retry_after_ms is None, "a rejection takes another way"
    return median(spent) * 1e6


def main(
    name: str = "digits",
    repository: Path = Path("model_repository"),
    seconds: float = 60.0,
    rounds: int = 6,
) -> None:
    core = cores_apart()
    governing = {
        "full": governor_us(FULL, queue_depth=2 * FULL),
        "single": governor_us(1, queue_depth=0),
    }
    print(f"governor: {governing} us a batch", flush=True)

    with started(repository, core) as server:
        length = WARM_UP_S + seconds
        with loaded(server, name, poisson(RATE, length, seed=1), length):
            adapter = spend(server, name, seconds)
        share, rate = adapter.adapter_s / adapter.wall_s, adapter.requests / adapter.wall_s
        print(f"adapter: {share:.2%} of a core at {rate:.0f} requests/s", flush=True)

        level = LadderFacts.from_file(repository / name / "1" / "ladder.json").names[0]
        turns = ("on", "off", "off", "on") * rounds
        length = WARM_UP_S + len(turns) * (SETTLE_S + TURN_S)
        per_request: dict[str, list[float]] = {"on": [], "off": []}
        with loaded(server, name, constant(PINNED_RATE, length), length, level):
            for control in turns:
                for process in server.adapter:
                    process.resume() if control == "on" else process.suspend()
                time.sleep(SETTLE_S)
                turn = spend(server, name, TURN_S)
                per_request[control].append(turn.triton_s / turn.requests * 1e3)
    ratio = median(per_request["on"]) / median(per_request["off"])
    print(f"a request: {per_request} ms, ratio of medians {ratio:.4f}", flush=True)

    checks = {
        "governor <= 50 us per batch": max(governing.values()) <= 50,
        "adapter <= 2 % of a core at 20 Hz": share <= 0.02,
        "CPU per request with control on <= 1.01 x off": ratio <= 1.01,
    }
    conclude(
        "control_cost",
        checks,
        governor_us=governing,
        adapter={"share_of_a_core": share, **asdict(adapter)},
        request={"level": level, "per_s": PINNED_RATE, "cpu_ms": per_request, "ratio": ratio},
    )


if __name__ == "__main__":
    typer.run(main)

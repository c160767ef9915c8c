"""Triton's queue against one of our own, on the same arrivals.

    python benchmarks/private_queue.py [NAME] [--repository model_repository] [--seconds 30]

Own queue: requests are taken at once and answered through response senders, so that arrivals are
known exactly and the dead are dropped at their turn (``benchmarks/private_queue/model.py``).
Engine, governor and adapter are the same. gRPC, PIXELS, one image a request, open loop, SLO 200 ms;
the server on the first core, the client on the last. Loads are shares of the capacity of the
cheapest level behind Triton's queue.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import typer

from foveate.local import Addresses, free_ports
from foveate.processes import AdapterProcess, TritonProcess
from foveate.serve import state_dir
from foveate.server import Ports, embedded_server, server_command, server_environment
from foveate_loadtest.adapter import Adapter
from foveate_loadtest.arrivals import Schedule, gamma
from foveate_loadtest.capacity import measure_capacity
from foveate_loadtest.ladder import LadderFacts
from foveate_loadtest.report import Report
from foveate_loadtest.run import LoadtestConfig, run
from results import environment, save

SLO_MS = 200.0
PLUGIN = Path(__file__).parent / "private_queue" / "model.py"
SCENARIOS = {  # load, CV² of the gaps
    "0.7 Poisson": (0.7, 1.0),
    "0.7 CV² 8": (0.7, 8.0),
    "1.3 Poisson": (1.3, 1.0),
}


@dataclass(frozen=True)
class Variant:
    """One way to queue."""

    name: str
    private: bool

    def lay_out(self, source: Path, folder: Path) -> None:
        """Make ``folder`` this variant of the model in ``source``."""
        shutil.copytree(source, folder)
        if self.private:
            config = folder / "config.pbtxt"
            text = config.read_text()
            config.write_text(text.replace('backend: "foveate"', 'backend: "python"'))
            shutil.copy(PLUGIN, folder / "1" / "model.py")


@contextlib.contextmanager
def serving(variant: Variant, source: Path, core: int) -> Iterator[Addresses]:
    """A server of this model alone, and its adapter, on a core of their own."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        repository, run_dir = Path(scratch) / "repository", Path(scratch) / "run"
        repository.mkdir()
        run_dir.mkdir(mode=0o700)
        variant.lay_out(source, repository / source.name)
        http, grpc, metrics, port = free_ports(4)
        server = embedded_server(state_dir())
        settings = {
            "FOVEATE_RUN_DIR": str(run_dir),
            "FOVEATE_STATE_DIR": str(state_dir()),
            "FOVEATE_PIN_CAP": "1",
            "FOVEATE_SLO_MS": f"{SLO_MS:g}",
        }
        addresses = Addresses(
            http=f"http://127.0.0.1:{http}",
            grpc=f"127.0.0.1:{grpc}",
            metrics=f"http://127.0.0.1:{metrics}/metrics",
            adapter=f"http://127.0.0.1:{port}",
        )
        ports = Ports(http=http, grpc=grpc, metrics=metrics)
        triton = TritonProcess(
            server_command(server, [repository], "127.0.0.1", ports),
            server_environment(server, 1, settings, os.environ),
            addresses.http,
            addresses.metrics,
            [source.name],
        )
        ours = {
            "FOVEATE_ADAPTER_PORT": str(port),
            "FOVEATE_ADAPTER_METRICS_URL": addresses.metrics,
            "FOVEATE_ADAPTER_REPOSITORY": str(repository),
            "FOVEATE_ADAPTER_RUN_DIR": str(run_dir),
            "FOVEATE_ADAPTER_SLO_MS": f"{SLO_MS:g}",
        }
        adapter = AdapterProcess({**os.environ, **ours}, str(addresses.adapter))
        client = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {core})  # children inherit it
        try:
            for process in (triton, adapter):
                stack.callback(process.stop)
                process.start()
        finally:
            os.sched_setaffinity(0, client)
        yield addresses


def row(report: Report) -> dict[str, object]:
    return {
        "requests": report.requests,
        "attainment": report.attainment,
        "goodput": report.goodput,
        "recovered": report.recovered,
        "rejected": report.rejected,
        "rejection_p50_ms": report.rejection_ms and report.rejection_ms.p50,
        "rejection_p99_ms": report.rejection_ms and report.rejection_ms.p99,
        "p50_ms": report.latency_ms and report.latency_ms.p50,
        "p99_ms": report.latency_ms and report.latency_ms.p99,
        "errors": dict(report.errors),
        "send_lag_p99_ms": report.send_lag_ms and report.send_lag_ms.p99,
        "arrivals_sha256": report.arrivals_sha256,
        "problem": report.problem,
    }


def main(
    name: str = "digits",
    repository: Path = Path("model_repository"),
    seconds: float = 30.0,
    seed: int = 1,
) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    capacity: dict[str, float] = {}
    runs: dict[str, dict[str, dict[str, object]]] = {scenario: {} for scenario in SCENARIOS}
    for variant in (Variant("Triton's queue", False), Variant("own queue", True)):
        with serving(variant, repository / name, cores[0]) as server:
            ladder = LadderFacts.from_adapter(Adapter(str(server.adapter), name).view())
            cheapest = ladder.names[ladder.cheapest]
            capacity[variant.name] = measure_capacity(server.grpc, name, cheapest)
            print(f"{variant.name}: {capacity[variant.name]:.1f}/s at {cheapest}", flush=True)
            for scenario, (load, cv2) in SCENARIOS.items():
                time.sleep(3.0)  # the one before is forgotten
                rate = load * capacity["Triton's queue"]
                schedule = Schedule(
                    times=gamma(rate, seconds, cv2, seed),
                    seconds=seconds,
                    scenario=scenario,
                    seed=seed,
                    cv2=cv2,
                    capacities=None,
                )
                config = LoadtestConfig(
                    server=server.grpc,
                    schedule=schedule,
                    slo_ms=SLO_MS,
                    model=name,
                    ladder=ladder,
                )
                runs[scenario][variant.name] = row(run(config))
                print(f"{scenario:12} {runs[scenario][variant.name]}", flush=True)
    save(
        "private_queue",
        {
            "environment": environment(),
            "slo_ms": SLO_MS,
            "seconds": seconds,
            "seed": seed,
            "capacity_cheapest": capacity,
            "runs": runs,
        },
    )


if __name__ == "__main__":
    typer.run(main)

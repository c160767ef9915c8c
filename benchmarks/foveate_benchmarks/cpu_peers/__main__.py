"""What would a CPU user run instead of us, and are we ahead of it?

    python -m foveate_benchmarks.cpu_peers [--models demo --models deit-s] [--batches 1 ...]
        [--threads 1 ...] [--rounds 60] [--seconds 30] [--served] [--no-save]

The same weights and images for all, in one run, interleaved round by round: OpenVINO, ONNX Runtime
and PyTorch run the dense model, we every level, in fp32 and, where the CPU has it, in bf16. With
``--served``, our server and a Triton model that only calls OpenVINO take turns, too; without it,
what they did before is kept. A full run takes a quarter of an hour on two quiet cores, and longer
when torch.compile has nothing in its cache yet. ``foveate_benchmarks.tables`` writes it to
README.md and docs/cpu.md.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from foveate.inference.allocator import tune_allocator
from foveate.usable_cpus import usable_cpus
from foveate_benchmarks.cpu_peers.bars import bars, level_facts
from foveate_benchmarks.cpu_peers.groups import Bench, Group, Row
from foveate_benchmarks.cpu_peers.machine import machine
from foveate_benchmarks.cpu_peers.models import model
from foveate_benchmarks.cpu_peers.served import served as serve_both
from foveate_benchmarks.cpu_peers.tables import served_levels
from foveate_benchmarks.results import conclude, saved

app = typer.Typer()


@app.command()
def main(
    models: Annotated[list[str], typer.Option()] = ["demo", "deit-s"],  # noqa: B006
    batches: Annotated[list[int], typer.Option()] = [1, 8, 32],  # noqa: B006
    threads: Annotated[
        list[int] | None, typer.Option(help="1 and all usable, if not given")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="most rounds of a group")] = 60,
    seconds: Annotated[float, typer.Option(help="a group takes, if three rounds do")] = 30.0,
    served: Annotated[bool, typer.Option(help="measure the two servers, too")] = False,
    inductor: Annotated[bool, typer.Option(help="torch.compile, which takes minutes once")] = True,
    repository: Path = Path("model_repository"),
    save: bool = True,
) -> None:
    tune_allocator()
    begun = time.monotonic()
    benches = [Bench(model(name, repository, max(batches)), inductor) for name in models]
    rows: list[Row] = []
    for count in threads or sorted({1, usable_cpus()}):
        for bench in benches:
            for batch in batches:
                start = time.monotonic()
                found = bench.measure(Group(bench.model.name, count, batch), rounds, seconds)
                took = time.monotonic() - start
                print(f"== {bench.model.name}, threads {count}, batch {batch}: {took:.0f} s")
                for row in found:
                    print(_line(row), flush=True)
                rows += found
    levels = level_facts([bench.model for bench in benches], rows)
    judged = bars(levels)
    for bar in judged:
        verdict = "met   " if bar.met else "MISSED"
        print(f"{verdict} {bar.text}: {bar.value:.3f}, limit {bar.limit:.3f}")
    checks = {bar.text: bar.met for bar in judged} | _ladder(levels)
    servers: list[dict[str, Any]] | None = saved("cpu_peers").get("served")
    if served:
        servers = serve_both(repository)
    minutes = (time.monotonic() - begun) / 60
    print(f"took {minutes:.1f} minutes")
    conclude(
        "cpu_peers",
        checks,
        save,
        machine=machine(),
        rounds=rounds,
        seconds=seconds,
        minutes=minutes,
        rows=[row.facts() for row in rows],
        levels=levels,
        judged=[bar.facts() for bar in judged],
        served=servers,
    )


def _ladder(levels: list[dict[str, Any]]) -> dict[str, bool]:
    """What the demo's ladder is to span, at batch 8 with one thread, in the precision served."""
    rows = served_levels(levels, "demo", threads=1, batch=8)
    if not rows:
        return {}
    return {
        "demo: at least 5 levels": len(rows) >= 5,
        "demo: span of at least 4x in time": rows[0]["best_ms"] >= 4 * rows[-1]["best_ms"],
        "demo: cheapest loses at most 2.5 points": rows[0]["quality"] - rows[-1]["quality"]
        <= 0.025,
    }


def _line(row: Row) -> str:
    level = "" if row.level is None else f" level {row.level}"
    text = f"{row.precision} {row.who}{level}"
    if row.best_ms is None:
        return f"  {text:32} {row.missing}"
    off = "" if row.difference is None else f"  scores off by {row.difference:.0e}"
    return f"  {text:32} {row.best_ms:9.2f} ms, median {row.median_ms:9.2f}{off}"


if __name__ == "__main__":
    app()

"""How long ``foveate serve`` takes until every model has answered, cold and warm.

    python -m foveate_benchmarks.serving.start_up [--runs 3]

Cold: an empty state folder, so levels are exported, compiled and timed. Warm: a second start, which
finds exported levels and latencies and compiles. Both with the server's own layout in place, and in
turns. And what is kept on disk, and the memory of the model process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil
import typer

from foveate.inference.latency import processor
from foveate.settings import state_dir
from foveate.usable_cpus import usable_cpus
from foveate_benchmarks.results import conclude
from foveate_loadtest.temporary_server import running


def main(
    runs: int = 3,
    name: str = "digits",
    repository: Path = Path("model_repository"),
    keep: bool = True,
) -> None:
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    with running(repository):  # lays out the server
        pass
    layout = state_dir() / "server"
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["FOVEATE_STATE_DIR"] = _beside(layout, Path(folder))
            for own in seconds.values():
                start = time.perf_counter()
                with running(repository):
                    own.append(time.perf_counter() - start)
                    memory = _memory(name)
            size = sum(f.stat().st_size for f in (Path(folder) / name / "levels").rglob("*.*"))
    middle = {key: median(own) for key, own in seconds.items()}
    print(
        {key: f"{value:.1f} s" for key, value in middle.items()},
        f"{size / 2**20:.0f} MiB kept,",
        f"{memory / 2**20:.0f} MiB of memory",
    )
    conclude(
        "start_up",
        {"a warm start is quicker than a cold one": middle["warm"] < middle["cold"]},
        keep,
        processor=processor(),
        cpus=usable_cpus(),
        seconds=seconds,
        exported_mib=size / 2**20,
        memory_mib=memory / 2**20,
    )


def _memory(name: str) -> int:
    """Resident bytes of the model's process."""
    instance = f"{name}_0_0"  # as the server calls it
    found = [p for p in psutil.process_iter(["cmdline"]) if instance in (p.info["cmdline"] or ())]
    return int(found[0].memory_info().rss)


def _beside(layout: Path, folder: Path) -> str:
    """``folder`` as a state folder with the server laid out."""
    shutil.copytree(layout, folder / "server", symlinks=True)
    return str(folder)


if __name__ == "__main__":
    typer.run(main)

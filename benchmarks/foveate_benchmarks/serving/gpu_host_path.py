"""What the host does for a GPU, measured without one: passes take time, and compute nothing.

    python -m foveate_benchmarks.serving.gpu_host_path [--quick]

First the engine alone: stage, orders, answers of a batch whose passes take no time. Then a real
server with an emulated GPU of which a pass takes 0.4 ms and 0.08 ms an image, about DeiT-B on an
H100: images a second, once waiting for each batch and once with two under way, in turns; and the
processor's time for an image. Not in it are the calls of the CUDA driver.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import grpc
import numpy as np
import psutil
import torch
import typer

from foveate.inference.latency import processor
from foveate.inference.prepared import PreparedLadder
from foveate.model.vit import ViTConfig
from foveate.settings import state_dir
from foveate.usable_cpus import usable_cpus
from foveate_benchmarks.gpu.entry import write_entry
from foveate_benchmarks.gpu.models import Spec
from foveate_benchmarks.results import conclude
from foveate_benchmarks.serving.emulated_gpu import EmulatedEngine
from foveate_cli.host.processes import TritonProcess
from foveate_cli.host.tritonserver import (
    Ports,
    Server,
    embedded_server,
    server_command,
    server_environment,
)
from foveate_loadtest.payloads import Tensor, grpc_payload
from foveate_loadtest.senders import infer_method
from foveate_loadtest.temporary_server import free_ports

NAME = "vit"
# Images of DeiT-B; the rest is small, for no pass is computed.
SHAPE = Spec(
    ViTConfig(height=224, width=224, patch=16, dim=32, depth=12, heads=2, mlp_dim=64, classes=1000),
    (3, 6, 9),
    0,
)
BATCHES = (1, 8, 32, 64)
BARS_MS = {8: 0.25, 32: 0.6}
MAX_BATCH = 64
LEVELS = len(SHAPE.levels())
# Of a server: images a request, requests under way.
LOADS = ((1, 16), (1, 96), (4, 16), (8, 8), (32, 4))
PASS_S, IMAGE_S = 0.0004, 0.00008


def main(quick: bool = False) -> None:
    seconds, turns, rounds = (0.5, 1, 30) if quick else (3.0, 3, 300)
    with tempfile.TemporaryDirectory() as scratch:
        repository = Path(scratch) / "models"
        repository.mkdir()
        write_entry(repository, NAME, SHAPE, MAX_BATCH)
        host_ms = _host(PreparedLadder.load(repository / NAME / "1"), rounds)
        served: dict[str, list[dict[str, float]]] = {}
        for turn in range(turns):
            for overlap in (False, True)[:: 1 if turn % 2 else -1]:
                with emulated(repository, overlap, PASS_S, IMAGE_S) as (address, stub):
                    for images, under_way in LOADS:
                        who = "two batches under way" if overlap else "one batch at a time"
                        key = f"{who}, {_load_name(images, under_way)}"
                        found = _load(address, stub, images, under_way, seconds)
                        served.setdefault(key, []).append(found)
                        print(f"{key}: {found}", flush=True)
    best = {
        key: {name: mean(t[name] for t in own) for name in own[0]} for key, own in served.items()
    }
    for key, facts in best.items():
        print(key, {name: round(value, 1) for name, value in facts.items()})
    checks = {
        f"batch {batch}: host time {host_ms[f'{batch} images, 1 level']:.3f} ms, at most {bar}": (
            host_ms[f"{batch} images, 1 level"] <= bar
        )
        for batch, bar in BARS_MS.items()
    }
    conclude(
        "gpu_host_path",
        checks,
        not quick,
        processor=processor(),
        cpus=usable_cpus(),
        loads=[_load_name(*load) for load in LOADS],
        host_ms=host_ms,
        served=best,
        turns=served,
    )


def _load_name(images: int, under_way: int) -> str:
    return f"{under_way} of {images} image{'s' * (images > 1)}"


def _host(prepared: PreparedLadder, rounds: int) -> dict[str, float]:
    """Median ms of a batch of one-image requests whose passes take no time."""
    torch.set_num_threads(1)
    engine = EmulatedEngine(prepared, MAX_BATCH, lambda level, size: 0.0)
    found = {}
    for batch in BATCHES:
        shape = (1, SHAPE.config.height, SHAPE.config.width, 3)
        requests = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(batch)]
        for levels in (1, LEVELS):
            own, times = [i % levels for i in range(batch)], []
            for _ in range(rounds):
                start = time.perf_counter()
                engine.launch(requests, own)()
                times.append(time.perf_counter() - start)
            found[f"{batch} images, {levels} level{'s' * (levels > 1)}"] = 1e3 * median(times)
    print(found)
    return found


@contextlib.contextmanager
def emulated(
    repository: Path, overlap: bool, pass_s: float, image_s: float, looks: bool = False
) -> Iterator[tuple[str, psutil.Process]]:
    """A real server with an emulated GPU: its gRPC address, and the process of the model."""
    taken = {"overlap": overlap, "pass_s": pass_s, "image_s": image_s, "looks": looks}
    (repository / NAME / "1" / "passes.json").write_text(json.dumps(taken))
    with tempfile.TemporaryDirectory() as scratch:
        server = _backend(embedded_server(state_dir()), Path(scratch))
        http, rpc, metrics = free_ports(3)
        settings = {
            "FOVEATE_RUN_DIR": str(Path(scratch) / "run"),
            "FOVEATE_STATE_DIR": str(Path(scratch) / "state"),
            "FOVEATE_SLO_MS": "10000",
            "FOVEATE_PIN_CAP": "1",
        }
        (Path(scratch) / "run").mkdir()
        process = TritonProcess(
            server_command(
                server,
                [repository],
                "127.0.0.1",
                Ports(http=http, grpc=rpc, metrics=metrics),
                "none",
            ),
            server_environment(server, 1, settings, os.environ),
            f"http://127.0.0.1:{http}",
            f"http://127.0.0.1:{metrics}/metrics",
            [NAME],
        )
        try:
            process.start()
            yield f"127.0.0.1:{rpc}", _stub()
        finally:
            process.stop()


def _backend(server: Server, scratch: Path) -> Server:
    """The same server, with a plugin whose GPU is emulated."""
    backends = scratch / "backends"
    (backends / "foveate").mkdir(parents=True)
    (backends / "python").symlink_to(server.backends / "python")
    text = "from foveate_benchmarks.serving.emulated_backend import TritonPythonModel\n"
    (backends / "foveate" / "model.py").write_text(text)
    return Server(binary=server.binary, backends=backends, embedded=True)


def _stub() -> psutil.Process:
    """The process that runs the model."""
    (found,) = (
        child
        for child in psutil.Process().children(recursive=True)
        if f"/{NAME}/" in " ".join(child.cmdline()) or f"{NAME}_0" in " ".join(child.cmdline())
        if "stub" in " ".join(child.cmdline())
    )
    return found


def _load(
    address: str, stub: psutil.Process, images: int, under_way: int, seconds: float
) -> dict[str, float]:
    """A closed loop of level 0."""
    pixels = np.random.default_rng(0).integers(
        0, 256, (images, SHAPE.config.height, SHAPE.config.width, 3), dtype=np.uint8
    )
    payload = grpc_payload(NAME, Tensor("PIXELS", pixels), {"level": "0"})
    slots, answers = threading.Semaphore(under_way), 0
    failed: list[str] = []

    def done(call: Any) -> None:
        nonlocal answers
        if call.code() is grpc.StatusCode.OK:
            answers += 1
        else:
            failed.append(call.details())
        slots.release()

    with grpc.insecure_channel(address) as channel:
        infer = infer_method(channel)
        end = time.perf_counter() + 0.3
        marks: list[tuple[float, int, float]] = []
        while True:
            slots.acquire()
            if (now := time.perf_counter()) > end:
                used = stub.cpu_times()
                marks.append((now, answers, used.user + used.system))
                if len(marks) == 2:
                    break
                end = now + seconds
            infer.future(payload, timeout=30.0).add_done_callback(done)
        for _ in range(under_way - 1):
            slots.acquire()
    if failed:
        raise SystemExit(f"{len(failed)} requests failed: {failed[0]}")
    (start_s, first, start_cpu), (end_s, last, end_cpu) = marks
    answered = images * (last - first)
    return {
        "images_per_s": answered / (end_s - start_s),
        "model_process_us_per_image": 1e6 * (end_cpu - start_cpu) / answered,
    }


if __name__ == "__main__":
    typer.run(main)

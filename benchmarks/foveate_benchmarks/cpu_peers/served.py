"""The same over gRPC: our server, and a Triton model of a few lines that calls OpenVINO.

In turns, A B B A, each server started anew on the first core, the client on the last. Ours is what
``foveate serve`` starts, adapter and companion models included.

    python -m foveate_benchmarks.cpu_peers.served

measures this part alone and puts it beside what was measured of the others.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, quantiles
from typing import Any

import grpc
import openvino as ov
import torch
import typer

from foveate.inference.compiled import has_bf16
from foveate.inference.export import export_module
from foveate.inference.prepared import PreparedLadder
from foveate.repository import read_max_batch
from foveate.settings import state_dir
from foveate_benchmarks.cpu_peers.peers import OPENVINO, Plain
from foveate_benchmarks.results import save, saved
from foveate_cli.host.processes import TritonProcess
from foveate_cli.host.tritonserver import (
    Ports,
    embedded_server,
    server_command,
    server_environment,
)
from foveate_loadtest.capacity import measure_capacity
from foveate_loadtest.choices import DIGITS, Target
from foveate_loadtest.image_sets import load_images
from foveate_loadtest.payloads import Parameters, grpc_payload, tensors
from foveate_loadtest.senders import infer_method
from foveate_loadtest.temporary_server import free_ports, running

__all__ = ["served"]

NAME = "digits"
REQUESTS = 400  # one at a time
WARM_UP = 20
SECONDS, RUNS = 3.0, 2  # of a closed loop

# Compiled for every batch size, which a user who cares for time would do.
_MODEL = """
import json
from pathlib import Path

import numpy as np
import openvino as ov
import torch
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": 1,
            "INFERENCE_PRECISION_HINT": config["parameters"]["precision"]["string_value"],
        }
        core = ov.Core()
        network = core.read_model(folder / "network.xml")
        shape = list(network.input(0).partial_shape)[1:]
        self.compiled = {}
        for size in range(1, config["max_batch_size"] + 1):
            network.reshape([size, *shape])
            self.compiled[size] = core.compile_model(network, "CPU", options)

    def execute(self, requests):
        parts = [pb_utils.get_input_tensor_by_name(r, "PIXELS").as_numpy() for r in requests]
        batch = np.concatenate(parts)
        scores = self.compiled[len(batch)]([batch])[0]
        ends = np.cumsum([len(part) for part in parts])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("SCORES", own)])
            for own in np.split(scores, ends)
        ]
"""
_CONFIG = """
backend: "python"
max_batch_size: %(max_batch)d
input [
  { name: "PIXELS" data_type: TYPE_UINT8 format: FORMAT_NHWC dims: [ %(height)d, %(width)d, 3 ] }
]
output [ { name: "SCORES" data_type: TYPE_FP32 dims: [ %(classes)d ] } ]
dynamic_batching { }
instance_group [ { kind: KIND_CPU count: 1 } ]
parameters { key: "precision" value { string_value: "%(precision)s" } }
"""


@dataclass(frozen=True)
class Asked:
    """Whom a figure is of: a model, and a level of ours."""

    who: str
    model: str
    level: str = "0"  # the other has none, and reads no parameters


def served(repository: Path) -> list[dict[str, Any]]:
    """Requests a second with many in flight, and milliseconds of one at a time."""
    prepared = PreparedLadder.load(repository / NAME / "1")
    names = [level.name for level in prepared.ladder.levels]
    max_batch = read_max_batch(repository, NAME)
    precisions = ["bf16", "fp32"] if has_bf16() else ["fp32"]
    ours = [
        Asked(f"foveate, level {level} `{names[level]}`, {precisions[0]}", NAME, str(level))
        for level in (0, len(names) - 1)
    ]
    theirs = [
        Asked(f"OpenVINO in a Python model, {precision}", f"dense_{precision}")
        for precision in precisions
    ]
    found: dict[Asked, list[dict[str, float]]] = {asked: [] for asked in (*ours, *theirs)}
    with tempfile.TemporaryDirectory() as scratch, _core_for_servers() as core:
        trivial = Path(scratch)
        for precision in precisions:
            _write(prepared, trivial / f"dense_{precision}", precision, max_batch)
        for turn in (ours, theirs, theirs, ours):
            start = _ours(repository, core) if turn is ours else _theirs(trivial, core)
            with start as address:
                for asked in turn:
                    found[asked].append(_measure(address, asked))
                    print(f"{asked.who}: {found[asked][-1]}", flush=True)
    return [
        {
            "who": asked.who,
            **{key: mean(turn[key] for turn in turns) for key in turns[0]},
            "turns": turns,
        }
        for asked, turns in found.items()
    ]


@contextlib.contextmanager
def _core_for_servers() -> Iterator[int]:
    """This process keeps to its last core; gives the first."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("one core: client and server would disturb each other")
    os.sched_setaffinity(0, {cores[-1]})
    try:
        yield cores[0]
    finally:
        os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def _ours(repository: Path, core: int) -> Iterator[str]:
    with running(repository, "--no-pin-cap", core=core) as server:
        yield server.grpc


@contextlib.contextmanager
def _theirs(repository: Path, core: int) -> Iterator[str]:
    server = embedded_server(state_dir())
    http, rpc, metrics = free_ports(3)
    ports = Ports(http=http, grpc=rpc, metrics=metrics)
    models = sorted(path.name for path in repository.iterdir())
    process = TritonProcess(
        server_command(server, [repository], "127.0.0.1", ports, "none"),
        server_environment(server, 1, {}, os.environ),
        f"http://127.0.0.1:{http}",
        f"http://127.0.0.1:{metrics}/metrics",
        models,
    )
    own = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {core})  # children inherit it
        try:
            process.start()
        finally:
            os.sched_setaffinity(0, own)
        yield f"127.0.0.1:{rpc}"
    finally:
        process.stop()


def _write(prepared: PreparedLadder, folder: Path, precision: str, max_batch: int) -> None:
    """A model of Triton's Python backend that runs the dense model."""
    version, config = folder / "1", prepared.config
    version.mkdir(parents=True)
    example = torch.zeros(1, config.height, config.width, 3, dtype=torch.uint8)
    network = export_module(Plain(prepared.levels[0].vit), example)
    ov.save_model(network, version / "network.xml", compress_to_fp16=False)
    (version / "model.py").write_text(_MODEL)
    facts: Mapping[str, object] = {
        **vars(config),
        "max_batch": max_batch,
        "precision": OPENVINO[precision],
    }
    (folder / "config.pbtxt").write_text(_CONFIG % facts)


def _measure(address: str, asked: Asked) -> dict[str, float]:
    latencies = _one_at_a_time(address, asked)
    return {
        "capacity": measure_capacity(address, asked.model, asked.level, SECONDS, RUNS),
        "p50_ms": 1e3 * quantiles(latencies, n=100)[49],
        "p99_ms": 1e3 * quantiles(latencies, n=100)[98],
        "best_ms": 1e3 * min(latencies),
    }


def _one_at_a_time(address: str, asked: Asked) -> list[float]:
    images, _ = load_images(DIGITS, 64, Target.PIXELS)
    parameters: Parameters = {"level": asked.level}
    payloads = [grpc_payload(asked.model, x, parameters) for x in tensors(images)]
    seconds = []
    with grpc.insecure_channel(address) as channel:
        infer = infer_method(channel)
        for payload in itertools.islice(itertools.cycle(payloads), WARM_UP + REQUESTS):
            start = time.perf_counter()
            infer(payload, timeout=30.0)
            seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def main(repository: Path = Path("model_repository")) -> None:
    facts = saved("cpu_peers")
    save("cpu_peers", **{**facts, "served": served(repository)})


if __name__ == "__main__":
    typer.run(main)

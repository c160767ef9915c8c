"""Part ``served``: DeiT-B behind the real server, from requests to answers.

Weights are random; the levels are those of part ``model``. The server is what ``foveate serve``
starts, adapter included. Its answers beside those of PyTorch in float32 on the CPU; a closed loop
of requests of 32, 8 and one image at fixed levels, sent by several processes; a burst of single
images with the adapter in charge; and what one model process can do whose passes compute nothing.
Then the same images in bfloat16, which is not served: level by level, without the server.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import tritonclient.grpc as triton
from torch import Tensor
from torch.nn import functional as F

from foveate.inference.fixed import Forward, Routes
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.usable_cpus import default_threads, usable_cpus
from foveate_benchmarks.gpu.asked import Asked
from foveate_benchmarks.gpu.clients import DEADLINE_MS, Load, clients, closed
from foveate_benchmarks.gpu.clock import Clock
from foveate_benchmarks.gpu.entry import HOST_ONLY, write_entry, write_host_only
from foveate_benchmarks.gpu.model_parity import centred
from foveate_benchmarks.gpu.models import Spec, spec
from foveate_benchmarks.gpu.rows import Rows, table
from foveate_benchmarks.results import SLO_MS
from foveate_loadtest.adapter_client import Adapter
from foveate_loadtest.arrivals import Capacities, Phase, Schedule, piecewise
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.run import LoadtestConfig, run
from foveate_loadtest.stage import row as kept
from foveate_loadtest.temporary_server import Addresses, running

__all__ = ["measure", "report"]

NAME = "deit-b"
MAX_BATCH = 32
REQUESTS = (32, 8)  # images of a request
IN_FLIGHT = 3  # batches of the largest size: one runs, one waits, one is under way
PREPARE_S = 0.3  # for every client to have its requests
PICTURES = 16
CALM, PEAK = 0.4, 1.5  # of what level 0 can do

Step = Callable[[], dict[str, Any]]


@torch.inference_mode()
def measure(rows: Rows, clock: Clock, asked: Asked) -> None:
    model = spec(NAME, clock.quick)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        os.environ["FOVEATE_STATE_DIR"] = str(folder / "state")
        if not clock.cuda:
            os.environ["FOVEATE_EXECUTOR"] = "reference"  # nothing to compile
        write_entry(folder / "models", NAME, model, MAX_BATCH, 0 if clock.cuda else None)
        write_host_only(folder / "models", NAME)
        prepared = PreparedLadder.load(folder / "models" / NAME / "1")
        pictures = _pictures(model)
        exact = _Exact(prepared, pictures)
        with ExitStack() as stack:
            server = _Server(stack, rows, clock, model, folder, pictures, exact)
            for key, step in server.steps():
                if key not in rows and server.started():
                    rows.run(key, step)
        for index, level in enumerate(model.levels()):
            rows.run(f"scores bf16 {level}", partial(_in_bf16, clock, prepared, index, exact))


class _Exact:
    """Scores in float32 on the CPU [images, classes], by level; computed when first asked for."""

    def __init__(self, prepared: PreparedLadder, pictures: Tensor) -> None:
        self._prepared, self.pictures = prepared, pictures

    def scores(self, level: int) -> Tensor:
        engine = ReferenceEngine(self._prepared)
        return engine.infer(self.pictures, [level] * len(self.pictures)).scores

    def compared(self, level: int, scores: Tensor) -> dict[str, Any]:
        """How far others are off: an image whose level keeps another token is further off."""
        exact = self.scores(level)
        ours, theirs = centred(scores), centred(exact)
        off = (ours - theirs).norm(dim=1) / theirs.norm(dim=1)
        same = scores.argmax(1) == exact.argmax(1)
        return {
            "images": len(exact),
            "median_off": float(off.median()),
            "most_off": float(off.max()),
            "same_class": float(same.float().mean()),
        }


class _Server:
    """What is measured of a server, which starts when the first of it is."""

    def __init__(
        self,
        stack: ExitStack,
        rows: Rows,
        clock: Clock,
        model: Spec,
        folder: Path,
        pictures: Tensor,
        exact: _Exact,
    ) -> None:
        self._stack, self._rows, self._clock, self._model = stack, rows, clock, model
        self._folder, self._pictures, self._exact = folder, pictures, exact
        self._processes = 4 if clock.cuda else 1
        self._seconds = 0.3 if clock.quick else 3.0
        self._levels = [*model.levels()]
        self._requests = REQUESTS[1:] if clock.quick else REQUESTS
        self._server: Addresses | None = None
        self._failed = False

    def steps(self) -> Iterator[tuple[str, Step]]:
        for index, level in enumerate(self._levels):
            yield f"scores served {level}", partial(self._scores, index)
        ends = (self._levels[0], self._levels[-1])
        for images in self._requests:
            for level in ends if self._clock.quick else self._levels:
                yield f"b{images} {level}", partial(self._closed, NAME, level, images)
        for level in ends:
            yield f"b1 {level}", partial(self._closed, NAME, level, 1)
        yield "burst", self._burst
        for images in (*self._requests, 1):
            idle = partial(self._closed, f"{NAME}{HOST_ONLY}", self._levels[0], images)
            yield f"host only b{images}", idle

    def started(self) -> bool:
        if self._server is None and not self._failed:
            begin = time.monotonic()
            self._server = self._rows.attempt("start", self._start)
            self._failed = self._server is None
            if not self._failed:
                self._rows.put("start", {"seconds": time.monotonic() - begin})
        return self._server is not None

    def _start(self) -> Addresses:
        options = ["--no-pin-cap", f"--slo-ms={SLO_MS:g}"]
        if self._clock.cuda:
            options.append(f"--threads={default_threads(usable_cpus())}")
        server = self._stack.enter_context(running(self._folder / "models", *options))
        self._pool: Pool = self._stack.enter_context(clients(self._processes))
        return server

    @property
    def _addresses(self) -> Addresses:
        assert self._server is not None
        return self._server

    def _scores(self, level: int) -> dict[str, Any]:
        client = triton.InferenceServerClient(self._addresses.grpc)
        pixels = triton.InferInput("PIXELS", list(self._pictures.shape), "UINT8")
        pixels.set_data_from_numpy(self._pictures.numpy())
        wish = {"level": self._levels[level], "deadline_ms": DEADLINE_MS}
        answer = client.infer(NAME, [pixels], parameters=wish)
        client.close()
        scores = torch.from_numpy(answer.as_numpy("SCORES").copy())
        return self._exact.compared(level, scores)

    def _closed(self, name: str, level: str, images: int) -> dict[str, Any]:
        in_flight = max(1, IN_FLIGHT * MAX_BATCH // images // self._processes)
        config = self._model.config
        load = Load(
            address=self._addresses.grpc,
            model=name,
            level=level,
            images=images,
            size=(config.height, config.width),
            in_flight=in_flight,
            begin=time.monotonic() + PREPARE_S,
            seconds=self._seconds,
        )
        counted = ("nv_inference_count", "nv_inference_exec_count", "foveate_batch_seconds_total")
        before, begin = self._addresses.counters(name, *counted), time.monotonic()
        with self._clock.watching() as busy:
            latencies = np.concatenate(self._pool.map(closed, [load] * self._processes, 1))
        time.sleep(0.35)  # the model process publishes about seven times a second
        took = time.monotonic() - begin
        after = self._addresses.counters(name, *counted)
        served, batches, seconds = (b - a for a, b in zip(before, after, strict=True))
        p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
        return {
            "images_per_s": len(latencies) * images / self._seconds,
            "p50_ms": float(p50),
            "p99_ms": float(p99),
            "requests_in_flight": in_flight * self._processes,
            "mean_batch": served / batches,
            "model_process_busy": seconds / took,  # of the whole run, its warm-up included
            "gpu_busy": mean(busy) if busy else None,
        }

    def _burst(self) -> dict[str, Any]:
        ends = (self._levels[0], self._levels[-1])
        exact, cheapest = (self._rows[f"b1 {level}"]["images_per_s"] for level in ends)
        calm, peak = (0.3, 0.6) if self._clock.quick else (15.0, 15.0)
        if self._clock.quick:  # a rehearsal sends few
            exact, cheapest = 0.05 * exact, 0.05 * cheapest
        phases = (
            Phase(calm, CALM * exact),
            Phase(peak, PEAK * exact),
            Phase(calm, CALM * exact),
        )
        schedule = Schedule(
            times=piecewise(phases, 1.0, seed=1),
            seconds=2 * calm + peak,
            scenario="burst",
            seed=1,
            cv2=1.0,
            capacities=Capacities(exact=exact, cheapest=cheapest),
        )
        images = self._folder / "images.npz"
        np.savez(images, pixels=self._pictures.numpy())
        with Adapter(str(self._addresses.adapter), NAME) as adapter:
            ladder = LadderFacts.from_adapter(adapter.view())
        report = run(
            LoadtestConfig(
                server=self._addresses.grpc,
                schedule=schedule,
                slo_ms=SLO_MS,
                model=NAME,
                ladder=ladder,
                workers=max(1, usable_cpus() // 2 - 1),
                image_set=str(images),
                images=PICTURES,
            )
        )
        return {**kept(report), "phases": [[p.seconds, p.rate] for p in phases], "slo_ms": SLO_MS}


def _pictures(model: Spec) -> Tensor:
    """Images with flat and busy parts [n, H, W, 3] uint8, always the same."""
    generator = torch.Generator().manual_seed(0)
    config = model.config
    coarse = torch.rand(PICTURES, 3, 7, 7, generator=generator)
    smooth = F.interpolate(coarse, (config.height, config.width), mode="bilinear")
    fine = torch.rand(smooth.shape, generator=generator) - 0.5
    where = (smooth[:, :1] > 0.5) * 0.3
    return (
        ((smooth + where * fine).clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    )


def _in_bf16(clock: Clock, prepared: PreparedLadder, level: int, exact: _Exact) -> dict[str, Any]:
    own = prepared.levels[level]
    config = prepared.config
    vit = type(own.vit)(config).requires_grad_(False).eval()
    vit.load_state_dict(own.vit.state_dict())
    forward = Forward(own.schedule, vit.to(clock.device, torch.bfloat16), None, Routes())
    present = torch.arange(PICTURES + 1, dtype=torch.int32, device=clock.device)
    scores, _ = forward(exact.pictures.to(clock.device), present)
    return exact.compared(level, scores.float().cpu())


def report(rows: Rows, asked: Asked) -> dict[str, bool]:
    lines = [
        (
            key,
            *(f"{row[name]:.1f}" for name in ("images_per_s", "p50_ms", "p99_ms", "mean_batch")),
            f"{row['model_process_busy']:.2f}",
            "" if row["gpu_busy"] is None else f"{row['gpu_busy']:.2f}",
        )
        for key, row in rows.items()
        if "images_per_s" in row
    ]
    head = ("row", "images/s", "p50, ms", "p99, ms", "batch", "process busy", "GPU busy")
    table(f"{NAME}, served", head, lines)
    off = [
        (
            key,
            *(f"{row[name]:.1e}" for name in ("median_off", "most_off")),
            f"{row['same_class']:.2f}",
        )
        for key, row in rows.items("scores ")
    ]
    table("scores beside float32", ("row", "median off", "most off", "same class"), off)
    for key, facts in rows.items("burst"):
        print(key, facts)
    return {}

"""Time on a GPU: graphs, rounds in turn, cold caches, energy; and on a CPU, for a dry run."""

from __future__ import annotations

import math
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median, quantiles
from typing import Any, TypeVar

import torch
import triton
from torch import Tensor

from foveate_loadtest.environment import environment

__all__ = ["Clock", "Timing"]

T = TypeVar("T")
Timing = dict[str, float]  # ms: median; spread: quartiles apart, over the median
ROUNDS = 20
WATCH_S = 0.1
SAMPLE_MS = 2.0  # a sample repeats what is shorter


class Clock:
    """How this run measures: ``device`` is "cuda" or "cpu", ``quick`` takes a few rounds."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = device, quick
        self.cuda = device == "cuda"
        self._rounds = 3 if quick else ROUNDS
        if self.cuda:
            properties: Any = torch.cuda.get_device_properties(0)
            self._cache = int(getattr(properties, "L2_cache_size", 64 << 20))
            self._stream = torch.cuda.Stream()

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def capture(self, run: Callable[[], T], pool: Any = None) -> Callable[[], T]:
        """``run`` as a CUDA graph, whose result is overwritten by every replay.

        A graph knows addresses, not tensors: what ``run`` holds lives as long as what is returned.
        """
        if not self.cuda:
            return run
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(3):  # kernels compile, libraries choose their algorithms
                run()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            result = run()

        def replay(held: Callable[[], T] = run) -> T:
            graph.replay()
            return result

        replay()
        return replay

    def in_turn(self, runs: Mapping[str, Callable[[], object]]) -> dict[str, Timing]:
        """Time runs round by round, so that what changes with time changes them alike."""
        repeats = {name: self._repeats(run) for name, run in runs.items()}
        samples: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(self._rounds):
            for name, run in runs.items():
                samples[name].append(self._sample(run, repeats[name]))
        return {name: _timing(values) for name, values in samples.items()}

    def cold(self, run: Callable[[], object]) -> float:
        """Median ms of a call that finds none of its inputs in the caches."""
        if self.cuda:
            from triton.testing import do_bench  # clears the L2 before every call

            return float(do_bench(run, warmup=10, rep=50, return_mode="median"))
        return self._sample(run, 1)

    def rotated(self, call: Callable[..., object], *args: Any) -> float:
        """ms of a call in a graph of many, each with inputs and outputs of its own, which together
        exceed the L2: no launch is waited for, and nothing is found in the caches."""
        if not self.cuda:
            return self._sample(lambda: call(*args), 1)
        taken = sum(x.numel() * x.element_size() for x in args if isinstance(x, Tensor))
        count = min(max(8, math.ceil(3 * self._cache / max(taken, 1))), 200)
        alike = taken > 2 * self._cache  # each call pushes out what it read itself
        sets = [args if alike else tuple(map(_copy, args)) for _ in range(count)]
        replay = self.capture(lambda: [call(*each) for each in sets])
        return self.in_turn({"": replay})[""]["ms"] / count

    def joules(self, run: Callable[[], object], seconds: float = 2.0) -> float:
        """Energy of one run, by the GPU's own counter over at least ``seconds``."""
        import pynvml

        gpu = _nvml_handle()
        repeats = self._repeats(run)
        self.wait()
        before, start = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu), time.monotonic()
        runs = 0
        while time.monotonic() < start + seconds:
            for _ in range(repeats):
                run()
            self.wait()
            runs += repeats
        after = pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)
        return float(after - before) / 1e3 / runs

    @contextmanager
    def watching(self) -> Iterator[list[float]]:
        """Shares of the time that the GPU was busy, by its own counter, until the context ends.

        None come where there is no such counter.
        """
        shares: list[float] = []
        ended = threading.Event()
        thread = threading.Thread(target=_watch, args=(shares, ended), daemon=True)
        if self.cuda:
            thread.start()
        try:
            yield shares
        finally:
            ended.set()
            if self.cuda:
                thread.join()

    def kernels(self, run: Callable[[], object]) -> dict[str, float]:
        """Microseconds on the GPU of one run, by name of the kernel."""
        from torch.profiler import ProfilerActivity, profile

        passes = 5
        run()
        self.wait()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            for _ in range(passes):
                run()
            self.wait()
        totals: dict[str, float] = {}
        for event in profiler.events() or ():
            if event.device_type.name == "CUDA":
                time_us = event.time_range.elapsed_us() / passes
                totals[event.name] = totals.get(event.name, 0.0) + time_us
        if not totals:
            raise RuntimeError("the profiler saw no kernels")
        return totals

    def hardware(self) -> dict[str, Any]:
        """What this is, and the two ceilings measured on it."""
        identity = {
            "device": self.device,
            "quick": self.quick,
            "name": torch.cuda.get_device_name() if self.cuda else platform.processor(),
            "driver": self._driver() if self.cuda else None,
            "torch": torch.__version__,
            "triton": triton.__version__,
            "cuda": torch.version.cuda,
        }
        side = 256 if self.quick else 8192
        large = torch.rand((1 if self.quick else 2048) << 18, device=self.device)  # 2 GiB
        other = torch.empty_like(large)
        runs: dict[str, Callable[[], object]] = {"copy": lambda: other.copy_(large)}
        for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
            a, b = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
            out = torch.empty_like(a)
            runs[name] = partial(torch.mm, a, b, out=out)
        took = {name: timing["ms"] / 1e3 for name, timing in self.in_turn(runs).items()}
        return {
            "identity": identity,
            "environment": environment(),
            "copy_bytes_per_s": 2 * large.numel() * 4 / took["copy"],
            "matmul_flops_per_s": {name: 2 * side**3 / took[name] for name in ("fp16", "bf16")},
        }

    @staticmethod
    def described(hardware: dict[str, Any]) -> str:
        """:meth:`hardware` in a line."""
        facts, rates = hardware["identity"], hardware["matmul_flops_per_s"]
        ceilings = {"copy": hardware["copy_bytes_per_s"] / 1e12}
        ceilings |= {f"matmul {name}": rate / 1e12 for name, rate in rates.items()}
        measured = ", ".join(f"{name} {value:.3g} T/s" for name, value in ceilings.items())
        versions = ", ".join(f"{key} {facts[key]}" for key in ("driver", "cuda", "torch", "triton"))
        return f"{facts['name'] or facts['device']}: {measured}; {versions}"

    def _driver(self) -> str | None:
        try:
            import pynvml

            pynvml.nvmlInit()
            return str(pynvml.nvmlSystemGetDriverVersion())
        except Exception as error:  # the library or the driver's own may be missing
            return f"unknown: {error}"

    def _repeats(self, run: Callable[[], object]) -> int:
        """Calls to a sample; the call that tells is also the warm-up."""
        run()
        return min(max(1, math.ceil(SAMPLE_MS / self._sample(run, 1))), 50)

    def _sample(self, run: Callable[[], object], repeats: int) -> float:
        """ms of one of ``repeats`` calls in a row."""
        if not self.cuda:
            start = time.perf_counter()
            for _ in range(repeats):
                run()
            return (time.perf_counter() - start) / repeats * 1e3
        start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if repeats > 1:
            run()  # what is launched while this runs does not wait for the processor
        start_event.record()
        for _ in range(repeats):
            run()
        end_event.record()
        end_event.synchronize()
        return float(start_event.elapsed_time(end_event)) / repeats


def _nvml_handle() -> Any:
    """By its name: NVML does not know of CUDA_VISIBLE_DEVICES."""
    import pynvml

    pynvml.nvmlInit()
    uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")


def _watch(shares: list[float], ended: threading.Event) -> None:
    try:
        import pynvml

        gpu = _nvml_handle()
        while not ended.wait(WATCH_S):
            shares.append(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
    except Exception as error:  # the library or the counter may be missing
        print(f"how busy the GPU is cannot be read: {error}")


def _timing(samples: Sequence[float]) -> Timing:
    middle = median(samples)
    low, _, high = quantiles(samples, n=4)
    return {"ms": middle, "spread": (high - low) / middle}


def _copy(x: Any) -> Any:
    """The same tensor elsewhere, with the same strides."""
    if not isinstance(x, Tensor):
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)

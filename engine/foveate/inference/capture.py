"""CUDA graphs: what ran once is launched again at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["REPEATS", "captured", "prepare_graph"]

T = TypeVar("T")

REPEATS = 16  # a module takes as long as the launch of a graph, and waiting for it
_WARM_UP = 3  # passes before a capture: kernels compile, libraries choose their algorithms


def captured(
    run: Callable[[], T], device: torch.device, stream: Any = None, pool: Any = None
) -> Callable[[], T]:
    """``run`` as a graph on ``device``; each replay overwrites what the one before gave.

    Args:
        stream: to capture on; a new one, by default.
        pool: of memory, shared by graphs of which one runs at a time.
    """
    torch.cuda.set_device(device)  # what captures and launches takes the current one
    stream = stream or torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        result = run()

    def replay(_held: Callable[[], T] = run) -> T:  # weights and inputs live as long as the graph
        graph.replay()
        return result

    return replay


@torch.inference_mode()
def prepare_graph(module: nn.Module, x: Tensor, device: torch.device) -> Callable[[], object]:
    """What runs ``module`` on ``x`` :data:`REPEATS` times, and waits for it: in 16 bits, as most
    models are served. Without a GPU as it is, without a graph.
    """
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    module = copy.deepcopy(module).to(device, dtype)
    x = x.to(device, dtype)

    @torch.inference_mode()
    def run() -> object:
        return [module(x) for _ in range(REPEATS)]

    if device.type != "cuda":
        return run
    graph = captured(run, device)

    def replay() -> None:
        graph()
        torch.cuda.synchronize(device)

    return replay

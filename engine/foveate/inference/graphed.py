"""One module of a model in a CUDA graph, to be timed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["REPEATS", "prepare_graph"]

REPEATS = 16  # a module takes as long as the launch of a graph, and waiting for it
_WARM_UP = 3  # passes before a capture: libraries choose their algorithms


@torch.inference_mode()
def prepare_graph(
    module: nn.Module, x: Tensor, device: torch.device, dtype: torch.dtype
) -> Callable[[], object]:
    """What runs ``module`` on ``x`` :data:`REPEATS` times, and waits for it.

    Without a GPU as it is, without a graph.
    """
    module = copy.deepcopy(module).to(device, dtype)
    x = x.to(device, dtype)

    @torch.inference_mode()
    def run() -> object:
        return [module(x) for _ in range(REPEATS)]

    if device.type != "cuda":
        return run
    torch.cuda.set_device(device)  # what captures and launches takes the current one
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        run()

    def replay(_held: object = run) -> None:  # weights and input live as long as the graph
        graph.replay()
        torch.cuda.synchronize(device)

    return replay

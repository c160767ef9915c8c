"""What computes: OpenVINO in bf16 or fp32 or PyTorch as it is on a CPU, CUDA graphs on a GPU."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.inference.capture import REPEATS, prepare_graph
from foveate.inference.engine import Engine
from foveate.inference.graphs import GraphEngine
from foveate.inference.precision import Precision, gpu_dtype
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine

__all__ = ["Executor", "Precision", "Runtime"]

Executor = Literal["auto", "compiled", "reference"]

_log = logging.getLogger(__name__)

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Runtime:
    """What measures should use that are to hold for serving."""

    compiled: bool
    bf16: bool
    threads: int
    graphs: torch.device | None = None  # where CUDA graphs run; None: no graphs, on this CPU
    asked: Precision = "auto"  # of graphs; a model's is what gpu_dtype finds

    @staticmethod
    def choose(
        executor: Executor = "auto",
        precision: Precision = "auto",
        threads: int = 1,
        device: torch.device = _CPU,
    ) -> Runtime:
        """``auto`` compiles where OpenVINO is installed, and takes bf16 where the CPU has AMX-BF16
        or AVX512-BF16. Sets the threads of PyTorch, too.

        Raises :class:`InputError`, naming executor or precision, if this machine has none such, or
        if the device is a GPU, which leaves no choice of an executor.
        """
        torch.set_num_threads(threads)
        if device.type == "cuda":
            if executor != "auto":
                raise InputError(f"executor={executor!r}: expected auto with device={device}")
            return Runtime(
                compiled=False, bf16=False, threads=threads, graphs=device, asked=precision
            )
        if precision == "fp16":
            raise InputError("precision='fp16': a CPU computes in bf16 or fp32")
        missing = "" if executor == "reference" else _missing()
        if executor == "compiled" and missing:
            raise InputError(f"executor='compiled': {missing}")
        if executor == "reference" or missing:
            if precision == "bf16":
                why = missing or "executor='reference' computes in fp32"
                raise InputError(f"precision='bf16': {why}")
            if missing:
                _log.warning("levels run on PyTorch, which is slower: %s", missing)
            return Runtime(compiled=False, bf16=False, threads=threads)

        from foveate.inference.compiled import has_bf16

        if precision == "bf16" and not has_bf16():
            raise InputError("precision='bf16': this CPU has neither AMX-BF16 nor AVX512-BF16")
        return Runtime(compiled=True, bf16=precision != "fp32" and has_bf16(), threads=threads)

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """Of compiled passes."""
        return "bf16" if self.bf16 else "fp32"

    @property
    def clock(self) -> Callable[[], float]:
        """Seconds that a pass takes: of one thread its CPU time, so that other processes do not
        count."""
        alone = self.graphs is None and self.threads == 1
        return time.process_time if alone else time.perf_counter

    @property
    def repeats(self) -> int:
        """Runs of a module in one call of what :meth:`prepare` returns."""
        return 1 if self.graphs is None else REPEATS

    def engine(self, prepared: PreparedLadder, batches: Sequence[int]) -> Engine:
        """Answers as the one that serves would; a level is compiled, or captured, for a batch size
        when it is first asked for."""
        if self.graphs is not None:
            dtype = gpu_dtype(prepared.levels[0].vit, self.graphs, self.asked)
            return GraphEngine(prepared, self.graphs, max(batches), dtype)
        if not self.compiled:
            return ReferenceEngine(prepared, batches)

        from foveate.inference.compiled import CompiledEngine
        from foveate.inference.export import export_level

        return CompiledEngine(
            prepared,
            lambda level, variant: export_level(prepared.levels[level].variants[variant]),
            batches,
            precision=self.precision,
            threads=self.threads,
        )

    def prepare(self, module: nn.Module, x: Tensor) -> Callable[[], object]:
        """What runs ``module`` on ``x``, :attr:`repeats` times."""
        if self.graphs is not None:
            return prepare_graph(module, x, self.graphs)
        if not self.compiled:
            return torch.inference_mode()(lambda: module(x))

        from foveate.inference.compiled import prepare

        return prepare(module, x, self.precision, self.threads)


def _missing() -> str:
    """Why OpenVINO cannot be used; empty if it can."""
    if find_spec("openvino") is None:
        return "openvino is not installed; pip install 'foveate[cpu]'"
    try:
        importlib.import_module("openvino")
    except ImportError as error:
        return f"openvino cannot be imported: {error}"
    return ""

"""What computes on this CPU: OpenVINO in bf16 or fp32, or PyTorch as it is."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.inference.engine import Engine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine

__all__ = ["Executor", "Precision", "Runtime"]

Executor = Literal["auto", "compiled", "reference"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """What measures should use that are to hold for serving."""

    compiled: bool
    bf16: bool
    threads: int

    @staticmethod
    def choose(
        executor: Executor = "auto", precision: Precision = "auto", threads: int = 1
    ) -> Runtime:
        """``auto`` compiles where OpenVINO is installed, and takes bf16 where the CPU has AMX-BF16
        or AVX512-BF16. Sets the threads of PyTorch, too.

        Raises :class:`InputError`, naming executor or precision, if this machine has none such.
        """
        torch.set_num_threads(threads)
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
        return "bf16" if self.bf16 else "fp32"

    def engine(self, prepared: PreparedLadder, batches: Sequence[int]) -> Engine:
        """Answers as the one that serves would; a level is compiled when it is first asked for."""
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
        """What runs ``module`` on ``x`` once."""
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

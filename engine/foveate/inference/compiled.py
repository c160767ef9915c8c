"""A model and its ladder on a CPU: every level and batch size compiled by OpenVINO."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import openvino as ov
import torch
from torch import Tensor, nn

from foveate.images.folder import Progress
from foveate.inference.engine import CpuEngine, Outputs
from foveate.inference.export import compile_model, export_module, reason
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine

__all__ = ["CompiledEngine", "Export", "has_bf16", "prepare"]

Export = Callable[[int, int], ov.Model | str]  # of a level and variant; or why it cannot be

_log = logging.getLogger(__name__)


def has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 by itself: AMX-BF16 or AVX512-BF16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def prepare(module: nn.Module, x: Tensor, precision: str, threads: int) -> Callable[[], object]:
    """What runs ``module`` on ``x`` once."""
    model = export_module(module, x[:1])
    request = compile_model(model, len(x), precision, threads).create_infer_request()
    request.set_input_tensor(ov.Tensor(x.numpy()))

    def run() -> None:
        request.start_async()
        request.wait()

    return run


class CompiledEngine(CpuEngine):
    """Compiles a level for a batch size when it is first asked for, or all by :meth:`compile`.

    Levels that cannot be compiled run on the reference: ``uncompiled`` says why.
    """

    def __init__(
        self,
        prepared: PreparedLadder,
        export: Export,
        batches: Sequence[int],
        *,
        precision: str,
        threads: int,
    ) -> None:
        super().__init__(prepared, torch.device("cpu"), batches, threads)
        self._precision, self._export = precision, export
        self._passes: dict[tuple[int, int, int], _Pass] = {}
        self._reference = ReferenceEngine(prepared, batches)

    def compile(self, progress: Progress = lambda *_: None) -> None:
        """Compile every level for every batch size, several at a time."""
        with ThreadPoolExecutor(self.threads) as pool:
            for level, own in enumerate(self.levels):
                variants = range(len(own.variants))
                wanted = [(level, variant, size) for variant in variants for size in self.batches]
                list(pool.map(lambda key: self._pass(*key), wanted))
                progress("compile levels", level + 1, len(self.levels))

    @property
    def executor(self) -> str:
        return f"OpenVINO {ov.__version__.split('-')[0]}"

    @property
    def precision(self) -> str:
        return self._precision

    @property
    def padded(self) -> bool:
        return True

    def run(self, level: int, variant: int, images: Sequence[Tensor], size: int) -> Outputs:
        own = self._pass(level, variant, size)
        return self._reference.run(level, variant, images, size) if own is None else own(images)

    def _pass(self, level: int, variant: int, size: int) -> _Pass | None:
        """None if the level cannot be compiled."""
        if level in self.uncompiled:
            return None
        if (own := self._passes.get((level, variant, size))) is not None:
            return own
        try:
            model = self._export(level, variant)
            if isinstance(model, ov.Model):
                own = _Pass(model, size, self._precision, self.threads)
        except Exception as error:  # whatever a converter or compiler raises
            model = reason(error)
        if own is None:
            self.uncompiled[level] = str(model)
            name = self.ladder.levels[level].name
            _log.warning("level %d, %s, runs on the reference: %s", level, name, model)
            return None
        self._passes[level, variant, size] = own
        return own


class _Pass:
    """A compiled level, and the buffers of its one request."""

    def __init__(self, model: ov.Model, size: int, precision: str, threads: int) -> None:
        self._request = compile_model(model, size, precision, threads).create_infer_request()
        self._pixels = torch.from_numpy(self._request.get_input_tensor().data)
        self._request.infer()  # allocates the outputs
        outputs = [torch.from_numpy(output.data) for output in self._request.output_tensors]
        self._scores, self._dests = outputs[0], outputs[1:]

    def __call__(self, images: Sequence[Tensor]) -> Outputs:
        torch.stack([*images], out=self._pixels[: len(images)])
        # Not ``infer``: it makes a dictionary of the outputs, which takes longer than small models.
        self._request.start_async()
        self._request.wait()
        return self._scores, self._dests

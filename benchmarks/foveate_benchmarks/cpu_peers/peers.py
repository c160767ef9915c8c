"""What a user without us would run: the same weights, dense, by each common way."""

from __future__ import annotations

import copy
import io
import shutil
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import openvino as ov
import torch
from torch import Tensor, nn

from foveate.model.vit import ViT, patchify

__all__ = ["PEERS", "Peers", "Plain", "Run", "bare"]

Run = Callable[[], object]  # scores [B, classes], as a tensor or an array

OPENVINO = {"fp32": "f32", "bf16": "bf16"}
PEERS = ("openvino", "openvino call", "onnxruntime", "eager", "compile")


class Plain(nn.Module):
    """The dense model as its own forward pass has it: pixels (uint8) in, probabilities out.

    Its normalisation is folded into the patch embedding once, and not in every pass.
    """

    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit, self.patch = vit, vit.config.patch
        weight, bias = vit.patch_embed.folded()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", bias.detach())

    def forward(self, pixels: Tensor) -> Tensor:
        rows = patchify(pixels, self.patch).to(self.weight.dtype)  # type: ignore[arg-type]
        x = nn.functional.linear(rows, self.weight, self.bias)  # type: ignore[arg-type]
        x = x + self.vit.patch_positions
        first = self.vit.first_tokens.expand(x.shape[0], -1, -1)
        x = self.vit.run(self.vit.norm_pre(torch.cat([first, x], 1)))
        return self.vit.scores(self.vit.classify(self.vit.pool(x)))


def _network(vit: ViT, batch: int) -> ov.Model:
    """As OpenVINO's guide has it: convert the module for a shape that is known."""
    pixels = torch.zeros(batch, vit.config.height, vit.config.width, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        return ov.convert_model(
            Plain(vit).eval(), example_input=pixels, input=[tuple(pixels.shape)]
        )


def bare(compiled: Any, pixels: Tensor) -> Run:
    """A request whose input is set already: nothing but the network."""
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(pixels.numpy()))
    output = request.get_output_tensor(0)

    def run() -> object:
        request.start_async()
        request.wait()
        return output.data

    return run


class Peers:
    """Of one model: the modules in each precision, to be run on any batch and number of threads."""

    def __init__(self, vit: ViT, inductor: bool) -> None:
        self._vit, self._inductor = vit, inductor
        self._networks: dict[int, ov.Model] = {}  # by batch
        self._modules = {
            "fp32": Plain(vit).eval(),
            "bf16": Plain(copy.deepcopy(vit).to(torch.bfloat16)).eval(),
        }

    def runs(self, precision: str, pixels: Tensor, threads: int) -> Iterator[tuple[str, Run | str]]:
        """Every peer by its name; in the place of one that cannot run, the reason."""
        yield from self._openvino(precision, pixels, threads)
        yield "onnxruntime", self._onnxruntime(precision, pixels, threads)
        module = self._modules[precision]
        yield "eager", lambda: module(pixels)
        yield "compile", self._compile(module, pixels)

    def _openvino(
        self, precision: str, pixels: Tensor, threads: int
    ) -> Iterator[tuple[str, Run | str]]:
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": OPENVINO[precision],
        }
        if len(pixels) not in self._networks:
            self._networks[len(pixels)] = _network(self._vit, len(pixels))
        network = self._networks[len(pixels)]
        compiled = ov.Core().compile_model(network, "CPU", options)
        array = pixels.numpy()
        yield "openvino", bare(compiled, pixels)
        yield "openvino call", lambda: compiled([array])[0]

    def _compile(self, module: nn.Module, pixels: Tensor) -> Run | str:
        if not self._inductor:
            return "left out"
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            return "torch.compile needs a C++ compiler"
        compiled = torch.compile(module, dynamic=False)
        compiled(pixels)
        return lambda: compiled(pixels)

    def _onnxruntime(self, precision: str, pixels: Tensor, threads: int) -> Run | str:
        if precision != "fp32":
            return "its CPU provider does not compute in bf16"
        if find_spec("onnxruntime") is None or find_spec("onnx") is None:
            return "not installed"
        import onnxruntime

        file = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that this exporter is the older one
            torch.onnx.export(
                self._modules["fp32"],
                (pixels,),
                file,  # type: ignore[arg-type]
                dynamo=False,
                input_names=["pixels"],
                opset_version=17,
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            file.getvalue(), options, providers=["CPUExecutionProvider"]
        )
        inputs = {"pixels": pixels.numpy()}
        return lambda: session.run(None, inputs)[0]

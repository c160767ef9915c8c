"""Levels whose products run in FP8: emulated on the CPU, and as far as a GPU's way shows on one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from foveate.inference import start
from foveate.inference.engine import Engine
from foveate.inference.export import compile_model, export_level
from foveate.inference.fixed import Forward, Routes
from foveate.inference.fp8 import Fp8Linear, has_fp8, in_fp8, without_fp8
from foveate.inference.graphs import GraphEngine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.levels.schedule import Schedule
from foveate.model.vit import Activation, ViT, ViTConfig, save_vit
from foveate_kernels.ops import quantize_rows

CPU = torch.device("cpu")
CONFIG = ViTConfig(height=40, width=48, patch=8, dim=64, depth=4, heads=2, mlp_dim=128)
PRUNES = [{"kind": "prune", "block": b, "keep": k, "fate": "package"} for b, k in ((1, 16), (2, 8))]
REDUCERS: list[list[dict[str, Any]]] = [
    [],
    [],
    PRUNES,
    [{"kind": "vwt-intra", "keep": 12}, {**PRUNES[1], "fate": "drop", "score": "mlp-shift"}],
    [{"kind": "merge", "block": block, "remove": 5, "by": "tome"} for block in range(3)],
    [{"kind": "adaptive", "keeps": [6, 12, 18], "variance": 0.05}],
]
LEVELS = range(1, len(REDUCERS))  # in FP8; level 0 never is


def levels_in_fp8(engine: Engine) -> PreparedLadder:
    """All but level 0."""
    return PreparedLadder(
        replace(
            engine.ladder,
            levels=tuple(
                replace(level, precision="fp8" if index else None)
                for index, level in enumerate(engine.ladder.levels)
            ),
        ),
        tuple(
            replace(level, precision="fp8" if index else None)
            for index, level in enumerate(engine.levels)
        ),
    )


@pytest.fixture(scope="module")
def plain(build_engine: Callable[..., Engine]) -> Engine:
    return build_engine(REDUCERS, CONFIG, std=0.1)


@pytest.fixture(scope="module")
def prepared(plain: Engine) -> PreparedLadder:
    return levels_in_fp8(plain)


@pytest.fixture(scope="module")
def rounded(prepared: PreparedLadder) -> ReferenceEngine:
    return ReferenceEngine(prepared, emulate_fp8=True)


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (8, 40, 48, 3), dtype=torch.uint8, generator=generator)
    pixels[:, :16] //= 8
    return pixels


def test_a_product_is_that_of_the_rounded_operands() -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48), torch.randn(9, 64)
    values, scale = quantize_rows(x)
    weight, own = quantize_rows(linear.weight.detach())
    exact = (values.double() * scale.unsqueeze(1)) @ (weight.double() * own.unsqueeze(1)).T
    layer = Fp8Linear(linear, CPU, torch.float32)
    torch.testing.assert_close(layer(x), (exact + linear.bias).float(), rtol=1e-5, atol=1e-5)
    error = (layer(x) - linear(x)).norm() / linear(x).norm()
    assert 0.005 < error < 0.06  # three bits of mantissa, not more and not fewer


def test_a_gpu_is_given_what_pytorch_accepts() -> None:
    """Its checks of types, shapes and strides run without a GPU."""
    layer = Fp8Linear(nn.Linear(64, 48), CPU, torch.bfloat16)
    with FakeTensorMode():
        for name in ("weight", "scale", "bias"):
            own = getattr(layer, name)
            setattr(layer, name, torch.empty(own.shape, dtype=own.dtype, device="cuda"))
        for rows in (1, 17, 320):
            out = layer(torch.empty(rows, 64, device="cuda", dtype=torch.bfloat16))
            assert out.shape == (rows, 48)
            assert out.dtype == torch.bfloat16


@torch.inference_mode()
@pytest.mark.parametrize("level", LEVELS)
def test_all_else_may_be_in_bfloat16(
    prepared: PreparedLadder, pictures: Tensor, level: int
) -> None:
    """As on a GPU, by the routes that are taken there."""
    own = prepared.levels[level].variants[-1]  # noise is busy, if the level is adaptive
    present = torch.arange(9, dtype=torch.int32)
    expected = Forward(own.schedule, own.vit, None, Routes())(pictures, present)[0]
    scores = Forward(own.schedule, in_fp8(own.vit, CPU), None, Routes())(pictures, present)[0]
    assert 0 < (scores - expected).abs().max() < 0.1


def test_only_products_of_blocks_are_in_fp8(plain: Engine) -> None:
    vit = in_fp8(plain.levels[0].vit, CPU)
    found = [name for name, own in vit.named_modules() if isinstance(own, Fp8Linear)]
    assert len(found) == 4 * CONFIG.depth
    assert {name.split(".")[-1] for name in found} == {"qkv", "proj", "fc1", "fc2"}
    assert all(name.startswith("blocks.") for name in found)
    assert not [own for own in plain.levels[0].vit.modules() if isinstance(own, Fp8Linear)]


def test_a_product_whose_sizes_do_not_fit_stays_as_it_is(
    build_engine: Callable[..., Engine], pictures: Tensor
) -> None:
    engine = build_engine([[], []], replace(CONFIG, mlp_dim=120), std=0.1)
    emulated = ReferenceEngine(levels_in_fp8(engine), emulate_fp8=True)
    vit = in_fp8(engine.levels[0].vit, CPU)
    found = {n.split(".")[-1] for n, own in vit.named_modules() if isinstance(own, Fp8Linear)}
    assert found == {"qkv", "proj"}
    scores = emulated.infer(pictures, [1] * 8).scores
    torch.testing.assert_close(scores, engine.infer(pictures, [0] * 8).scores, rtol=0, atol=0.05)


@pytest.mark.parametrize("level", LEVELS)
def test_answers_are_near_those_of_fp32(
    plain: Engine, rounded: Engine, pictures: Tensor, level: int
) -> None:
    expected = plain.infer(pictures, [level] * 8).scores
    scores = rounded.infer(pictures, [level] * 8).scores
    assert 0 < (scores - expected).abs().max() < 0.08
    same = (scores.argmax(1) == expected.argmax(1)).sum()
    assert same >= 7


def test_level_0_is_not_rounded(plain: Engine, rounded: Engine, pictures: Tensor) -> None:
    scores = rounded.infer(pictures, [0] * 8).scores
    assert torch.equal(scores, plain.infer(pictures, [0] * 8).scores)


class Restored(nn.Module):
    """A product of operands that were rounded to FP8 and back."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = self._restored(linear.weight.detach()), linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self._restored(x), self.weight, self.bias)

    def _restored(self, x: Tensor) -> Tensor:
        values, scale = quantize_rows(x)
        return values.to(x.dtype) * scale.unsqueeze(1)


@pytest.mark.parametrize("activation", ["gelu", "gelu-tanh", "quick-gelu"])
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_fused_answers_as_what_is_rounded_product_by_product(
    build_engine: Callable[..., Engine], pictures: Tensor, level: int, activation: Activation
) -> None:
    """In float64, where hardly a value lies on the edge between two of FP8."""
    config = replace(CONFIG, activation=activation)
    engine = build_engine(REDUCERS, config, std=0.1, dtype=torch.float64)
    emulated = ReferenceEngine(levels_in_fp8(engine), emulate_fp8=True)
    scores = emulated.infer(pictures, [level] * 8).scores
    for block in cast(Any, engine.levels[0].vit.blocks):
        for layer, name in ((block.attn, "qkv"), (block.attn, "proj")):
            setattr(layer, name, Restored(getattr(layer, name)))
        for name in ("fc1", "fc2"):
            setattr(block.mlp, name, Restored(getattr(block.mlp, name)))
    expected = engine.infer(pictures, [level] * 8).scores
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-3)


def test_batch_mates_change_nothing(build_engine: Callable[..., Engine], pictures: Tensor) -> None:
    """In float64, but for a value in a million that rounding puts between two others."""
    engine = build_engine(REDUCERS, CONFIG, std=0.1, dtype=torch.float64)
    emulated = ReferenceEngine(levels_in_fp8(engine), emulate_fp8=True)
    outlier = pictures.clone()
    outlier[1:] = 255
    for level in LEVELS:
        alone = emulated.infer(pictures[:1], [level]).scores
        for mates in (pictures, outlier):
            together = emulated.infer(mates, [level] * 8).scores[:1]
            torch.testing.assert_close(together, alone, rtol=0, atol=1e-3)


def test_weights_that_are_not_finite_answer_nan(
    build_engine: Callable[..., Engine], pictures: Tensor
) -> None:
    """As without FP8: the self-test of a model finds them."""
    for value in (float("nan"), float("inf")):
        engine = build_engine([[], []], CONFIG, std=0.1)
        block = cast(Any, engine.levels[0].vit.blocks)[1]
        block.mlp.fc1.weight[3, 5] = value
        emulated = ReferenceEngine(levels_in_fp8(engine), emulate_fp8=True)
        assert emulated.infer(pictures, [1] * 8).scores.isnan().all()


@pytest.mark.parametrize("level", LEVELS)
def test_without_the_hardware_a_level_runs_as_others_do(
    plain: Engine, prepared: PreparedLadder, pictures: Tensor, level: int
) -> None:
    graphs = GraphEngine(prepared, CPU, max_batch=4, dtype=torch.float32)
    expected = plain.infer(pictures[:3], [level] * 3).scores
    torch.testing.assert_close(
        graphs.infer(pictures[:3], [level] * 3).scores, expected, rtol=1e-4, atol=1e-5
    )
    reference = ReferenceEngine(prepared).infer(pictures[:3], [level] * 3).scores
    assert torch.equal(reference, expected)


def test_openvino_is_given_the_level_without_fp8(
    plain: Engine, prepared: PreparedLadder, pictures: Tensor
) -> None:
    compiled = compile_model(export_level(prepared.levels[2]), 3, "fp32", 1)
    scores = torch.from_numpy(compiled([pictures[:3].numpy()])[0])
    torch.testing.assert_close(
        scores, plain.infer(pictures[:3], [2] * 3).scores, rtol=1e-4, atol=1e-5
    )


def test_a_start_says_once_which_levels_it_cannot_run_in_fp8(
    prepared: PreparedLadder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ladder = replace(prepared.ladder, levels=prepared.ladder.levels[:3])
    ladder.save(tmp_path / "ladder.json")
    save_vit(cast(ViT, prepared.levels[0].vit), tmp_path / "model.safetensors")
    save_file({"words": torch.rand(2, 192)}, tmp_path / "words.safetensors")
    with caplog.at_level(logging.WARNING):
        engine = start.start_engine(tmp_path, 2, executor="reference", cache=tmp_path)
    said = [record.getMessage() for record in caplog.records if "FP8" in record.getMessage()]
    assert len(said) == 1
    assert "levels level1, level2" in said[0]
    assert [level.precision for level in engine.levels] == [None, "fp8", "fp8"]


def test_a_gpu_whose_product_pytorch_does_not_have_is_one_without_fp8(
    prepared: PreparedLadder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch 2.6 on compute capability 8.9, PyTorch 2.10 on 12.0."""
    gpu, tried = torch.device("cuda", 0), []

    def not_supported(*_: Any, **__: Any) -> Any:
        tried.append(True)
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED")

    with FakeTensorMode(), monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
        assert has_fp8(gpu)
        assert not without_fp8(prepared.ladder, gpu)
        patch.setattr(torch, "_scaled_mm", not_supported)
        assert not has_fp8(gpu)
        assert "no FP8 on cuda:0: levels level1" in without_fp8(prepared.ladder, gpu)
        assert len(tried) == 2
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
        assert not has_fp8(gpu)
        assert len(tried) == 2


def test_schedules_are_the_same_in_fp8(prepared: PreparedLadder) -> None:
    assert [level.schedule for level in prepared.levels] == [
        Schedule.parse(items, CONFIG) for items in REDUCERS
    ]

"""The comparators of ``foveate_benchmarks.methods`` are what they say, on the demo model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from foveate.images.cluttered_digits import test_set as held_out
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT, ViTConfig, load_vit
from foveate_benchmarks.methods import __main__ as methods_main
from foveate_benchmarks.methods import contenders, int8, resolution
from foveate_benchmarks.methods.catalogue import FAMILIES, SHARES, catalogue, matched
from foveate_benchmarks.methods.method import Method

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "model_repository" / "digits" / "1"
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def vit() -> ViT:
    return load_vit(FOLDER / "model.safetensors")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.from_numpy(held_out(48)[0])


def test_an_image_of_the_same_size_needs_no_other_model(vit, pixels) -> None:
    assert torch.equal(resolution.resized(pixels, 96), pixels)
    torch.testing.assert_close(resolution.shrunk(vit, 96)(pixels), vit(pixels))


def test_smaller_images_have_fewer_tokens_and_mostly_the_same_answers(vit, pixels) -> None:
    small = resolution.shrunk(vit, 80)
    assert small.config.patches == 100
    assert small.pos_embed.shape == (1, 101, 128)
    answers = small(resolution.resized(pixels, 80)).argmax(1)
    assert (answers == vit(pixels).argmax(1)).double().mean() > 0.5, "chance is 0.1"


@pytest.mark.parametrize("side", [0, 60, -8])
def test_a_side_that_patches_do_not_fill_is_refused(vit, side: int) -> None:
    with pytest.raises(ValueError, match=rf"side={side}.*multiple of 8"):
        resolution.shrunk(vit, side)


def test_int8_answers_as_float_does(vit, pixels) -> None:
    small = int8.quantized(vit)
    assert (small(pixels).argmax(1) == vit(pixels).argmax(1)).double().mean() > 0.9
    assert any(weight.dtype == torch.qint8 for weight in _weights(small))
    assert all(
        isinstance(m.weight, Tensor) for m in vit.modules() if isinstance(m, torch.nn.Linear)
    )


def _weights(vit: ViT) -> Iterator[Tensor]:
    for module in vit.modules():
        weight = getattr(module, "weight", None)
        if callable(weight):
            yield weight()


def test_families_come_as_near_to_a_cost_as_their_counts_allow() -> None:
    config = ViTConfig()
    dense = Schedule().macs(config)
    for family in ("VWT intra, grouped", "CLS attention × value norm, package"):
        levels = matched(config, lambda r, f=family: FAMILIES[f](config, r))
        shares = [Schedule.parse(reducers, config).macs(config) / dense for reducers in levels]
        assert shares == pytest.approx(SHARES, abs=0.03)


def test_what_cannot_be_measured_is_missing_with_a_reason(monkeypatch) -> None:
    monkeypatch.setitem(FAMILIES, "magic", lambda config, ratio: [{"kind": "magic"}])
    methods, missing = catalogue(ViTConfig(), FOLDER)
    assert "kind='magic'" in missing["magic"]
    assert methods[0].reducers == ()
    measured = {method.family for method in methods}
    assert {"dense", "VWT intra, grouped", "resolution", "int8", "served ladder"} <= measured
    assert not measured & missing.keys()


def test_every_method_becomes_a_level_that_answers(pixels, tmp_path: Path) -> None:
    intra = [{"kind": "vwt-intra", "keep": 72}]
    methods = [
        Method(family="dense"),
        Method(family="resolution", side=80),
        Method(family="half", reducers=intra),
        Method(family="int8 half", reducers=intra, int8=True),
        Method(family="words", reducers=[{"kind": "vwt-inter", "count": 72}], words=20),
    ]
    found = contenders.contenders(methods, FOLDER, tmp_path)
    assert [contender.method for contender in found] == methods
    exact = found[0].scores(pixels)
    for contender in found:
        scores = contender.scores(pixels)
        torch.testing.assert_close(scores.sum(1), torch.ones(len(pixels)))
        assert (scores.argmax(1) == exact.argmax(1)).double().mean() > 0.8, contender.method.family
    costs = [contender.macs for contender in found]
    assert costs[0] > costs[1] > max(costs[2:])
    assert costs[2] == costs[3]
    assert json.loads((tmp_path / "ladder.json").read_text())["levels"][2]["macs"] == costs[3]


def test_the_bar_of_half_the_patches_is_judged_by_time_against_arithmetic() -> None:
    judge = methods_main.judge
    dense = {"family": "dense", "reducers": [], "macs": 100, "batch1_ms": 10.0, "batch8_ms": 80.0}
    half = {
        "family": "VWT intra, dropped", "reducers": [{"keep": 72}],
        "macs": 48, "batch1_ms": 5.0, "batch8_ms": 41.0,
    }  # fmt: skip
    checks = judge([dense, half], {}, 72)
    assert list(checks.values()) == [True, True, False]
    assert not judge([dense, half], {"SNP": "no file"}, 72)["no method is missing"]

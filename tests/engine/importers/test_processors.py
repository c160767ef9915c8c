"""Preprocessing as transformers' own processors read their configurations, old and new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from PIL import Image

from foveate.errors import WeightsError
from foveate.importers import from_transformers
from foveate.importers.recipe import Recipe
from foveate.importers.tensors import Tensors

STATED = {
    "do_resize": True,
    "do_center_crop": False,
    "resample": 3,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
CROPPED = {"do_center_crop": True, "crop_size": 48}


def read(kind: str, processor: Mapping[str, Any], **config: Any) -> Recipe:
    nothing = Tensors("checkpoint", {}, lambda _: pytest.fail("no tensor is needed"))
    return from_transformers.recipe({"model_type": kind, **config}, processor, nothing)


@pytest.mark.parametrize(
    ("kind", "library", "given"),
    [
        ("clip", "CLIP", {"size": 64, **CROPPED}),  # as openai/clip-vit-base-patch16
        ("clip", "CLIP", {"size": 64, **CROPPED, "feature_extractor_type": "CLIPFeatureExtractor"}),
        ("clip", "CLIP", {"size": {"shortest_edge": 64}, **CROPPED}),
        ("dinov2", "Bit", {"size": 64, **CROPPED}),
        ("dinov2_with_registers", "Bit", {"size": 64, **CROPPED}),
        ("vit", "ViT", {"size": 64}),
        ("vit", "CLIP", {"size": 64, **CROPPED, "image_processor_type": "CLIPImageProcessor"}),
        ("deit", "DeiT", {"size": 64, **CROPPED}),
        ("siglip", "Siglip", {"size": {"height": 64, "width": 64}}),
    ],
)
def test_pixels_are_those_of_the_processor(kind: str, library: str, given: dict[str, Any]) -> None:
    image = Image.fromarray(np.random.default_rng(3).integers(0, 256, (90, 140, 3), np.uint8))
    import transformers  # seconds, and every test process collects this file

    processor = getattr(transformers, f"{library}ImageProcessorPil").from_dict({**STATED, **given})
    plain = processor(image, do_normalize=False, do_rescale=False, return_tensors="np")
    recipe = read(kind, {**STATED, **given})
    ours = np.asarray(recipe.preprocess.apply(image, *recipe.size))
    assert np.array_equal(ours.transpose(2, 0, 1), plain["pixel_values"][0])


@pytest.mark.parametrize("key", ["do_resize", "do_rescale"])
def test_a_step_that_is_left_out_is_refused(key: str) -> None:
    with pytest.raises(WeightsError, match=f"{key}=False: expected true"):
        read("vit", {**STATED, "size": 64, key: False})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"id2label": {"1": "a", "2": "b"}}, "id2label: 2 names, none for class 0"),
        ({"problem_type": "regression"}, "problem_type='regression': expected classes"),
    ],
)
def test_classes_that_are_none_are_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read("vit", {**STATED, "size": 64}, **config)


def test_a_shorter_edge_without_a_crop_is_refused() -> None:
    with pytest.raises(WeightsError, match="size=64 without do_center_crop"):
        read("siglip", {**STATED, "size": 64})

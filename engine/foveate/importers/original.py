"""The original implementation of a checkpoint, to compare answers with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from foveate.errors import InputError, WeightsError
from foveate.importers.families import read_recipe
from foveate.importers.recipe import Recipe
from foveate.importers.source import Source
from foveate.importers.tensors import open_tensors
from foveate.importers.zero_shot import PROMPTS, fill, read_config

__all__ = ["Original", "find_original", "open_original"]

Original = Callable[[Path], Tensor]
"""Logits [classes] of an image file, preprocessed by the original's own means."""


def find_original(source: Source, labels: Sequence[str] | None, prompts: Sequence[str]) -> Original:
    """Of a checkpoint that is not imported yet. ``labels`` are the texts of a zero-shot head.

    Raises as :func:`~foveate.importers.families.read_recipe` and :func:`open_original` do.
    """
    with ExitStack() as stack:
        recipe = read_recipe(source, open_tensors(source.weights, stack))
    return open_original(source, recipe, labels or (), prompts)


def open_original(
    source: Source, recipe: Recipe, labels: Sequence[str], prompts: Sequence[str]
) -> Original:
    """Raises :class:`InputError` if the library that it is an implementation of is not there, and
    :class:`WeightsError` if it does not take the checkpoint."""
    try:
        if recipe.family.startswith("transformers"):
            return _transformers(source, recipe, labels, prompts)
        if source.config is not None:
            return _timm(source)
    except ImportError as error:
        raise InputError(f"check: {source.name} needs {error.name}, not installed") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"check: {source.name}: error from its own library: {error}") from error
    raise InputError(
        f"check: {source.name} has no configuration, so its original implementation is unknown"
    )


def _transformers(
    source: Source, recipe: Recipe, labels: Sequence[str], prompts: Sequence[str]
) -> Original:
    import transformers

    if source.folder is None:
        raise InputError(
            f"check: {source.name}: expected a folder with its preprocessor_config.json"
        )
    processor: Any = transformers.AutoImageProcessor.from_pretrained(source.folder)

    def pixels(path: Path) -> Any:
        with Image.open(path) as image:
            return processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]

    config = read_config(source)
    if recipe.zero_shot:
        return _zero_shot(source.folder, config, labels, prompts, pixels)
    kind: Any = transformers.AutoModelForImageClassification
    if config.architectures == [_TAUGHT]:
        kind = transformers.DeiTForImageClassificationWithTeacher
    model = kind.from_pretrained(source.folder, config=config, dtype=torch.float32).eval()
    more = {"interpolate_pos_encoding": True} if recipe.family.split()[1] in ("vit", "deit") else {}

    @torch.inference_mode()
    def logits(path: Path) -> Tensor:
        out: Tensor = model(pixels(path), **more).logits[0]
        return out

    return logits


_TAUGHT = "DeiTForImageClassificationWithTeacher"


def _zero_shot(
    folder: Path,
    config: Any,
    labels: Sequence[str],
    prompts: Sequence[str],
    pixels: Callable[[Path], Any],
) -> Original:
    """By the whole model, image and texts together; one prompt, since it knows no ensembles."""
    import transformers

    siglip = config.model_type == "siglip"
    if not labels:
        raise InputError(f"check: {folder}: expected --labels, the class names")
    if len(prompts) > 1:
        raise InputError(f"check: {len(prompts)} prompts; the original takes one per class")
    prompts = prompts or (PROMPTS[config.model_type],)
    model: Any = transformers.AutoModel.from_pretrained(
        folder, config=config, dtype=torch.float32
    ).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    texts = tokenizer(
        [text for label in labels for text in fill(prompts, label)],
        padding="max_length" if siglip else True,
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
        return_tensors="pt",
    )
    wanted = ("input_ids",) if siglip else ("input_ids", "attention_mask")
    texts = {key: texts[key] for key in wanted}

    @torch.inference_mode()
    def logits(path: Path) -> Tensor:
        out: Tensor = model(pixel_values=pixels(path), **texts).logits_per_image[0]
        return out

    return logits


def _timm(source: Source) -> Original:
    import timm

    assert source.config is not None
    arguments = {**source.config.get("model_args", {})}
    arguments.setdefault("num_classes", source.config.get("num_classes", 1000))
    model: Any = timm.create_model(
        source.config["architecture"],
        pretrained_cfg_overlay=source.config.get("pretrained_cfg"),
        **arguments,
    ).eval()
    weights: dict[str, Tensor] = {}
    for file in source.weights:
        weights |= timm.models.load_state_dict(str(file))
    model.load_state_dict(weights)
    settings = timm.data.resolve_model_data_config(model)
    transform: Any = timm.data.create_transform(**settings, is_training=False)

    @torch.inference_mode()
    def logits(path: Path) -> Tensor:
        with Image.open(path) as image:
            out: Tensor = model(transform(image.convert("RGB")).unsqueeze(0))[0]
        return out

    return logits

"""The original implementation of a checkpoint, to compare answers with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from foveate.errors import InputError
from foveate.importers.recipe import Recipe
from foveate.importers.source import Source

__all__ = ["Original", "open_original"]

Original = Callable[[Path], Tensor]
"""Logits [classes] of an image file, preprocessed by the original's own means."""


def open_original(
    source: Source, recipe: Recipe, labels: Sequence[str], prompts: Sequence[str]
) -> Original:
    """Raises :class:`InputError` if the library that it is an implementation of is not there."""
    try:
        if recipe.family.startswith("transformers"):
            return _transformers(source, recipe, labels, prompts)
        if source.config is not None:
            return _timm(source)
    except ImportError as error:
        raise InputError(f"check: {source.name} needs {error.name}, which is not there") from error
    raise InputError(
        f"check: {source.name} has no configuration, so nobody knows which model of which library "
        "it is"
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

    if recipe.zero_shot:
        return _zero_shot(source.folder, recipe, labels, prompts, pixels)
    model: Any = transformers.AutoModelForImageClassification.from_pretrained(source.folder).eval()
    if source.config is not None and source.config.get("architectures") == [_TAUGHT]:
        model = transformers.DeiTForImageClassificationWithTeacher.from_pretrained(source.folder)
        model = model.eval()
    more = {"interpolate_pos_encoding": True} if recipe.family.split()[1] in ("vit", "deit") else {}

    @torch.inference_mode()
    def logits(path: Path) -> Tensor:
        out: Tensor = model(pixels(path), **more).logits[0]
        return out

    return logits


_TAUGHT = "DeiTForImageClassificationWithTeacher"


def _zero_shot(
    folder: Path,
    recipe: Recipe,
    labels: Sequence[str],
    prompts: Sequence[str],
    pixels: Callable[[Path], Any],
) -> Original:
    """By the whole model, image and texts together; one prompt, since it knows no ensembles."""
    import transformers

    from foveate.importers.zero_shot import PROMPTS

    kind = recipe.family.rpartition(" ")[2]
    if len(prompts) > 1:
        raise InputError(f"check: {len(prompts)} prompts; the original answers to one a class")
    prompt = prompts[0] if prompts else PROMPTS[kind]
    model: Any = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    texts = tokenizer(
        [prompt.format(label) for label in labels],
        padding="max_length" if kind == "siglip" else True,
        truncation=True,
        max_length=model.config.text_config.max_position_embeddings,
        return_tensors="pt",
    )
    wanted = ("input_ids",) if kind == "siglip" else ("input_ids", "attention_mask")
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
        checkpoint_path=str(source.weights[0]),
        **arguments,
    ).eval()
    settings = timm.data.resolve_model_data_config(model)
    transform: Any = timm.data.create_transform(**settings, is_training=False)

    @torch.inference_mode()
    def logits(path: Path) -> Tensor:
        with Image.open(path) as image:
            out: Tensor = model(transform(image.convert("RGB")).unsqueeze(0))[0]
        return out

    return logits

"""Recognise a checkpoint by its configuration or, without one, by the names of its tensors."""

from __future__ import annotations

from foveate.errors import WeightsError
from foveate.importers import from_timm, from_torchvision, from_transformers
from foveate.importers.recipe import Recipe
from foveate.importers.source import Source
from foveate.importers.tensors import Tensors

__all__ = ["read_recipe"]


def read_recipe(source: Source, tensors: Tensors) -> Recipe:
    """How to read the checkpoint. Raises :class:`WeightsError` if no family knows it, or if its
    configuration is not what the family's library writes."""
    try:
        return _read(source, tensors)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{source.name}: cannot read its configuration: {type(error).__name__}: {error}"
        ) from error


def _read(source: Source, tensors: Tensors) -> Recipe:
    if source.config is not None:
        if "architecture" in source.config:
            return from_timm.recipe(source.config, tensors)
        if "model_type" in source.config:
            return from_transformers.recipe(source.config, source.preprocessor, tensors)
        raise WeightsError(
            f"{source.name}: its configuration has neither 'architecture' (timm) nor 'model_type' "
            "(transformers)"
        )
    if "conv_proj.weight" in tensors and "class_token" in tensors:
        return from_torchvision.recipe(tensors)
    if "patch_embed.proj.weight" in tensors and "pos_embed" in tensors:
        return from_timm.bare_recipe(tensors)
    raise WeightsError(
        f"{tensors.where}: its tensors are not those of a known Vision Transformer "
        f"({', '.join([*tensors][:4])}, ...), and there is no config.json next to it"
    )

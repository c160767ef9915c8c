"""Import a checkpoint: all steps in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from foveate.errors import InputError
from foveate.images.folder import Progress
from foveate.images.preprocess import Preprocess
from foveate.importers.convert import Head, convert
from foveate.importers.entry import WEIGHTS, Placement, new_entry
from foveate.importers.families import read_recipe
from foveate.importers.recipe import Recipe
from foveate.importers.source import Source
from foveate.importers.stream import write_safetensors
from foveate.importers.tensors import Tensors, open_tensors
from foveate.model.vit import ViT, ViTConfig, describe

__all__ = ["Imported", "Wishes", "import_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """The user's options."""

    size: int | None = None  # edge of the images to serve; None: that of the checkpoint
    labels: Sequence[str] | None = None  # names of the classes; of a zero-shot head, its texts
    prompts: Sequence[str] = ()  # of a zero-shot head
    placement: Placement = Placement()  # noqa: RUF009 (it is frozen)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What was written."""

    recipe: Recipe
    config: ViTConfig
    preprocess: Preprocess
    labels: Sequence[str]
    named: bool  # whether anybody gave the classes names; numbers are written otherwise


def import_checkpoint(
    source: Source,
    repository: Path,
    name: str,
    wishes: Wishes = Wishes(),
    progress: Progress = lambda *_: None,
) -> Imported:
    """Add an entry ``name`` to the repository, atomically.

    Raises :class:`~foveate.errors.WeightsError` or :class:`InputError` naming what cannot be used.
    """
    with new_entry(repository, name) as entry, ExitStack() as stack:
        tensors = open_tensors(source.weights, stack)
        recipe = read_recipe(source, tensors)
        size, preprocess = _resize(recipe, wishes.size)
        make_head = (
            _zero_shot(source, tensors, recipe, wishes, progress) if recipe.zero_shot else None
        )
        resized = wishes.size is not None
        config, parts = convert(tensors, recipe, size, make_head, interpolate_positions=resized)
        labels = wishes.labels or recipe.labels
        if labels is not None and len(labels) != config.classes:
            raise InputError(
                f"labels: {len(labels)} names for a head of {config.classes} classes in "
                f"{source.name}; expected {config.classes}"
            )
        named = labels is not None
        labels = labels or [str(index) for index in range(config.classes)]
        with torch.device("meta"):
            shapes = {key: tuple(t.shape) for key, t in ViT(config).state_dict().items()}
        write_safetensors(
            entry.version / WEIGHTS,
            shapes,
            parts,
            describe(config),
            progress,
        )
        facts = _facts(source, recipe, config)
        entry.describe(config, labels, preprocess, facts, wishes.placement)
    return Imported(recipe=recipe, config=config, preprocess=preprocess, labels=labels, named=named)


def _resize(recipe: Recipe, edge: int | None) -> tuple[tuple[int, int], Preprocess]:
    """Images of another size are cut out of a resize of the same proportion."""
    if edge is None or (edge, edge) == recipe.size:
        return recipe.size, recipe.preprocess
    given = recipe.preprocess.resize
    factor = edge / min(recipe.size)
    resize: int | tuple[int, int] | None = None
    if isinstance(given, int):
        resize = round(given * factor)
    elif given is not None:
        resize = max(edge, round(given[0] * factor)), max(edge, round(given[1] * factor))
    preprocess = Preprocess(resize=resize, interpolation=recipe.preprocess.interpolation)
    return (edge, edge), preprocess


def _zero_shot(
    source: Source, tensors: Tensors, recipe: Recipe, wishes: Wishes, progress: Progress
) -> Callable[[], Head]:
    if not wishes.labels:
        raise InputError(
            f"{source.name}: {recipe.family} has no classes of its own; expected --labels, a file "
            "of class names, one per line"
        )
    if source.folder is None:
        raise InputError(
            f"{source.name}: expected a folder with a tokenizer, to embed the class names"
        )
    folder, names = source.folder, wishes.labels

    def make() -> Head:
        from foveate.importers.zero_shot import text_head

        return text_head(source, folder, tensors, names, wishes.prompts, progress)

    return make


def _facts(source: Source, recipe: Recipe, config: ViTConfig) -> dict[str, str]:
    """What clients who send pixels, and people, may want to know. The weights hold all of it."""
    return {
        "source": source.name,
        "family": recipe.family,
        "mean": " ".join(f"{x:g}" for x in recipe.mean),
        "std": " ".join(f"{x:g}" for x in recipe.std),
        "scores": "sigmoid" if config.sigmoid else "softmax",
    }

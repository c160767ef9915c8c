"""Input checks before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from foveate.calibration.candidate import WEIGHTS
from foveate.errors import InputError
from foveate.images.dataset import Images
from foveate.model.vit import ViT, ViTConfig, load_vit

__all__ = ["check_images", "load_models"]


def load_models(
    folder: Path, vocabulary: str | None = None, variants: Sequence[str] = ()
) -> dict[str, ViT]:
    """The model of ``folder`` and its slimmer variants, by weights file.

    Raises :class:`InputError` naming the field, its value and what was expected, if they and
    the vocabulary do not belong together, :class:`~foveate.errors.WeightsError` for a broken file.
    """
    vits = {name: load_vit(folder / name) for name in (WEIGHTS, *variants)}
    config = vits[WEIGHTS].config
    expected = config.height, config.width, config.patch, config.classes
    for name, vit in vits.items():
        other = vit.config.height, vit.config.width, vit.config.patch, vit.config.classes
        if other != expected:
            raise InputError(
                f"variant={name}: height, width, patch, classes={other}; expected {expected}"
            )
    if vocabulary is not None:
        _check_vocabulary(folder / vocabulary, config)
    return vits


def check_images(config: ViTConfig, choose: Images, report: Images) -> None:
    """Whether a model can take them. Raises :class:`InputError` as above."""
    for name, images in (("choose", choose), ("report", report)):
        if not len(images):
            raise InputError(f"{name}: 0 images; expected at least 1")
        size = tuple(images.pixels.shape[1:3])
        if size != (config.height, config.width):
            raise InputError(f"{name}: images of {size}; expected {(config.height, config.width)}")
        labels = images.labels
        if labels is not None and not 0 <= int(labels.min()) <= int(labels.max()) < config.classes:
            raise InputError(
                f"{name}: labels {int(labels.min())}..{int(labels.max())}; "
                f"expected 0..{config.classes - 1}, the classes of the head"
            )
    if (choose.labels is None) != (report.labels is None):
        raise InputError("labels: only choose or report has them; expected both or neither")


def _check_vocabulary(path: Path, config: ViTConfig) -> None:
    try:
        with safe_open(path, framework="numpy") as file:
            shape = file.get_slice("words").get_shape()
    except (OSError, SafetensorError) as error:
        raise InputError(f"vocabulary={path}: {error}") from error
    width = config.patch**2 * 3
    if len(shape) != 2 or shape[1] != width:
        raise InputError(
            f"vocabulary={path}: words of shape {shape}; expected [words, {width}], "
            f"for patches of {config.patch}x{config.patch} pixels"
        )

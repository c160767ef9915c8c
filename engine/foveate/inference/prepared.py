"""A ladder bound to its tensors: what an engine serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import LadderError, WeightsError
from foveate.levels.ladder import Ladder, Level
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT, ViTConfig, load_vit
from foveate.reduce.selector_file import load_selectors
from foveate.reduce.selector_network import Selector
from foveate.reduce.vwt_inter import VwtInter

__all__ = ["PreparedLadder", "PreparedLevel"]


@dataclass(frozen=True)
class PreparedLevel:
    """A level and its tensors, on the CPU."""

    schedule: Schedule
    vit: ViT
    words: Tensor | None = None
    selectors: Mapping[int, Selector] = field(default_factory=dict)  # by block
    precision: Literal["fp8"] | None = None  # of products, where the hardware has it

    @property
    def variants(self) -> tuple[PreparedLevel, ...]:
        """One for each variant of the schedule."""
        return tuple(replace(self, schedule=variant) for variant in self.schedule.variants)


@dataclass(frozen=True)
class PreparedLadder:
    """The ladder of a model and, in its order, the levels."""

    ladder: Ladder
    levels: tuple[PreparedLevel, ...]

    @property
    def config(self) -> ViTConfig:
        """Of the dense model."""
        return self.levels[0].vit.config

    @staticmethod
    def load(folder: Path) -> PreparedLadder:
        """Read ``ladder.json`` and the tensors it names from a model's version folder.

        Raises :class:`LadderError` or :class:`WeightsError`, naming the file and the reason.
        """
        ladder = Ladder.load(folder / "ladder.json")
        vits = {
            name: load_vit(folder / name) for name in {level.weights for level in ladder.levels}
        }
        words = {
            name: _load_words(folder / name)
            for name in {level.vocabulary for level in ladder.levels}
            if name is not None
        }
        dense = vits[ladder.levels[0].weights].config
        for name, vit in vits.items():
            for key in ("height", "width", "patch", "depth", "classes", "mean", "std", "prefix"):
                own, expected = getattr(vit.config, key), getattr(dense, key)
                if own != expected:
                    raise WeightsError(f"{folder / name}: {key}={own}, level 0 has {expected}")
        prepared = []
        for level in ladder.levels:
            try:
                prepared.append(_prepare(folder, level, vits[level.weights], words))
            except LadderError as error:
                raise LadderError(
                    f"{folder / 'ladder.json'}: level {level.name!r}: {error}"
                ) from error
        if (
            vits[ladder.levels[0].weights].config.height,
            prepared[0].vit.config.width,
        ) != ladder.image_size:
            raise LadderError(f"{folder / 'ladder.json'}: image_size={list(ladder.image_size)}")
        return PreparedLadder(ladder, tuple(prepared))


def _prepare(folder: Path, level: Level, vit: ViT, words: Mapping[str, Tensor]) -> PreparedLevel:
    """Bind a level to its tensors. Raises :class:`LadderError` naming key and value."""
    config = vit.config
    schedule = Schedule.parse(level.reducers, config)
    if isinstance(schedule.input, VwtInter):
        if level.vocabulary is None:
            raise LadderError("vocabulary=null: vwt-inter needs one")
        width, expected = words[level.vocabulary].shape[1], 3 * config.patch**2
        if width != expected:
            raise LadderError(
                f"vocabulary={level.vocabulary!r}: words of {width} numbers, expected {expected}: "
                f"3 channels of {config.patch}x{config.patch} pixels"
            )
    counts = schedule.tokens(config)[1]
    if tuple(counts) != level.tokens:
        raise LadderError(f"tokens={list(level.tokens)}: its reducers give {counts}")
    selectors: Mapping[int, Selector] = {}
    if schedule.selectors:
        if level.selector is None:
            raise LadderError("selector=null: score 'selector' needs one")
        selectors = load_selectors(folder / level.selector, config)
        if missing := [block for block in schedule.selectors if block not in selectors]:
            raise LadderError(
                f"selector={level.selector!r}: no selector for block {missing[0]}, "
                f"only for {', '.join(map(str, selectors)) or 'none'}"
            )
    words_ = words.get(level.vocabulary or "")
    return PreparedLevel(schedule, vit, words_, selectors, level.precision)


def _load_words(path: Path) -> Tensor:
    """Unit-length visual words [K, D], stored as one tensor named ``words``."""
    try:
        return F.normalize(load_file(path)["words"].float(), dim=1)
    except (OSError, SafetensorError, KeyError) as error:
        raise WeightsError(f"{path}: cannot read visual words: {error}") from error

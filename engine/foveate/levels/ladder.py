"""The ladder of levels. Standard library only.

``ladder.json`` holds what does not depend on the device: names, reducers, counts and measured
quality. The time of a batch, which does, is in :mod:`foveate.levels.latency_table`.
Level 0 is the dense model; a higher index is cheaper and never of higher quality.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from foveate.atomic_file import replacing
from foveate.errors import BadWish, LadderError

__all__ = ["SCHEMA", "Ladder", "Level", "Quality", "read_json"]

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Measured on ``n`` images. ``top1`` is None when there were no labels."""

    top1: float | None
    agreement: float  # share of images classified as level 0 classifies them
    n: int


@dataclass(frozen=True, kw_only=True)
class Level:
    """One complete serving configuration."""

    name: str
    reducers: tuple[Mapping[str, Any], ...]  # {"kind": ..., counts}, in the order they act
    weights: str  # safetensors file next to the ladder
    vocabulary: str | None  # safetensors file of visual words next to the ladder
    tokens: tuple[int, ...]  # rows in the MLP of each block, for one image
    macs: int  # multiply-accumulates of one image
    quality: Quality
    selector: str | None = None  # safetensors file of token selectors next to the ladder
    precision: Literal["fp8"] | None = None  # of its blocks' products, where the hardware has it


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """The ordered levels of one model."""

    model: str
    image_size: tuple[int, int]  # height, width
    tokens: int  # of the dense model, CLS included
    levels: tuple[Level, ...]

    @property
    def uses_labels(self) -> bool:
        """Whether quality means top-1 (labels were given) rather than agreement with level 0."""
        return all(level.quality.top1 is not None for level in self.levels)

    def quality(self, level: int) -> float:
        """Quality of a level on this ladder's scale, 0..1."""
        quality = self.levels[level].quality
        return quality.top1 if self.uses_labels and quality.top1 is not None else quality.agreement

    @property
    def qualities(self) -> tuple[float, ...]:
        """Quality of every level."""
        return tuple(self.quality(level) for level in range(len(self.levels)))

    def cheapest_at_least(self, quality: float) -> int:
        """Highest level index whose quality is at least ``quality`` (0..1).

        Raises :class:`BadWish` if even level 0 is below it.
        """
        for index in reversed(range(len(self.levels))):
            if self.quality(index) >= quality:
                return index
        raise BadWish(f"quality={quality}: level 0 of {self.model!r} has {self.quality(0):.4f}")

    def index(self, name: str) -> int:
        """Level index of a name or a decimal index. Raises :class:`BadWish` if there is none."""
        for index, level in enumerate(self.levels):
            if name in (level.name, str(index)):
                return index
        known = ", ".join(level.name for level in self.levels)
        raise BadWish(
            f"level={name!r}: {self.model!r} has levels 0..{len(self.levels) - 1}: {known}"
        )

    @property
    def digest(self) -> str:
        """Fingerprint of everything that affects the time of a level."""
        facts: list[tuple[Any, ...]] = [
            (level.reducers, level.weights, level.tokens, level.macs)
            + ((level.precision,) if level.precision else ())  # others keep their fingerprint
            for level in self.levels
        ]
        text = json.dumps(facts, default=dict, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @staticmethod
    def load(path: Path) -> Ladder:
        """Read ``ladder.json``. Raises :class:`LadderError` naming the file and the key."""
        data = read_json(path)
        if data.get("schema") != SCHEMA:
            raise LadderError(f"{path}: schema={data.get('schema')!r}, this version reads {SCHEMA}")
        try:
            height, width = data["image_size"]
            ladder = Ladder(
                model=str(data["model"]),
                image_size=(int(height), int(width)),
                tokens=int(data["tokens"]),
                levels=tuple(_level(item) for item in data["levels"]),
            )
        except KeyError as error:
            raise LadderError(f"{path}: key {error} is missing") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise LadderError(f"{path}: {error}") from error
        if not ladder.levels or ladder.levels[0].reducers:
            raise LadderError(f"{path}: levels[0]: expected the dense model (no reducers)")
        if ladder.levels[0].precision is not None:
            raise LadderError(
                f"{path}: levels[0]: precision={ladder.levels[0].precision!r}: "
                "expected null, the dense model in full"
            )
        return ladder

    def save(self, path: Path) -> None:
        data = {"schema": SCHEMA, **asdict(self)}
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(data, indent=1, default=dict) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises :class:`LadderError` naming the file."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise LadderError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise LadderError(f"{path}: expected an object, found {type(data).__name__}")
    return data


def _level(item: Mapping[str, Any]) -> Level:
    quality = item["quality"]
    reducers: Sequence[Mapping[str, Any]] = item["reducers"]
    precision = item.get("precision")  # missing in ladders from before it existed, like selectors
    if precision not in (None, "fp8"):
        raise ValueError(f"level {item['name']!r}: precision={precision!r}: expected 'fp8' or null")
    return Level(
        name=str(item["name"]),
        reducers=tuple(dict(reducer) for reducer in reducers),
        weights=str(item["weights"]),
        vocabulary=item["vocabulary"],
        tokens=tuple(int(n) for n in item["tokens"]),
        macs=int(item["macs"]),
        quality=Quality(
            top1=None if quality["top1"] is None else float(quality["top1"]),
            agreement=float(quality["agreement"]),
            n=int(quality["n"]),
        ),
        selector=item.get("selector"),
        precision=precision,
    )

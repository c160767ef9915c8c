"""One row of the table: a way to spend less on the same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foveate.levels.ladder import Level

__all__ = ["Method", "Reducers"]

Reducers = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """Reducers of a ladder level, and what else a level may have."""

    family: str  # methods that differ in their counts only
    reducers: Reducers = ()
    weights: str = "model.safetensors"
    selector: str | None = None
    words: int = 0  # size of the vocabulary of visual words
    int8: bool = False
    side: int | None = None  # of images that are resized first
    served: Level | None = None  # of the ladder that is served: the level, as it is

"""What a report needs to know about the ladder it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.levels.ladder import Ladder

__all__ = ["LadderFacts"]


@dataclass(frozen=True)
class LadderFacts:
    """Names and qualities (0..1) of the levels, dearest first, and which is cheapest here."""

    names: tuple[str, ...]
    quality: tuple[float, ...]
    cheapest: int

    @staticmethod
    def from_file(path: Path) -> LadderFacts:
        """From ``ladder.json``. Raises :class:`foveate.errors.LadderError`."""
        ladder = Ladder.load(path)
        count = len(ladder.levels)
        return LadderFacts(
            names=tuple(level.name for level in ladder.levels),
            quality=tuple(ladder.quality(index) for index in range(count)),
            cheapest=count - 1,
        )

    @staticmethod
    def from_adapter(view: Mapping[str, Any]) -> LadderFacts:
        """From the adapter's view of a model, which also knows the times on this device."""
        levels = view["levels"]
        timed = all(level["batch_ms"] is not None for level in levels)
        last = len(levels) - 1
        return LadderFacts(
            names=tuple(level["name"] for level in levels),
            quality=tuple(level["quality"] for level in levels),
            cheapest=min(range(last + 1), key=lambda k: levels[k]["batch_ms"]) if timed else last,
        )

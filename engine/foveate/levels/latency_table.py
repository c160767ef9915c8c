"""How long each level takes on this device, by batch size. Standard library only."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from foveate.atomic_file import replacing
from foveate.errors import LadderError
from foveate.levels.ladder import SCHEMA, read_json

__all__ = ["LatencyTable"]


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Seconds of one batch, by level and batch size, measured on one device."""

    device: str
    ladder: str  # Ladder.digest it was measured for
    batches: tuple[int, ...]  # ascending, starts at 1
    seconds: tuple[tuple[float, ...], ...]  # [level][batch index]
    padded: bool = False  # only batches of these sizes run; others are padded, or split

    def batch_seconds(self, level: int, batch: int) -> float:
        """Time of one batch; linear between measured sizes and beyond the last one.

        Where batches are ``padded``, the sum of its :meth:`parts`.
        """
        row = self.seconds[level]
        if self.padded:
            full, rest = divmod(batch, self.batches[-1])
            return full * row[-1] + self._quickest(level)[rest][0]
        if len(row) == 1:
            return row[0] * batch
        right = min(max(bisect_left(self.batches, batch), 1), len(row) - 1)
        b0, b1 = self.batches[right - 1], self.batches[right]
        s0, s1 = row[right - 1], row[right]
        return s0 + (s1 - s0) * (batch - b0) / (b1 - b0)

    def parts(self, level: int, batch: int) -> tuple[int, ...]:
        """Sizes of the passes that answer a batch, at most one of the largest size, soonest: the
        sizes sum up to ``batch`` or, where the last is padded, to more; none for no image."""
        if self.padded:
            return self._quickest(level)[batch][1]
        return (batch,) if batch else ()

    def _quickest(self, level: int) -> tuple[tuple[float, tuple[int, ...]], ...]:
        """Time and parts of each batch from 0 to the largest size."""
        return _quickest(self.batches, self.seconds[level])

    def useful(self, batch: int | None = None) -> tuple[int, ...]:
        """Levels worth serving here: each is faster than all dearer ones.

        At batches of ``batch`` images, by default the largest that was measured.
        """
        kept: list[int] = []
        best = math.inf
        for level in range(len(self.seconds)):
            seconds = self.batch_seconds(level, batch or self.batches[-1])
            if seconds < best:
                kept.append(level)
                best = seconds
        return tuple(kept)

    def up_to(self, batch: int) -> LatencyTable:
        """Of the sizes that are no larger."""
        sizes = tuple(size for size in self.batches if size <= batch)
        rows = tuple(row[: len(sizes)] for row in self.seconds)
        return replace(self, batches=sizes, seconds=rows)

    @staticmethod
    def load(path: Path) -> LatencyTable:
        """Read a latency file. Raises :class:`LadderError` naming the file and the key."""
        data = read_json(path)
        try:
            table = LatencyTable(
                device=str(data["device"]),
                ladder=str(data["ladder"]),
                batches=tuple(int(size) for size in data["batches"]),
                seconds=tuple(tuple(float(s) for s in row) for row in data["seconds"]),
                padded=bool(data.get("padded", False)),
            )
        except KeyError as error:
            raise LadderError(f"{path}: key {error} is missing") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise LadderError(f"{path}: {error}") from error
        rising = all(a < b for a, b in pairwise((0, *table.batches)))
        if not rising or not table.batches or table.batches[0] != 1:
            raise LadderError(
                f"{path}: batches={list(table.batches)}: expected ascending sizes from 1"
            )
        for row in table.seconds:
            if len(row) != len(table.batches) or not all(0 < s < math.inf for s in row):
                raise LadderError(
                    f"{path}: seconds={list(row)}: expected one positive number per batch size"
                )
        return table

    def save(self, path: Path) -> None:
        """Write atomically: several instances may measure and save at the same time."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch:
            scratch.write_text(json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n")


@lru_cache(maxsize=256)
def _quickest(
    sizes: tuple[int, ...], seconds: tuple[float, ...]
) -> tuple[tuple[float, tuple[int, ...]], ...]:
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for batch in range(1, sizes[-1] + 1):
        fits = bisect_left(sizes, batch)  # the size it is padded to
        choices: list[tuple[float, tuple[int, ...]]] = [(seconds[fits], (sizes[fits],))]
        for size, own in zip(sizes[:fits], seconds, strict=False):
            rest, parts = best[batch - size]
            choices.append((own + rest, (size, *parts)))
        best.append(min(choices, key=lambda choice: (choice[0], len(choice[1]))))
    return tuple(best)

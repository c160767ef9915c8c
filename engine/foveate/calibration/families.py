"""The table of methods: schedules that differ in integers only. A new method is a line here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from foveate.calibration.point import COUNTS, WEIGHTS, Point, legal
from foveate.vit import ViTConfig

__all__ = ["FAMILIES", "Family"]

# Where reducers of blocks act, as shares of the depth: after a quarter, a half and three quarters,
# as published, or after one and two thirds: early pruning is what costs quality.
QUARTERS = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
THIRDS = (Fraction(1, 3), Fraction(2, 3))
_FEWEST = 4  # tokens a reducer may leave
_SHARES = 256  # resolution of the share of tokens kept at each stage


@dataclass(frozen=True, kw_only=True)
class Family:
    """Reducers without their counts: at most one at the input, one kind at some blocks."""

    name: str
    input: Mapping[str, Any] | None = None
    block: Mapping[str, Any] | None = None
    places: tuple[Fraction, ...] = ()  # of the block reducers, shares of the depth
    needs: tuple[str, ...] = ()  # fields of a level that name a file it cannot do without

    @property
    def single(self) -> bool:
        """Whether it is one method, not several together."""
        return self.input is None or self.block is None

    def uniform(
        self,
        config: ViTConfig,
        *,
        multiple: int = 1,
        weights: str = WEIGHTS,
        files: Mapping[str, str] | None = None,
    ) -> Iterator[Point]:
        """Schedules that keep the same share of tokens at each stage, dearest first."""
        named = {field: (files or {})[field] for field in self.needs}
        name = self.name if weights == WEIGHTS else f"{weights}: {self.name}"
        seen = set()
        for share in (1 - Fraction(i, _SHARES) for i in range(1, _SHARES)):
            reducers = self._reducers(config, share, multiple)
            point = Point(family=name, reducers=reducers, weights=weights, files=named)
            if point.key not in seen and legal(point, config):
                seen.add(point.key)
                yield point

    def _reducers(
        self, config: ViTConfig, share: Fraction, multiple: int
    ) -> tuple[Mapping[str, Any], ...]:
        tokens = Fraction(config.patches)
        stages = [self.input] if self.input else []
        blocks = [int(place * config.depth) for place in self.places]
        stages += [{**self.block, "block": block} for block in blocks if self.block]
        reducers = []
        for later, stage in zip(reversed(range(len(stages))), stages, strict=True):
            # However small the share, each later stage has something left to remove.
            left = max(tokens * share, Fraction(_FEWEST + later * multiple))
            name, dearer = COUNTS[stage["kind"]]
            count = left if dearer > 0 else tokens - left
            reducers.append({**stage, name: max(1, round(count / multiple)) * multiple})
            tokens = left
        return tuple(reducers)


_INTRA = {"kind": "vwt-intra"}
_INTER = {"kind": "vwt-inter"}
_DROP = {"kind": "prune", "fate": "drop"}
_PACKAGE = {"kind": "prune", "fate": "package"}

FAMILIES: tuple[Family, ...] = (
    Family(name="vwt-intra", input=_INTRA),
    Family(name="vwt-inter", input=_INTER, needs=("vocabulary",)),
    Family(name="drop, 3 stages", block=_DROP, places=QUARTERS),
    Family(name="drop, 2 stages", block=_DROP, places=THIRDS),
    Family(name="package, 3 stages", block=_PACKAGE, places=QUARTERS),
    Family(name="package, 2 stages", block=_PACKAGE, places=THIRDS),
    Family(name="vwt-intra + drop", input=_INTRA, block=_DROP, places=THIRDS),
    Family(name="vwt-intra + package", input=_INTRA, block=_PACKAGE, places=THIRDS),
    Family(
        name="vwt-inter + package",
        input=_INTER,
        block=_PACKAGE,
        places=THIRDS,
        needs=("vocabulary",),
    ),
)

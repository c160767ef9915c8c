"""The table of methods: schedules that differ in integers only. A new method is a line here.

Left out on purpose: scores that never win, the change by the MLP and chance, which are controls of
``foveate_benchmarks.methods``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from foveate.calibration.candidate import COUNTS, WEIGHTS, Point, legal
from foveate.model.vit import ViTConfig

__all__ = ["FAMILIES", "Family"]

# Where reducers of blocks act, as shares of the depth: after a quarter, a half and three quarters,
# as published, or after one and two thirds: early pruning is what costs quality.
QUARTERS = (Fraction(1, 4), Fraction(1, 2), Fraction(3, 4))
THIRDS = (Fraction(1, 3), Fraction(2, 3))
_MIN_TOKENS = 4  # tokens a reducer may leave
_SHARES = 256  # resolution of the share of tokens kept at each stage


@dataclass(frozen=True, kw_only=True)
class Family:
    """Reducers without their counts: at most one at the input, one kind at some blocks."""

    name: str
    input: Mapping[str, Any] | None = None
    block: Mapping[str, Any] | None = None
    places: tuple[Fraction, ...] | None = None  # shares of the depth; None: all but the last
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
        trained: Sequence[int] = (),
    ) -> Iterator[Point]:
        """Schedules that keep the same share of tokens at each stage, dearest first.

        ``files`` are those the family ``needs``, ``trained`` the blocks that selectors stand at.
        """
        named = {field: (files or {})[field] for field in self.needs}
        name = self.name if weights == WEIGHTS else f"{weights}: {self.name}"
        seen = set()
        for share in (1 - Fraction(i, _SHARES) for i in range(1, _SHARES)):
            reducers = self._reducers(config, share, multiple, self._blocks(config, trained))
            point = Point(family=name, reducers=reducers, weights=weights, files=named)
            if point.key not in seen and legal(point, config):
                seen.add(point.key)
                yield point

    def _blocks(self, config: ViTConfig, trained: Sequence[int]) -> Sequence[int]:
        if "selector" in self.needs:
            return trained
        if self.places is None:
            return range(config.depth - 1)  # of the last block only CLS is read
        return [int(place * config.depth) for place in self.places]

    def _reducers(
        self, config: ViTConfig, share: Fraction, multiple: int, blocks: Sequence[int]
    ) -> tuple[Mapping[str, Any], ...]:
        tokens = Fraction(config.patches)
        stages = [self.input] if self.input else []
        if self.block:
            stages += [{**self.block, "block": block} for block in blocks]
        reducers = []
        for later, stage in zip(reversed(range(len(stages))), stages, strict=True):
            # However small the share, each later stage has something left to remove.
            left = max(tokens * share, Fraction(_MIN_TOKENS + later * multiple))
            name, dearer = COUNTS[stage["kind"]]
            count = left if dearer > 0 else tokens - left
            reducer = {**stage, name: max(1, round(count / multiple)) * multiple}
            if stage["kind"] == "prune" and not config.reads_cls:
                reducer = {"score": "key", **reducer}
            reducers.append(reducer)
            tokens = left
        return tuple(reducers)


_INTRA = {"kind": "vwt-intra"}
_INTER = {"kind": "vwt-inter"}
_DROP = {"kind": "prune", "fate": "drop"}
_PACKAGE = {"kind": "prune", "fate": "package"}
_JOIN = {"kind": "prune", "fate": "merge"}
_EVIT = {"kind": "prune", "score": "cls", "fate": "package-sum"}
_TOME = {"kind": "merge", "by": "tome"}
_PITOME = {"kind": "merge", "by": "pitome"}
_SELECTOR = {"kind": "prune", "score": "selector"}
_WORDS = ("vocabulary",)

FAMILIES: tuple[Family, ...] = (
    Family(name="vwt-intra", input=_INTRA),
    Family(name="vwt-intra, dropped", input={**_INTRA, "fate": "drop"}),
    Family(name="vwt-inter", input=_INTER, needs=_WORDS),
    Family(name="drop, 3 stages", block=_DROP, places=QUARTERS),
    Family(name="drop, 2 stages", block=_DROP, places=THIRDS),
    Family(name="package, 3 stages", block=_PACKAGE, places=QUARTERS),
    Family(name="package, 2 stages", block=_PACKAGE, places=THIRDS),
    Family(name="merge, 3 stages", block=_JOIN, places=QUARTERS),
    Family(name="merge, 2 stages", block=_JOIN, places=THIRDS),
    Family(name="evit, 3 stages", block=_EVIT, places=QUARTERS),
    Family(name="evit, 2 stages", block=_EVIT, places=THIRDS),
    Family(name="tome, every block", block=_TOME),
    Family(name="tome, 3 stages", block=_TOME, places=QUARTERS),
    Family(name="pitome, every block", block=_PITOME),
    Family(name="pitome, 3 stages", block=_PITOME, places=QUARTERS),
    Family(name="selector, drop", block={**_SELECTOR, "fate": "drop"}, needs=("selector",)),
    Family(name="selector, package", block={**_SELECTOR, "fate": "package"}, needs=("selector",)),
    Family(name="vwt-intra + drop", input=_INTRA, block=_DROP, places=THIRDS),
    Family(name="vwt-intra + package", input=_INTRA, block=_PACKAGE, places=THIRDS),
    Family(name="vwt-intra + merge", input=_INTRA, block=_JOIN, places=THIRDS),
    Family(name="vwt-inter + package", input=_INTER, block=_PACKAGE, places=THIRDS, needs=_WORDS),
)

"""What a level does and costs: its reducers in order, tokens per block, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from foveate.errors import LadderError
from foveate.model.macs import vit_macs
from foveate.model.vit import ViTConfig
from foveate.reduce.adaptive import Adaptive
from foveate.reduce.check import check_count
from foveate.reduce.merge import Merge
from foveate.reduce.prune import Prune
from foveate.reduce.vwt_inter import VwtInter
from foveate.reduce.vwt_intra import VwtIntra

__all__ = ["KINDS", "Schedule"]

KINDS: dict[str, type[VwtIntra | VwtInter | Adaptive | Prune | Merge]] = {
    "vwt-intra": VwtIntra,
    "vwt-inter": VwtInter,
    "adaptive": Adaptive,
    "prune": Prune,
    "merge": Merge,
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The reducers of one level: at most one at the input, at most one per block."""

    input: VwtIntra | VwtInter | Adaptive | None = None
    blocks: Mapping[int, Prune | Merge] = field(default_factory=dict)

    @staticmethod
    def parse(reducers: Sequence[Mapping[str, Any]], config: ViTConfig) -> Schedule:
        """Read the reducers of a ladder level. Raises :class:`LadderError` naming key and value."""
        first: VwtIntra | VwtInter | Adaptive | None = None
        blocks: dict[int, Prune | Merge] = {}
        for item in reducers:
            kind = item.get("kind")
            reducer = _read(kind, {k: v for k, v in item.items() if k != "kind"})
            if isinstance(reducer, Prune | Merge):
                check_count("block", reducer.block, 0, config.depth - 1, f"for kind {kind!r}")
                if reducer.block in blocks:
                    raise LadderError(f"block={reducer.block}: a block has one reducer at most")
                blocks[reducer.block] = reducer
            elif first is not None:
                raise LadderError(f"kind={kind!r}: a level has one input reducer at most")
            else:
                first = reducer
        schedule = Schedule(input=first, blocks=dict(sorted(blocks.items())))
        if first is not None:
            first.check(config)
        for variant in schedule.variants:
            for step, n, packaged in variant._steps(config):
                if step is not None:
                    step.check(n, packaged, config)
        return schedule

    def dump(self) -> tuple[dict[str, Any], ...]:
        """The inverse of :meth:`parse`; leaves out default values."""
        names = {kind: name for name, kind in KINDS.items()}
        reducers = [r for r in (self.input, *self.blocks.values()) if r is not None]
        return tuple(
            {"kind": names[type(r)]}
            | {f.name: v for f in fields(r) if (v := getattr(r, f.name)) != f.default}
            for r in reducers
        )

    @property
    def variants(self) -> tuple[Schedule, ...]:
        """Schedules with fixed counts, one of which applies to each image; several if adaptive."""
        if isinstance(self.input, Adaptive):
            return tuple(replace(self, input=variant) for variant in self.input.variants)
        return (self,)

    @property
    def selectors(self) -> tuple[int, ...]:
        """Blocks with a learned selector."""
        return tuple(
            block
            for block, reducer in self.blocks.items()
            if isinstance(reducer, Prune) and reducer.score == "selector"
        )

    @property
    def sized(self) -> bool:
        """Whether tokens carry sizes, because a reducer merges tokens that stay."""
        return any(reducer.sized for reducer in self.blocks.values())

    def tokens(self, config: ViTConfig) -> tuple[list[int], list[int]]:
        """Tokens per block of one image: (in the attention, in the MLP).

        For an adaptive schedule, those of the busiest images: the maximum.
        """
        attention, mlp = [], []
        for reducer, n, packaged in self._steps(config):
            attention.append(n)
            if reducer is not None and reducer.after == "attention":
                n = reducer.tokens(n, packaged, config.prefix)
            mlp.append(n)
        return attention, mlp

    def macs(self, config: ViTConfig, words: int = 0, selector: int = 0) -> int:
        """Multiply-accumulates of one image: products of matrices, matching included.

        Args:
            words: size of the vocabulary that patches are matched with.
            selector: multiply-accumulates a selector spends on one token.
        """
        attention, mlp = self.tokens(config)
        total = vit_macs(config, attention, mlp, embedded=attention[0] - config.prefix)
        total += config.patches * 3 * config.patch**2 * words
        total += sum((attention[block] - config.prefix) * selector for block in self.selectors)
        for reducer, n, packaged in self._steps(config):
            if reducer is not None:
                total += reducer.macs(n, packaged, config)
        return total

    def _steps(self, config: ViTConfig) -> Iterator[tuple[Prune | Merge | None, int, bool]]:
        """Each block: its reducer, rows of an image before it, whether the last is a package."""
        n = config.prefix + (self.input.tokens() if self.input else config.patches)
        packaged = self.input is not None and self.input.packages
        for block in range(config.depth):
            reducer = self.blocks.get(block)
            yield reducer, n, packaged
            if reducer is not None:
                tokens = reducer.tokens(n, packaged, config.prefix)
                n, packaged = tokens, reducer.packages(packaged)


def _read(kind: object, values: dict[str, Any]) -> VwtIntra | VwtInter | Adaptive | Prune | Merge:
    if kind not in KINDS:
        raise LadderError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    try:
        reducer = KINDS[kind](**values)
    except TypeError as error:
        raise LadderError(f"reducer {{'kind': {kind!r}, ...}}: {error}") from error
    return reducer

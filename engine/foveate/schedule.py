"""What a level does and costs: its reducers in order, tokens per block, multiply-accumulates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from foveate.errors import LadderError
from foveate.reduce.prune import Prune
from foveate.reduce.vwt_inter import VwtInter
from foveate.reduce.vwt_intra import VwtIntra
from foveate.vit import ViTConfig

__all__ = ["KINDS", "Schedule"]

KINDS: dict[str, type[VwtIntra | VwtInter | Prune]] = {
    "vwt-intra": VwtIntra,
    "vwt-inter": VwtInter,
    "prune": Prune,
}


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The reducers of one level: at most one at the input, at most one per block."""

    input: VwtIntra | VwtInter | None = None
    prunes: Mapping[int, Prune] = field(default_factory=dict)

    @staticmethod
    def parse(reducers: Sequence[Mapping[str, Any]], config: ViTConfig) -> Schedule:
        """Read the reducers of a ladder level. Raises :class:`LadderError` naming key and value."""
        first: VwtIntra | VwtInter | None = None
        prunes: dict[int, Prune] = {}
        for item in reducers:
            kind = item.get("kind")
            if kind not in KINDS:
                raise LadderError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
            try:
                reducer = KINDS[kind](**{k: v for k, v in item.items() if k != "kind"})
            except TypeError as error:
                raise LadderError(f"reducer {dict(item)}: {error}") from error
            if isinstance(reducer, Prune):
                if reducer.block in prunes or not 0 <= reducer.block < config.depth:
                    raise LadderError(
                        f"block={reducer.block}: twice, or not in 0..{config.depth - 1}"
                    )
                prunes[reducer.block] = reducer
            elif first is not None:
                raise LadderError(f"kind={kind!r}: a level has one input reducer at most")
            else:
                first = reducer
        schedule = Schedule(input=first, prunes=dict(sorted(prunes.items())))
        schedule._check(config)
        return schedule

    def dump(self) -> tuple[dict[str, Any], ...]:
        """The inverse of :meth:`parse`."""
        names = {kind: name for name, kind in KINDS.items()}
        reducers = [r for r in (self.input, *self.prunes.values()) if r is not None]
        return tuple({"kind": names[type(r)], **asdict(r)} for r in reducers)

    def tokens(self, config: ViTConfig) -> tuple[list[int], list[int]]:
        """Tokens per block of one image: (in the attention, in the MLP)."""
        attention, mlp = [], []
        n = 1 + (self.input.tokens() if self.input else config.patches)
        packaged = isinstance(self.input, VwtIntra)
        for block in range(config.depth):
            attention.append(n)
            if (prune := self.prunes.get(block)) is not None:
                n = prune.tokens(packaged)
                packaged = packaged or prune.fate == "package"
            mlp.append(n)
        return attention, mlp

    def macs(self, config: ViTConfig, words: int = 0) -> int:
        """Multiply-accumulates of one image: products of matrices, and the matching of words."""
        c, d = config.dim, config.patch**2 * 3
        attention, mlp = self.tokens(config)
        embed = (attention[0] - 1) * d * c + config.patches * d * words
        blocks = zip(config.shapes, attention, mlp, strict=True)
        return embed + sum(shape.macs(c, n, m) for shape, n, m in blocks) + c * config.classes

    def _check(self, config: ViTConfig) -> None:
        patches = config.patches
        if self.input is not None:
            if not 4 <= self.input.tokens() <= patches:
                raise LadderError(f"{self.input}: expected 4..{patches} tokens")
            patches = self.input.tokens() - isinstance(self.input, VwtIntra)
        for prune in self.prunes.values():
            if prune.fate not in ("drop", "package"):
                raise LadderError(f"fate={prune.fate!r}: expected 'drop' or 'package'")
            if not 4 <= prune.keep < patches:
                raise LadderError(f"{prune}: keep must be in 4..{patches - 1} here")
            patches = prune.keep

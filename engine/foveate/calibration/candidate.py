"""A candidate level: reducers with their counts, and the files they need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from foveate.errors import LadderError
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig

__all__ = ["COUNTS", "WEIGHTS", "Point", "label", "legal"]

WEIGHTS = "model.safetensors"

# The count of each kind of reducer, and which way it is dearer.
COUNTS: dict[str, tuple[str, int]] = {
    "vwt-intra": ("keep", 1),
    "vwt-inter": ("count", 1),
    "prune": ("keep", 1),
    "merge": ("remove", -1),
}


@dataclass(frozen=True, kw_only=True)
class Point:
    """Reducers as a ladder holds them; ``files`` are further fields of a level that name files."""

    family: str
    reducers: tuple[Mapping[str, Any], ...] = ()
    weights: str = WEIGHTS
    files: Mapping[str, str] = field(default_factory=dict)
    precision: Literal["fp8"] | None = None

    @cached_property
    def key(self) -> str:
        """The same for points that compute the same."""
        facts: list[object] = [self.reducers, self.weights, self.files]
        return json.dumps(facts + [self.precision] * bool(self.precision), sort_keys=True)

    @property
    def in_fp8(self) -> Point:
        """Its twin: the same tokens, with products in FP8."""
        return replace(self, precision="fp8")

    def spend(self, index: int, more: int) -> Point:
        """With ``more`` tokens left (fewer, if negative) by the reducer at ``index``."""
        name, dearer = COUNTS[self.reducers[index]["kind"]]
        return self._changed(index, name, self.reducers[index][name] + dearer * more)

    def scaled(self, share: float, multiple: int) -> Point:
        """With about that share of the tokens left by each reducer."""
        point = self
        for index, reducer in enumerate(self.reducers):
            name, dearer = COUNTS[reducer["kind"]]
            count = reducer[name] * share**dearer
            point = point._changed(index, name, max(1, round(count / multiple)) * multiple)
        return point

    def shift(self, index: int, blocks: int) -> Point:
        """With the reducer at ``index`` that many blocks later."""
        return self._changed(index, "block", self.reducers[index]["block"] + blocks)

    def _changed(self, index: int, name: str, value: int) -> Point:
        reducers = list(self.reducers)
        reducers[index] = {**reducers[index], name: value}
        return replace(self, reducers=tuple(reducers))

    @property
    def name(self) -> str:
        """Such as ``dense``, ``intra43``, ``intra43+package22-11-6`` or ``fp8+intra43``."""
        parts: dict[str, list[int]] = {}
        for reducer in self.reducers:
            count = reducer[COUNTS[reducer["kind"]][0]]
            parts.setdefault(_short(reducer), []).append(count)
        text = [short + "-".join(map(str, counts)) for short, counts in parts.items()]
        if self.weights != WEIGHTS:
            text.insert(0, self.weights.removesuffix(".safetensors"))
        if self.precision:
            text.insert(0, self.precision)
        return "+".join(text) or "dense"


def legal(point: Point, config: ViTConfig) -> bool:
    """Whether a ladder could hold the point."""
    try:
        Schedule.parse(point.reducers, config)
    except LadderError:
        return False
    return True


def label(reducer: Mapping[str, Any]) -> str:
    """What a reducer does, whatever its block and count: ``prune drop``."""
    skipped = {"kind", "block", COUNTS[reducer["kind"]][0]}
    return " ".join([reducer["kind"], *(str(v) for k, v in reducer.items() if k not in skipped)])


def _short(reducer: Mapping[str, Any]) -> str:
    """``intra``, ``inter``; of what prunes or merges only how: ``drop``, ``package``, ``tome``."""
    kind, *options = label(reducer).split(" ")
    by_block = kind in ("prune", "merge")
    return "-".join(options if by_block else [kind.removeprefix("vwt-"), *options])

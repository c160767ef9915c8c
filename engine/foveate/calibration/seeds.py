"""Where searches start: for each budget, the dearest uniform schedule of each family that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from foveate.calibration.candidate import WEIGHTS, Point
from foveate.calibration.cost import Cost, learn_overheads
from foveate.calibration.families import FAMILIES
from foveate.calibration.measurements import DENSE, Bench
from foveate.calibration.settings import Settings
from foveate.inference.block_times import BlockTimes
from foveate.model.vit import ViTConfig

__all__ = ["Seeds", "find_seeds", "predicted_budget"]


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Uniform schedules that fit budgets, and the cost that says so."""

    cost: Cost
    budgets: tuple[float, ...]  # seconds of a batch
    families: Mapping[str, tuple[Point | None, ...]]  # by family, at each budget; None: too slow

    def at(self, budget: int) -> list[Point]:
        """Of all families, those that fit the budget of that index."""
        points = [line[budget] for line in self.families.values()]
        return [point for point in points if point is not None]

    @property
    def points(self) -> list[Point]:
        """All of them, each once."""
        every = [point for index in range(len(self.budgets)) for point in self.at(index)]
        return list({point.key: point for point in every}.values())

    def with_twins(self) -> Seeds:
        """Beside each family the same with its products in FP8."""
        twins = {
            f"{family}, fp8": tuple(point and point.in_fp8 for point in line)
            for family, line in self.families.items()
        }
        return replace(self, families={**self.families, **twins})


def find_seeds(
    bench: Bench,
    blocks: Mapping[str, BlockTimes],
    files: Mapping[str, str],
    settings: Settings,
    trained: Sequence[int] = (),
) -> Seeds:
    """Fit every family to every budget.

    By the table of blocks, then by what whole passes take beyond it, at last by how far the
    prediction is off at the very schedule.

    Args:
        files: what levels may name, by field.
        trained: blocks that the selectors of ``files`` stand at.
    """
    lines = _uniform_schedules(bench.configs, files, settings, trained)
    (dense,) = bench.seconds([DENSE])
    budgets = tuple(share * dense for share in settings.budgets)
    seeds = _fit(lines, Cost(configs=bench.configs, blocks=blocks), budgets)
    for _ in range(2):
        points = [DENSE, *seeds.points]
        seeds = _fit(lines, learn_overheads(seeds.cost, points, bench.seconds(points)), budgets)
    bench.seconds(seeds.points)
    families = {
        family: tuple(
            point and _dearest(lines[family], seeds.cost, predicted_budget(bench, seeds, i, point))
            for i, point in enumerate(line)
        )
        for family, line in seeds.families.items()
    }
    seeds = replace(seeds, families=families)
    bench.seconds(seeds.points)
    return seeds


def predicted_budget(bench: Bench, seeds: Seeds, budget: int, near: Point) -> float:
    """What may be predicted of schedules like ``near`` so that they take the budget."""
    (measured,) = bench.seconds([near])
    return seeds.budgets[budget] * seeds.cost.seconds(near) / measured


def _uniform_schedules(
    configs: Mapping[str, ViTConfig],
    files: Mapping[str, str],
    settings: Settings,
    trained: Sequence[int],
) -> dict[str, list[Point]]:
    """By family, dearest first. A slimmer model is a method of its own, and joins every family it
    can: selectors read the residual stream by heads, as wide as it was."""
    lines: dict[str, list[Point]] = {}
    for weights, config in configs.items():
        if weights != WEIGHTS:
            lines[weights] = [Point(family=weights, weights=weights)]
        for family in FAMILIES:
            if not files.keys() >= set(family.needs):
                continue
            if "selector" in family.needs and config.dim != configs[WEIGHTS].dim:
                continue
            points = family.uniform(
                config, multiple=settings.multiple, weights=weights, files=files, trained=trained
            )
            for point in points:
                lines.setdefault(point.family, []).append(point)
    return lines


def _fit(lines: Mapping[str, Sequence[Point]], cost: Cost, budgets: tuple[float, ...]) -> Seeds:
    families = {
        family: tuple(_dearest(line, cost, budget) for budget in budgets)
        for family, line in lines.items()
    }
    return Seeds(cost=cost, budgets=budgets, families=families)


def _dearest(line: Sequence[Point], cost: Cost, seconds: float) -> Point | None:
    """The first of ``line``, which is dearest first, that is predicted to take no longer."""
    return next((point for point in line if cost.seconds(point) <= seconds), None)

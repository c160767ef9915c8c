"""Where points are measured, each once: bound to an engine, timed, and judged on images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.calibration.journal import Journal
from foveate.calibration.point import Point
from foveate.calibration.quality import Outcome, answer, judge
from foveate.engine import Engine
from foveate.images import Images
from foveate.ladder import Ladder, Level, Quality
from foveate.latency import measure
from foveate.schedule import Schedule
from foveate.selector import load_selectors
from foveate.vit import ViTConfig

__all__ = ["DENSE", "Bench"]

DENSE = Point(family="dense")
_UNKNOWN = Quality(top1=None, agreement=0.0, n=0)


class Bench:
    """``folder`` holds every file that points name, and the ladders they are loaded by."""

    def __init__(
        self,
        folder: Path,
        model: str,
        configs: Mapping[str, ViTConfig],
        sets: Mapping[str, Images],
        journal: Journal,
        *,
        batch: int,
        clock: Callable[[], float],
    ) -> None:
        self.folder, self.model, self.configs, self.sets = folder, model, configs, sets
        self._journal, self._batch, self._clock = journal, batch, clock
        self._dense: dict[str, Tensor] = {}

    def ladder(self, points: Sequence[Point], qualities: Sequence[Quality]) -> Ladder:
        """The points as levels, dense first. Those of one name get their blocks in it."""
        config = self.configs[points[0].weights]
        names = [point.name for point in points]
        levels = []
        for point, quality in zip(points, qualities, strict=True):
            schedule = Schedule.parse(point.reducers, self.configs[point.weights])
            unique = names.count(point.name) == 1
            levels.append(
                Level(
                    name=point.name if unique else f"{point.name}@{_blocks(point)}",
                    reducers=schedule.dump(),
                    weights=point.weights,
                    tokens=tuple(schedule.tokens(self.configs[point.weights])[1]),
                    macs=schedule.macs(
                        self.configs[point.weights], self._words(point), self._selector(point)
                    ),
                    quality=quality,
                    **{"vocabulary": None, **point.files},
                )
            )
        return Ladder(
            model=self.model,
            image_size=(config.height, config.width),
            tokens=config.patches + 1,
            levels=tuple(levels),
        )

    def engine(self, points: Sequence[Point]) -> Engine:
        """Level 0 dense, then the points."""
        every = [DENSE, *points]
        self.ladder(every, [_UNKNOWN] * len(every)).save(self.folder / "ladder.json")
        return Engine.load(self.folder)

    def seconds(self, points: Sequence[Point]) -> list[float]:
        """Least time of a batch of each point.

        Those not known yet are measured together, round by round, beside level 0: on a machine that
        has become slower or faster since the first of these measurements, all are scaled back.
        """
        new = {point.key: point for point in points if f"seconds {point.key}" not in self._journal}
        if new:
            table = measure(self.engine(list(new.values())), (self._batch,), clock=self._clock)
            (reference,), *others = table.seconds
            scale = self._journal.once("reference", lambda: reference) / reference
            for key, (seconds,) in zip(new, others, strict=True):
                self._journal.add(f"seconds {key}", seconds * scale)
        return [self._journal[f"seconds {point.key}"] for point in points]

    def outcome(self, point: Point, on: str) -> Outcome:
        """How the point answers the images of set ``on``."""
        key = f"quality {on} {point.key}"
        return Outcome(**self._journal.once(key, lambda: asdict(self._judge(point, on))))

    def _judge(self, point: Point, on: str) -> Outcome:
        images, dense = self.sets[on], self._answers(on)
        if point.key == DENSE.key:
            return judge(dense, dense, images)
        return judge(answer(self.engine([point]), 1, images.pixels), dense, images)

    def _answers(self, on: str) -> Tensor:
        """Probabilities [n, classes] of level 0, kept in a file once they are complete."""
        path = self.folder / f"dense-{on}.safetensors"
        if on not in self._dense:
            if not path.exists():
                scores = answer(self.engine([]), 0, self.sets[on].pixels)
                save_file({"scores": scores}, scratch := path.with_suffix(".tmp"))
                scratch.replace(path)
            self._dense[on] = load_file(path)["scores"]
        return self._dense[on]

    def token_maps(self, points: Sequence[Point], pixels: Tensor) -> Tensor:
        """[points, n, patches] int16: where each patch of images [n, H, W, 3] went."""
        engine, n = self.engine(points), len(pixels)
        maps = [
            engine.infer(pixels, [level] * n, token_map=True).token_map
            for level in range(1, len(points) + 1)
        ]
        return torch.stack([tokens for tokens in maps if tokens is not None])

    def _words(self, point: Point) -> int:
        """Size of the vocabulary, which is matched at a cost."""
        if "vocabulary" not in point.files:
            return 0
        return len(load_file(self.folder / point.files["vocabulary"])["words"])

    def _selector(self, point: Point) -> int:
        """Multiply-accumulates of its selectors, of one token."""
        if "selector" not in point.files:
            return 0
        path = self.folder / point.files["selector"]
        return next(iter(load_selectors(path, self.configs[point.weights]).values())).macs


def _blocks(point: Point) -> str:
    return "-".join(str(reducer["block"]) for reducer in point.reducers if "block" in reducer)

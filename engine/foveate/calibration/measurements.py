"""Measure points, each once: bind them to an engine, time them, and compare answers on images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.atomic_file import replacing
from foveate.calibration.candidate import Point
from foveate.calibration.journal import Journal
from foveate.calibration.quality import Outcome, answer, judge
from foveate.images.dataset import Images
from foveate.inference.engine import Engine
from foveate.inference.latency import one_pass, sample
from foveate.inference.prepared import PreparedLadder
from foveate.inference.runtime import Runtime
from foveate.levels.ladder import Ladder, Level, Quality
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig
from foveate.reduce.selector_file import load_selectors

__all__ = ["DENSE", "Bench"]

DENSE = Point(family="dense")
_AT_A_TIME = 8  # points timed together: a round of them is over in a fraction of a second
_KEPT = 24  # engines; each holds a compiled level
_KEPT_GRAPHS = _AT_A_TIME + 2  # each holds weights of its own on the GPU
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
        runtime: Runtime,
        batch: int,
        clock: Callable[[], float],
    ) -> None:
        self.folder, self.model, self.configs, self.sets = folder, model, configs, sets
        self._journal, self._batch, self._clock = journal, batch, clock
        self._runtime = runtime
        self._engines: dict[str, Engine] = {}  # by point, the last used last
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
                    precision=point.precision,
                    **{"vocabulary": None, **point.files},
                )
            )
        return Ladder(
            model=self.model,
            image_size=(config.height, config.width),
            tokens=config.tokens,
            levels=tuple(levels),
        )

    def engine(self, points: Sequence[Point], batches: Sequence[int] = ()) -> Engine:
        """Level 0 dense, then the points; for batches of the size that is timed, or ``batches``."""
        every = [DENSE, *points]
        self.ladder(every, [_UNKNOWN] * len(every)).save(self.folder / "ladder.json")
        prepared = PreparedLadder.load(self.folder)
        return self._runtime.engine(prepared, batches or (self._batch,))

    def _alone(self, point: Point) -> tuple[Engine, int]:
        """An engine for one point, and its level. The last ones are kept: to compile takes longer
        than to time, and dense is always one of the two."""
        if point.key in self._engines:
            self._engines[point.key] = self._engines.pop(point.key)
        else:
            self._engines[point.key] = self.engine([] if point.key == DENSE.key else [point])
            kept = _KEPT if self._runtime.graphs is None else _KEPT_GRAPHS
            while len(self._engines) > kept:
                self._engines.pop(next(key for key in self._engines if key != DENSE.key))
        return self._engines[point.key], int(point.key != DENSE.key)

    def seconds(self, points: Sequence[Point]) -> list[float]:
        """Time of a batch of each point.

        A point is compared with level 0 round by round, few at a time, so that both meet the same
        neighbours and clock rates; its time is the median ratio, in units of level 0's least time
        when the calibration began.
        """
        new = {point.key: point for point in points if f"seconds {point.key}" not in self._journal}
        waiting = list(new.values())
        for start in range(0, len(waiting), _AT_A_TIME):
            few = waiting[start : start + _AT_A_TIME]
            times = self._sample([DENSE, *few])
            dense = times[DENSE.key]
            unit = self._journal.once("seconds of level 0", partial(min, dense))
            for point in few:
                pairs = zip(times[point.key], dense, strict=True)
                ratio = median(own / reference for own, reference in pairs)
                self._journal.add(f"seconds {point.key}", ratio * unit)
        return [self._journal[f"seconds {point.key}"] for point in points]

    def _sample(self, points: Sequence[Point]) -> dict[str, list[float]]:
        """Seconds of a batch of each, in rounds that interleave them."""
        engines = {point.key: self._alone(point) for point in points}
        passes = {key: one_pass(*own, self._batch) for key, own in engines.items()}
        return sample(passes, clock=self._clock)

    def outcome(self, point: Point, on: str) -> Outcome:
        """How the point answers the images of set ``on``."""
        key = f"quality {on} {point.key}"
        return Outcome(**self._journal.once(key, lambda: asdict(self._judge(point, on))))

    def _judge(self, point: Point, on: str) -> Outcome:
        images, dense = self.sets[on], self._answers(on)
        if point.key == DENSE.key:
            return judge(dense, dense, images)
        return judge(answer(*self._alone(point), images.pixels), dense, images)

    def _answers(self, on: str) -> Tensor:
        """Probabilities [n, classes] of level 0, kept in a file once they are complete."""
        path = self.folder / f"dense-{on}.safetensors"
        if on not in self._dense:
            if not path.exists():
                scores = answer(*self._alone(DENSE), self.sets[on].pixels)
                with replacing(path) as scratch:
                    save_file({"scores": scores}, scratch)
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

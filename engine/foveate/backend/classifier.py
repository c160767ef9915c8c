"""One instance of a served model: requests in, answers out. Independent of the server.

Joins the pure parts (engine, governor) with the impure ones (clock, policy word, telemetry).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from foveate import __version__
from foveate.backend.telemetry import Telemetry
from foveate.control import governor
from foveate.control.governor import PLAIN, Decision, Observation, Rejection, State, Wish
from foveate.control.policy import PolicyReader, policy_path
from foveate.errors import BadWish
from foveate.images.folder import Progress
from foveate.inference.engine import Answers, Engine
from foveate.inference.latency import load_or_measure
from foveate.inference.start import start_engine
from foveate.levels.ladder import Ladder
from foveate.settings import ModelSettings

__all__ = ["Answer", "Classifier", "Failure", "Outcome", "Refusal", "Request", "parse_wish"]


@dataclass(frozen=True)
class Request:
    """One client's request: images [b, H, W, 3] (uint8) and a wish."""

    pixels: Tensor
    wish: Wish
    token_map: bool = False


@dataclass(frozen=True)
class Answer:
    """Answer to one request of b images."""

    scores: Tensor  # [b, classes] float32
    level: int
    token_map: Tensor | None  # [b, patches] int16


@dataclass(frozen=True)
class Refusal:
    """A rejected request, and when to retry it."""

    reason: Rejection
    retry_after_ms: int | None


@dataclass(frozen=True)
class Failure:
    """A request without a usable answer."""

    reason: str


Outcome = Answer | Refusal | Failure


class _Ended(NamedTuple):
    """A batch that has its answers."""

    wishes: tuple[Wish, ...]
    decision: Decision
    end_ns: int
    seconds: float  # that it had the device to itself
    failed: Sequence[bool]  # one for each request


def parse_wish(parameters: Mapping[str, Any], ladder: Ladder, images: int = 1) -> Wish:
    """Read ``level``, ``quality`` and ``deadline_ms`` from request parameters.

    Raises :class:`BadWish` naming key and value. Ignores other parameters.
    """
    pin = floor = deadline_ns = None
    if (level := parameters.get("level")) is not None:
        pin = ladder.index(str(level))
    if (quality := parameters.get("quality")) is not None:
        floor = 0 if quality == "exact" else ladder.cheapest_at_least(_quality(quality))
    if (deadline := parameters.get("deadline_ms")) is not None:
        milliseconds = _number("deadline_ms", deadline)
        if not 0 < milliseconds <= 3_600_000:
            raise BadWish(f"deadline_ms={deadline!r}: expected a number in (0, 3600000]")
        deadline_ns = int(milliseconds * 1e6)
    wish = Wish(pin=pin, floor=floor, deadline_ns=deadline_ns, images=images)
    return PLAIN if wish == PLAIN else wish  # one shared object, which is fast to compare


def _quality(value: object) -> float:
    quality = _number("quality", value)
    if not 0 <= quality <= 1:
        raise BadWish(f"quality={value!r}: expected 'exact' or a number in [0, 1]")
    return quality


def _number(key: str, value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise BadWish(f"{key}={value!r}: expected a number") from None


class Classifier:
    """Serves one model."""

    def __init__(
        self,
        name: str,
        folder: Path,
        max_batch: int,
        settings: ModelSettings,
        telemetry: Telemetry,
        device: torch.device,
        progress: Progress = lambda *_: None,
    ) -> None:
        self._engine = start_engine(
            folder,
            max_batch,
            device=device,
            executor=settings.executor,
            precision=settings.precision,
            threads=settings.threads,
            cache=settings.state_dir / name / "levels",
            progress=progress,
        )
        self.ladder = self._engine.ladder
        latency = load_or_measure(self._engine, settings.state_dir, progress)
        latency.save(settings.run_dir / f"{name}.latency.json")
        self._engine.split_by(latency)
        self._config = governor.Config(
            latency=latency,
            quality=self.ladder.qualities,
            max_batch=max_batch,
            slo_ns=int(settings.slo_ms * 1e6),
            admission=settings.admission == "on",
            pin_cap=settings.pin_cap,
        )
        self._state = State()
        # Batches without answers: when each was launched, and how long it is expected to take.
        self._under_way: deque[tuple[int, float]] = deque()
        self._done_ns = 0  # when the last batch before them was done
        self._ended_ns = 0  # the same for the thread that waits
        self._ended: deque[_Ended] = deque()  # still to learn from
        self._policy = PolicyReader(policy_path(settings.run_dir, name))
        self._telemetry = telemetry
        # Batches since the last publication; a batch's only cost for metrics is to append here.
        self._batches: deque[_Ended] = deque()
        telemetry.collect_with(self._collect)
        self._begin_counting(self._engine, latency.device)

    @property
    def overlaps(self) -> bool:
        """Whether :meth:`launch` returns before the answers are there."""
        return self._engine.overlaps

    def answer(self, requests: Sequence[Request]) -> list[Outcome]:
        """Answer a batch: one entry per request, in order."""
        outcomes = self.launch(requests)()
        self._settle()
        return outcomes

    def launch(self, requests: Sequence[Request]) -> Callable[[], list[Outcome]]:
        """Begin a batch; what is returned waits for its answers, and must be called once.

        Batches are waited for in the order they were launched, by any one thread.
        """
        self._settle()
        launched = time.monotonic_ns()
        observation = Observation(
            now_ns=launched,
            wishes=tuple(request.wish for request in requests),
            policy=self._policy.read(),
            begins_ns=self._free_ns(),
        )
        self._state, decision = governor.decide(self._config, self._state, observation)
        accepted = [
            (request, level)
            for request, level in zip(requests, decision.levels, strict=True)
            if not isinstance(level, Rejection)
        ]
        wait = _no_answers
        if accepted:
            pixels = [request.pixels for request, _ in accepted]
            levels = [level for request, level in accepted for _ in range(len(request.pixels))]
            wants_map = any(request.token_map for request, _ in accepted)
            try:
                wait = self._engine.launch(pixels, levels, token_map=wants_map)
            except Exception:
                self._telemetry.count("foveate_failures_total", len(requests))
                raise
        self._under_way.append((launched, decision.predicted_s))

        def finish() -> list[Outcome]:
            outcomes = None
            try:
                outcomes = _outcomes(requests, decision, wait())
            finally:
                end = time.monotonic_ns()
                seconds = (end - max(launched, self._ended_ns)) / 1e9
                self._ended_ns = end
                failed = [outcomes is None or isinstance(x, Failure) for x in outcomes or requests]
                ended = _Ended(observation.wishes, decision, end, seconds, failed)
                self._ended.append(ended)
                self._batches.append(ended)
            return outcomes

        return finish

    def close(self) -> None:
        self._telemetry.close()
        self._policy.close()

    def _settle(self) -> None:
        """Learn from the batches that ended. The governor's state stays with one thread."""
        while self._ended:
            ended = self._ended.popleft()
            self._under_way.popleft()
            self._done_ns = ended.end_ns
            if not all(ended.failed):
                self._state = governor.settle(self._state, ended.decision, ended.seconds)

    def _free_ns(self) -> int | None:
        """When all batches under way are expected to be done; None if there are none.

        Anew from the last that is done: predictions on predictions would drift from the truth.
        """
        if not self._under_way:
            return None
        free_ns = self._done_ns
        for launched, predicted_s in self._under_way:
            free_ns = max(free_ns, launched) + int(1e9 * predicted_s)
        return free_ns

    def _begin_counting(self, engine: Engine, device: str) -> None:
        """Create every series at once: a rate misses the first increase of a new series."""
        telemetry = self._telemetry
        telemetry.gauge(
            "foveate_build_info",
            1,
            component="model",
            version=__version__,
            executor=engine.executor,
            precision=engine.precision,
            device=device,
        )
        telemetry.gauge("foveate_uncompiled_levels", len(engine.uncompiled))
        for level in map(str, range(len(self.ladder.levels))):
            for slo in ("met", "missed"):
                telemetry.count("foveate_answers_total", 0, level=level, slo=slo)
            telemetry.count("foveate_batches_total", 0, level=level)
            telemetry.count("foveate_batch_seconds_total", 0, level=level)
        for reason in Rejection:
            telemetry.count("foveate_rejections_total", 0, reason=reason.value)
        for name in ("foveate_errors_total", "foveate_failures_total", "foveate_tokens_total"):
            telemetry.count(name, 0)

    def _collect(self) -> None:
        """Count the batches since the last time; runs in the telemetry thread."""
        state = self._state
        self._telemetry.gauge("foveate_batch_time_correction", state.correction)
        self._telemetry.gauge("foveate_batch_gap_seconds", state.gap_s)
        while self._batches:
            self._count(self._batches.popleft(), state.gap_s)

    def _count(self, batch: _Ended, gap_s: float) -> None:
        telemetry, decision, seconds = self._telemetry, batch.decision, batch.seconds
        telemetry.count("foveate_failures_total", sum(batch.failed))
        ran = [level for level in decision.levels if not isinstance(level, Rejection)]
        if ran:  # a batch of several levels counts as its most frequent one
            level = str(max(set(ran), key=ran.count))
            telemetry.count("foveate_batches_total", level=level)
            telemetry.count("foveate_batch_seconds_total", seconds, level=level)
        telemetry.count("foveate_decisions_total", reason=decision.reason.value)
        telemetry.gauge("foveate_level", decision.level)
        for wish, outcome, age_ns, failed in zip(
            batch.wishes, decision.levels, decision.ages_ns, batch.failed, strict=True
        ):
            if failed:
                continue
            if isinstance(outcome, Rejection):
                telemetry.count("foveate_rejections_total", reason=outcome.value)
                continue
            age = age_ns / 1e9 + seconds + gap_s  # an answer leaves in the gap after its batch
            limit_ns = wish.deadline_ns or decision.slo_ns
            met = "met" if age <= limit_ns / 1e9 else "missed"
            telemetry.count("foveate_answers_total", level=str(outcome), slo=met)
            telemetry.age(age)
            tokens = self.ladder.levels[outcome].tokens[-1]
            telemetry.count("foveate_tokens_total", tokens * wish.images)


def _no_answers() -> Answers:
    return Answers(torch.empty(0, 0), None)


def _outcomes(requests: Sequence[Request], decision: Decision, answers: Answers) -> list[Outcome]:
    """Hand out the rows of a batch."""
    outcomes: list[Outcome] = []
    finite, row = answers.scores.isfinite().all(1).tolist(), 0
    for request, level in zip(requests, decision.levels, strict=True):
        if isinstance(level, Rejection):
            outcomes.append(Refusal(level, decision.retry_after_ms))
            continue
        rows = slice(row, row + len(request.pixels))
        row = rows.stop
        if not all(finite[rows]):
            outcomes.append(Failure("scores are not finite"))
            continue
        token_map = None if answers.token_map is None else answers.token_map[rows]
        outcomes.append(Answer(answers.scores[rows], level, token_map))
    return outcomes

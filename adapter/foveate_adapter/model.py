"""One model under control: its SLO, its observations and its decisions."""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from foveate.control.policy import Policy, PolicyReader, policy_path
from foveate.errors import BadWish, LadderError, PolicyError, PolicyTaken
from foveate.levels.ladder import Ladder
from foveate.levels.latency_table import LatencyTable
from foveate_adapter.actuate import Writer, publish
from foveate_adapter.control import Config, Decision, Reason, State, decide
from foveate_adapter.errors import Conflict, SettingsError, StateError, UnknownLevel
from foveate_adapter.observe import Observation, Sample, credible, observe
from foveate_adapter.remote import open_writer
from foveate_adapter.settings import Settings
from foveate_adapter.slo import Slo, SloFile

__all__ = ["Decided", "Model", "Pin", "open_models"]

WINDOW_S = 10.0  # what the API and the metrics call "now"; longer if Prometheus is slower
TAKE_OVER_S = 1.0  # how often a read-only adapter checks whether the other one is gone

_log = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def _locked(method: Callable[Concatenate[Model, _P], _R]) -> Callable[Concatenate[Model, _P], _R]:
    """``method``, which holds the lock of its model."""

    @wraps(method)
    def held(self: Model, /, *args: _P.args, **options: _P.kwargs) -> _R:
        with self.lock:
            return method(self, *args, **options)

    return held


@dataclass(frozen=True, kw_only=True)
class Pin:
    level: int
    until: float = math.inf  # seconds, monotonic


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A decision, and the time of day it was made."""

    time: datetime
    decision: Decision


class Model:
    """Controls one model, unless another adapter already does.

    The control loop and the API run in two threads. Methods that act hold ``lock``; hold it as well
    to read several attributes consistently, or to iterate over one that grows.

    A second adapter of a model is read-only: it observes and decides, so that it can take over at
    once, but its decisions have no effect and it accepts no changes.
    """

    def __init__(self, name: str, ladder: Ladder, settings: Settings, epoch: int) -> None:
        """Raises :class:`PolicyError` if the policy word cannot be created, :class:`Conflict` if no
        level reaches the settings' ``min_quality``.
        """
        self.name = name
        self.ladder = ladder
        self.lock = threading.RLock()
        self.pin: Pin | None = None
        self.slo = settings.slo
        self.floor = self._floor(self.slo)  # cheapest level of sufficient quality
        self.table: LatencyTable | None = None
        self.policy: Policy | None = None  # in effect, whichever adapter published it
        self.latest: Decided | None = None
        self.counts: Counter[Reason] = Counter()
        self.changes: deque[Decided] = deque(maxlen=256)  # with a new reason or range
        self.seen_at = -math.inf  # last time the queue depth was known
        self.table_path = settings.run_dir / f"{name}.latency.json"
        self.window_s = max(WINDOW_S, settings.blind_after_s)
        self._settings = settings
        self._epoch = epoch
        self._config: Config | None = None  # of the last decision; None: there was no table
        self._state = State()
        self._samples: deque[Sample] = deque()
        self._slo_file = SloFile(settings.state_dir or settings.run_dir, name)
        self._path = policy_path(settings.run_dir, name)
        self._reader = PolicyReader(self._path)
        self._writer: Writer | None = None  # None: another adapter has the word
        self._asked_at = -math.inf  # last time we tried to get it
        self._trouble: str | None = None  # why the last policy was not written
        self._take_word()
        if self.holder is not None:
            _log.warning("%s: read-only, %s", name, self.holder)
        self._recall()

    @property
    def decision(self) -> Decision | None:
        """The last one; None before the first."""
        return None if self.latest is None else self.latest.decision

    @property
    def holder(self) -> str | None:
        """The other adapter that publishes the policy; None if we do."""
        if self._writer is not None:
            return None
        epoch = "" if self.policy is None else f" (epoch {self.policy.epoch})"
        return f"another adapter{epoch} publishes {self._path}"

    @_locked
    def set_slo(self, slo: Slo) -> None:
        """Store ``slo`` and apply it from the next decision on.

        Raises :class:`Conflict` if no level or not the pinned level is good enough, or if this
        adapter is read-only; :class:`StateError` if it cannot be stored. The SLO then stays as is.
        """
        self._require_word()
        floor = self._floor(slo)
        self._slo_file.save(slo)
        self.slo, self.floor = slo, floor

    @_locked
    def set_pin(self, level: str | int, until: float = math.inf) -> None:
        """Pin a level, by name or index, until a time (seconds, monotonic).

        Raises :class:`UnknownLevel` naming the known ones, :class:`Conflict` under the quality
        floor and if this adapter is read-only.
        """
        self._require_word()
        try:
            index = self.ladder.index(str(level))
        except BadWish as error:
            raise UnknownLevel(str(error)) from error
        if index > self.floor:
            raise Conflict(
                f"level={level!r}: {self._poor(index)}, min_quality={self.slo.min_quality}"
            )
        self.pin = Pin(level=index, until=until)

    @_locked
    def unpin(self) -> None:
        """Raises :class:`Conflict` if this adapter is read-only."""
        self._require_word()
        self.pin = None

    @_locked
    def step(self, sample: Sample | None, at: float) -> Decision:
        """Decide and publish at ``at`` (seconds, monotonic). ``sample`` is None if nothing new."""
        if self._writer is None and at - self._asked_at >= TAKE_OVER_S:
            self._asked_at = at
            self._take_word()
            if self._writer is not None:
                _log.warning("%s: the other adapter is gone, this one takes over", self.name)
                self._recall()  # the other adapter may have stored another SLO
        if self.pin is not None and at >= self.pin.until:
            self.pin = None
        if sample is not None and not credible(self._samples, sample):
            sample = None
        observation = self._observe(sample, at)
        if self.table is None or observation.reset:
            self.table = self._load_table()  # a new model process may have measured again
        config = self._configure()
        if config == self._config:
            config = self._config  # keeps its cached properties
        blind = at - self.seen_at > self._settings.blind_after_s
        if sample is None and self.latest and config == self._config and not blind:
            # Nothing new, so nothing changes; the control law would count this as observed time.
            decision = replace(self.latest.decision, at=at, queue_depth=None)
        else:
            decision = self._decide(config, observation)
            self._record(decision)
        self._publish(decision, at if sample is None else sample.at)
        return decision

    @_locked
    def window(self) -> Observation | None:
        """What happened in the last ``window_s``; None before the first good scrape."""
        if not self._samples:
            return None
        return observe(self._samples[0], self._samples[-1], self.slo.latency_s)

    @_locked
    def problem(self, at: float) -> str | None:
        """Why this model is not under control at ``at`` (monotonic seconds); None if it is.

        Control by another adapter is fine.
        """
        if self._trouble is not None:
            return f"{self.name}: {self._trouble}"
        if self.policy is None:
            return f"{self.name}: no policy published yet"
        if at - self.seen_at > self._settings.blind_after_s:
            return f"{self.name}: no signal from the metrics endpoint"
        if self.table is None:
            return f"{self.name}: waiting for {self.table_path}"
        return None

    @_locked
    def close(self) -> None:
        """Release the policy word; governors continue alone when the lease expires."""
        self._reader.close()
        if self._writer is not None:
            self._writer.close()

    def _floor(self, slo: Slo) -> int:
        best = self.ladder.quality(0)
        if slo.min_quality > best:
            raise Conflict(
                f"min_quality={slo.min_quality}: level 0 of {self.name!r} has {best:.4f}"
            )
        floor = self.ladder.cheapest_at_least(slo.min_quality)
        if self.pin is not None and self.pin.level > floor:
            poor = self._poor(self.pin.level)
            raise Conflict(
                f"min_quality={slo.min_quality}: the pinned level {poor}; unpin it first"
            )
        return floor

    def _poor(self, level: int) -> str:
        return f"{self.ladder.levels[level].name} has quality {self.ladder.quality(level):.4f}"

    def _require_word(self) -> None:
        if self.holder is not None:
            raise Conflict(f"{self.name}: read-only, {self.holder}")

    def _take_word(self) -> None:
        try:
            self._writer = open_writer(self._settings, self.name, self.table_path)
        except PolicyTaken:
            self.policy = self._reader.read()

    def _recall(self) -> None:
        """Use the stored SLO, if there is a usable one."""
        try:
            stored = self._slo_file.load()
            if stored is None:
                return
            slo = self._settings.override(*stored)
            floor = self._floor(slo)
        except StateError as error:
            _log.error("%s; %s continues with %s", error, self.name, self.slo)
        except Conflict as error:
            _log.error("%s: %s; continuing with %s", self._slo_file.path, error, self.slo)
        else:
            if slo != stored[0]:
                _log.warning("%s: using %s, not the stored %s", self.name, slo, stored[0])
            self.slo, self.floor = slo, floor

    def _observe(self, sample: Sample | None, at: float) -> Observation:
        if sample is None:
            return Observation(at=at)
        previous = self._samples[-1] if self._samples else None
        observation = observe(previous, sample, self.slo.latency_s)
        if observation.queue_depth is not None:
            self.seen_at = at
        if observation.reset:
            self._samples.clear()
        self._samples.append(sample)
        while self._samples[0].at < sample.at - self.window_s:
            self._samples.popleft()
        return replace(observation, at=at)  # a Prometheus server reports with a delay

    def _configure(self) -> Config | None:
        """The control law's current configuration; None without a latency table."""
        if self.table is None:
            return None
        return Config(
            slo_s=self.slo.latency_s,
            objective=self.slo.objective,
            table=self.table,
            floor=self.floor,
            pin=None if self.pin is None else self.pin.level,
            goal=self.slo.goal,
            blind_after_s=self._settings.blind_after_s,
        )

    def _decide(self, config: Config | None, observation: Observation) -> Decision:
        self._config = config
        if config is None:
            return Decision(
                at=observation.at,
                reason=Reason.STARTING,
                margin=self._state.margin,
                dearest=0 if self.pin is None else self.pin.level,
                cheapest=self.floor if self.pin is None else self.pin.level,
                queue_depth=observation.queue_depth,
            )
        self._state, decision = decide(config, self._state, observation)
        return decision

    def _publish(self, decision: Decision, seen_at: float) -> None:
        """Publish; the queue depth is from ``seen_at``, the lease starts now."""
        if self._writer is None:
            self.policy = self._reader.read()
            return
        try:
            self.policy = publish(
                self._writer,
                replace(decision, at=seen_at),
                epoch=self._epoch,
                slo_s=self.slo.latency_s,
                floor=self.floor,
                lease_s=self._settings.lease_ms / 1000 + decision.at - seen_at,
            )
            trouble = None
        except PolicyError as error:
            trouble = str(error)
        if trouble != self._trouble:
            _log.error("%s: %s", self.name, trouble or "policies are published again")
        self._trouble = trouble

    def _load_table(self) -> LatencyTable | None:
        """The model process's table; None while it is missing, broken or for another ladder."""
        if not self.table_path.exists():
            return None
        try:
            table = LatencyTable.load(self.table_path)
        except LadderError as error:
            _log.warning("%s", error)
            return None
        return table if table.ladder == self.ladder.digest else None

    def _record(self, decision: Decision) -> None:
        self.counts[decision.reason] += 1
        last, self.latest = self.latest, Decided(time=datetime.now(UTC), decision=decision)
        if last is None or _outline(last.decision) != _outline(decision):
            self.changes.append(self.latest)


def _outline(decision: Decision) -> tuple[Reason, int, int]:
    return decision.reason, decision.dearest, decision.cheapest


def open_models(settings: Settings, epoch: int) -> list[Model]:
    """Every model the settings name, or every ladder in the repository.

    Raises :class:`SettingsError`, :class:`LadderError`, :class:`Conflict` or :class:`PolicyError`.
    """
    known = sorted(path.parent.parent.name for path in settings.repository.glob("*/1/ladder.json"))
    names: Sequence[str] = settings.models or known
    if not names:
        raise SettingsError(f"repository={str(settings.repository)!r}: no NAME/1/ladder.json in it")
    models = []
    for name in names:
        if name not in known:
            raise SettingsError(f"models={name!r}: {settings.repository} has {', '.join(known)}")
        ladder = Ladder.load(settings.repository / name / "1" / "ladder.json")
        models.append(Model(name, ladder, settings, epoch))
    return models

"""One model under control: its SLO, what was seen of it, and what was decided for it."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from foveate.errors import LadderError
from foveate.ladder import Ladder, LatencyTable
from foveate.policy import Policy, PolicyWriter, policy_path
from foveate_adapter.actuate import publish
from foveate_adapter.control import Config, Decision, Reason, State, decide
from foveate_adapter.errors import Conflict, SettingsError
from foveate_adapter.observe import Observation, Sample, observe
from foveate_adapter.settings import Settings

__all__ = ["Model", "Slo", "open_models"]

WINDOW_S = 10.0  # what the API and the metrics call "now"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Slo:
    latency_s: float
    objective: float  # share of requests to answer within ``latency_s``
    min_quality: float  # on the ladder's scale, 0..1


class Model:
    """Owns the policy word of one model. Not safe to share between threads."""

    def __init__(self, name: str, ladder: Ladder, slo: Slo, settings: Settings, epoch: int) -> None:
        """Raises :class:`PolicyError` if another adapter has the word, :class:`BadWish` if no
        level reaches ``slo.min_quality``.
        """
        self.name = name
        self.ladder = ladder
        self.pin: int | None = None
        self.set_slo(slo)
        self.table: LatencyTable | None = None
        self.policy: Policy | None = None
        self.decision: Decision | None = None
        self.counts: Counter[Reason] = Counter()
        self.changes: deque[Decision] = deque(maxlen=256)  # decisions with a new reason or range
        self.seen_at = -math.inf  # last time Triton told us the queue depth
        self.table_path = settings.run_dir / f"{name}.latency.json"
        self._lease_s = settings.lease_ms / 1000
        self._epoch = epoch
        self._state = State()
        self._samples: deque[Sample] = deque()
        self._writer = PolicyWriter(policy_path(settings.run_dir, name))

    def set_slo(self, slo: Slo) -> None:
        """Raises :class:`BadWish` if no level is good enough, :class:`Conflict` if not the pin."""
        floor = self.ladder.cheapest_at_least(slo.min_quality)
        if self.pin is not None and self.pin > floor:
            raise Conflict(f"min_quality={slo.min_quality}: {self._poor(self.pin)}; unpin it first")
        self.slo, self.floor = slo, floor

    def set_pin(self, level: str | int | None) -> None:
        """Pin a level by name or index, or unpin with None.

        Raises :class:`BadWish` naming the known levels, :class:`Conflict` under the quality floor.
        """
        pin = None if level is None else self.ladder.index(str(level))
        if pin is not None and pin > self.floor:
            raise Conflict(
                f"level={level!r}: {self._poor(pin)}, min_quality={self.slo.min_quality}"
            )
        self.pin = pin

    def _poor(self, level: int) -> str:
        return f"{self.ladder.levels[level].name} has quality {self.ladder.quality(level):.4f}"

    def step(self, sample: Sample | None, at: float) -> Decision:
        """Decide and publish. ``sample`` is None when the scrape at ``at`` failed."""
        observation = self._observe(sample, at)
        if self.table is None or observation.reset:
            self.table = self._load_table()  # a new model process may have measured anew
        if self.table is None:
            decision = Decision(
                at=at,
                reason=Reason.STARTING,
                margin=self._state.margin,
                dearest=self.pin or 0,
                cheapest=self.floor if self.pin is None else self.pin,
                queue_depth=observation.queue_depth,
            )
        else:
            config = Config(
                slo_s=self.slo.latency_s,
                objective=self.slo.objective,
                table=self.table,
                floor=self.floor,
                pin=self.pin,
            )
            self._state, decision = decide(config, self._state, observation)
        self.policy = publish(
            self._writer,
            decision,
            epoch=self._epoch,
            slo_s=self.slo.latency_s,
            floor=self.floor,
            lease_s=self._lease_s,
        )
        self._record(decision)
        return decision

    def window(self) -> Observation | None:
        """What happened in the last ten seconds; None before the first good scrape."""
        return observe(self._samples[0], self._samples[-1]) if self._samples else None

    def problem(self, at: float) -> str | None:
        """Why this model is not under control at ``at`` (monotonic seconds); None if it is."""
        if self.policy is None:
            return f"{self.name}: no policy published yet"
        if at - self.seen_at > Config.blind_after_s:
            return f"{self.name}: no signal from the metrics endpoint"
        if self.table is None:
            return f"{self.name}: waiting for {self.table_path}"
        return None

    def close(self) -> None:
        """Let go of the policy word; governors go on alone when the lease ends."""
        self._writer.close()

    def _observe(self, sample: Sample | None, at: float) -> Observation:
        if sample is None:
            return Observation(at=at)
        observation = observe(self._samples[-1] if self._samples else None, sample)
        if observation.queue_depth is not None:
            self.seen_at = at
        if observation.reset:
            self._samples.clear()
        self._samples.append(sample)
        while self._samples[0].at < at - WINDOW_S:
            self._samples.popleft()
        return observation

    def _load_table(self) -> LatencyTable | None:
        """The model process's table; None while it is absent, broken or of another ladder."""
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
        last, self.decision = self.decision, decision
        if last is None or _outline(last) != _outline(decision):
            self.changes.append(decision)


def _outline(decision: Decision) -> tuple[Reason, int, int]:
    return decision.reason, decision.dearest, decision.cheapest


def open_models(settings: Settings, epoch: int) -> list[Model]:
    """Every model the settings name, or every ladder in the repository.

    Raises :class:`SettingsError`, :class:`LadderError`, :class:`BadWish` or :class:`PolicyError`.
    """
    known = sorted(path.parent.parent.name for path in settings.repository.glob("*/1/ladder.json"))
    names: Sequence[str] = settings.models or known
    if not names:
        raise SettingsError(f"repository={str(settings.repository)!r}: no NAME/1/ladder.json in it")
    slo = Slo(
        latency_s=settings.slo_ms / 1000,
        objective=settings.objective,
        min_quality=settings.min_quality,
    )
    models = []
    for name in names:
        if name not in known:
            raise SettingsError(f"models={name!r}: {settings.repository} has {', '.join(known)}")
        ladder = Ladder.load(settings.repository / name / "1" / "ladder.json")
        models.append(Model(name, ladder, slo, settings, epoch))
    return models

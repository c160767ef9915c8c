"""The outer control law: a pure function of configuration, state and observation.

The governor inside the model process chooses the level of each batch. This law sets the two things
that a single batch cannot show: how much of the SLO the governor may plan for (``margin``), and
which levels are worth trying at the load of the last second (``dearest``).

* **margin** has a ceiling and spends an error budget. The ceiling is feed-forward: load and
  burstiness predict the latency tail at the cheapest level, and what that leaves of the SLO, up to
  a share of the error budget, may be spent on quality. Every request earns ``1 - objective``, every
  miss costs one. A miss cuts the margin, gently while there is credit, by half in debt. Without
  misses it climbs back, five times as fast when the dense model could carry the load.
* **dearest** is a guard, not a choice: the first level that carries the load *and one dearer*,
  because a governor that mixes two neighbouring levels keeps more quality than the cheaper one
  alone. It moves to cheaper levels at once, and back by one level per hold, at a lower load.

Goals: ``latency`` as above; ``quality`` spends the whole error budget on quality; ``energy`` always
serves at the cheapest level of sufficient quality, which takes the least work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Literal

from foveate.levels.latency_table import LatencyTable
from foveate_adapter.observe import Observation
from foveate_adapter.traffic import Traffic, room_s

__all__ = ["Config", "Decision", "Goal", "Reason", "State", "decide"]

# What to pursue within the SLO: margin for the next burst, least work, or the best levels.
Goal = Literal["latency", "energy", "quality"]


class Reason(StrEnum):
    """The reason for a decision: the first that applies, in this order."""

    STARTING = "starting"  # no latency table from the model process yet
    PINNED = "pinned"  # an operator chose the level
    SAVING = "saving"  # the goal is energy: the cheapest level of sufficient quality
    NO_SIGNAL = "no-signal"  # blind for too long: cautious margin, open range
    REBASELINED = "rebaselined"  # counters started over: nothing changes
    SLO_MISSED = "slo-missed"
    AT_LIMIT = "at-limit"  # not even the cheapest level carries the load
    LOAD_RISING = "load-rising"  # dearest moved to a cheaper level
    QUEUE_GROWING = "queue-growing"  # the same, because of the queue alone
    RECOVERING = "recovering"  # margin or range grows
    HOLD = "hold"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Targets and constants of the control law. Times in seconds."""

    slo_s: float
    objective: float  # share of requests to answer within the SLO
    table: LatencyTable
    floor: int  # cheapest level of sufficient quality
    pin: int | None = None
    goal: Goal = "latency"

    start_margin: float = 0.5
    max_margin: float = 0.7  # the rest is for what no load model predicts
    free_margin: float = 0.25  # costs almost nothing, however bursty the load
    min_margin: float = 0.1
    budget_share: float = 0.3  # of the error budget that bursts may cost; all of it for ``quality``
    blind_margin: float = 0.25
    blind_after_s: float = 2.0

    budget_memory_s: float = 30.0
    rise_per_s: float = 0.05
    calm_rise_per_s: float = 0.25
    settle_s: float = 1.0  # from a cut until the margin may rise again

    load_memory_s: float = 1.0
    images_weight: float = 0.1  # weight of one observation
    tighten_at: float = 1.0  # share of capacity and of the SLO above which a level is given up
    release_at: float = 0.85  # share below which it is allowed again; any closer, noise moves it
    hold_s: float = 0.3  # between two steps to dearer levels

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Levels worth serving on this device and good enough; 0 is always the first."""
        return tuple(level for level in self.table.useful() if level <= self.floor)

    @property
    def missable(self) -> float:
        """Share of the requests that may miss the SLO for the sake of quality."""
        return (1.0 - self.objective) * (1.0 if self.goal == "quality" else self.budget_share)


@dataclass(frozen=True, kw_only=True)
class State:
    """What the control law remembers. The default state knows nothing."""

    margin: float = Config.start_margin
    dearest: int = 0
    credit: float = 0.0  # misses the budget still allows; negative: debt
    load: float | None = None  # requests per second, smoothed
    traffic: Traffic = field(default_factory=Traffic)
    images: float = 1.0  # in a request, smoothed
    at: float | None = None  # time of the last decision
    seen_at: float | None = None  # of the last observation with a signal
    cut_at: float = -math.inf  # of the last cut of the margin
    moved_at: float = -math.inf  # of the last move of ``dearest``


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the governor may do until the next decision, and why."""

    at: float  # seconds, monotonic
    reason: Reason
    margin: float  # share of the SLO to plan for
    dearest: int
    cheapest: int
    load: float | None = None  # requests per second, smoothed
    demand: float | None = None  # that load as a share of level 0's capacity
    queue_depth: int | None = None
    credit: float = 0.0


def decide(config: Config, state: State, observation: Observation) -> tuple[State, Decision]:
    """The next decision. Call it with every observation, in order of time."""
    # The SLO, and with it the range, may have changed since the last call.
    dearest = max(level for level in config.levels if level <= state.dearest)
    before = replace(state, dearest=dearest)
    state = _estimate(config, before, observation)
    only = config.levels[-1] if config.goal == "energy" else None
    if config.pin is not None:
        reason, only = Reason.PINNED, config.pin
    elif only is not None:
        reason = Reason.SAVING
    elif state.seen_at is not None and observation.at - state.seen_at > config.blind_after_s:
        margin = min(state.margin, config.blind_margin)
        state = replace(state, margin=margin, dearest=0, load=None, credit=0.0)
        reason = Reason.NO_SIGNAL
    elif observation.reset:
        reason = Reason.REBASELINED
    else:
        state, reason = _steer(config, before, state, observation)
    return state, Decision(
        at=observation.at,
        reason=reason,
        margin=state.margin,
        dearest=state.dearest if only is None else only,
        cheapest=config.levels[-1] if only is None else only,
        load=state.load,
        demand=_demand(config, state, observation),
        queue_depth=observation.queue_depth,
        credit=state.credit,
    )


def _estimate(config: Config, state: State, observation: Observation) -> State:
    """Update times, load and credit; unknown values leave them unchanged."""
    load, traffic, images = state.load, state.traffic, state.images
    if observation.images is not None:
        images += config.images_weight * (max(1.0, observation.images) - images)
    if observation.arrivals is not None and observation.interval_s is not None:
        traffic = traffic.seen(observation.arrivals, observation.interval_s)
        rate = observation.arrivals / observation.interval_s
        kept = math.exp(-observation.interval_s / config.load_memory_s)
        load = max(0.0, rate if load is None else rate + kept * (load - rate))
    bad = _bad(observation)
    asked = sum((observation.answers or {}).values()) + (observation.rejected or 0.0)
    kept = math.exp(-_elapsed(state, observation) / config.budget_memory_s)
    blind = observation.queue_depth is None and state.seen_at is not None
    return replace(
        state,
        at=observation.at,
        seen_at=state.seen_at if blind else observation.at,
        load=load,
        traffic=traffic,
        images=images,
        credit=state.credit * kept + (1.0 - config.objective) * asked - bad,
    )


def _steer(
    config: Config, before: State, state: State, observation: Observation
) -> tuple[State, Reason]:
    """Move margin and range, given up-to-date estimates."""
    tight = _first_fit(config, state, observation, config.tighten_at)
    loose = _first_fit(config, state, observation, config.release_at)
    rate = config.calm_rise_per_s if loose == 0 else config.rise_per_s
    state = _move_margin(config, state, observation, rise=rate * _elapsed(before, observation))
    least, free = _one_dearer(config, tight), _one_dearer(config, loose)
    state = _move_range(config, state, at=observation.at, least=least, free=free)
    if _bad(observation):
        reason = Reason.SLO_MISSED
    elif tight is None:
        reason = Reason.AT_LIMIT
    elif state.dearest > before.dearest:
        without_queue = replace(observation, queue_depth=0)
        by_load = _first_fit(config, state, without_queue, config.tighten_at) == tight
        reason = Reason.LOAD_RISING if by_load else Reason.QUEUE_GROWING
    elif state.dearest < before.dearest or state.margin > before.margin:
        reason = Reason.RECOVERING
    else:
        reason = Reason.HOLD
    return state, reason


def _move_margin(config: Config, state: State, observation: Observation, rise: float) -> State:
    since_cut = observation.at - state.cut_at
    if _bad(observation):
        if since_cut < config.slo_s:
            return state  # these answers come from batches planned before the cut
        margin = state.margin * (0.9 if state.credit >= 0 else 0.5)
        return replace(state, margin=max(config.min_margin, margin), cut_at=observation.at)
    if observation.answers is None or since_cut < config.settle_s:
        return state
    return replace(state, margin=min(_ceiling(config, state, observation), state.margin + rise))


def _ceiling(config: Config, state: State, observation: Observation) -> float:
    """The margin that load and burstiness allow."""
    batch = config.table.batches[-1]
    service_s = state.images * _cycle_s(config, observation, config.levels[-1], batch) / batch
    room = room_s(state.traffic, service_s, config.slo_s, config.missable)
    return min(config.max_margin, config.free_margin + room / config.slo_s)


def _cycle_s(config: Config, observation: Observation, level: int, images: int) -> float:
    """Time from one batch to the next while requests wait, as the governor measures it."""
    seconds = config.table.batch_seconds(level, images) * (observation.correction or 1.0)
    return seconds + (observation.gap_s or 0.0)


def _move_range(config: Config, state: State, *, at: float, least: int, free: int) -> State:
    """``dearest`` down to ``least`` at once; towards ``free`` one level per hold."""
    if state.dearest < least:
        return replace(state, dearest=least, moved_at=at)
    if state.dearest > free and at - state.moved_at >= config.hold_s:
        return replace(state, dearest=_one_dearer(config, state.dearest), moved_at=at)
    return state


def _first_fit(config: Config, state: State, observation: Observation, share: float) -> int | None:
    """The dearest level that carries load and queue with ``share`` of the capacity and the SLO.

    Stability: ``load <= share * capacity``. Sojourn: a request arriving now waits for the full
    batches before it and is answered with the rest, within ``share * SLO``.
    """
    batch = config.table.batches[-1]
    full, rest = divmod(round(state.images * (observation.queue_depth or 0)), batch)
    for level in config.levels:
        one, last = (_cycle_s(config, observation, level, n) for n in (batch, rest + 1))
        stable = state.images * (state.load or 0.0) * one <= share * batch
        if stable and full * one + last <= share * config.slo_s:
            return level
    return None


def _demand(config: Config, state: State, observation: Observation) -> float | None:
    """Seconds of work at level 0 that arrive per second; above 1, quality must be spent."""
    if state.load is None:
        return None
    batch = config.table.batches[-1]
    return state.images * state.load * _cycle_s(config, observation, 0, batch) / batch


def _one_dearer(config: Config, level: int | None) -> int:
    """The allowed level before ``level``; None stands for the cheapest, when no level fits."""
    levels = config.levels
    return levels[max(0, levels.index(levels[-1] if level is None else level) - 1)]


def _bad(observation: Observation) -> float:
    """Misses the margin can prevent, so not those of exact requests over their share."""
    return (observation.missed or 0.0) + (observation.rejected or 0.0)


def _elapsed(state: State, observation: Observation) -> float:
    return 0.0 if state.at is None else observation.at - state.at

"""The inner loop: which level does this batch run at?

Pure functions: ``decide`` before a batch, ``settle`` after it. No clock, no I/O, no randomness; the
time is a field of the observation. The rule (``docs/design.md``): the most accurate allowed level k
with

    s_k(b) + floor(Q/B) * s_k(B) + s_k(Q mod B) <= margin * SLO - age

for batch time s, batch size b, maximum batch B, queue Q behind the batch and the age of the oldest
request: this batch and all that waits, served at k, end in time. Level 0 must fit in a share of
that, so that pressure is met early. If no level qualifies, the cheapest allowed one. Ages need no
timestamps: the queue is first in first out, so with D(t) requests taken and Q(t) waiting, arrivals
are A = D + Q and the head arrived at A^-1(D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from foveate.ladder import LatencyTable
from foveate.policy import Policy

__all__ = [
    "Config",
    "Decision",
    "Observation",
    "Reason",
    "Rejection",
    "State",
    "Wish",
    "decide",
    "settle",
]

_MS = 1_000_000


class Reason(StrEnum):
    """Why a batch runs at its level."""

    CALM = "calm"  # the dearest allowed level fits
    PRESSURE = "pressure"  # a cheaper one was needed to fit
    OVERLOAD = "overload"  # nothing fits: the cheapest
    REJECTED = "rejected"  # a rejection not long ago: the cheapest, whatever the queue says
    PINNED = "pinned"  # the policy allows one level only


class Rejection(StrEnum):
    """Why a request is answered UNAVAILABLE."""

    DEADLINE = "deadline"  # it cannot be answered in time any more
    PIN_CAP = "pin-cap"  # dear wishes have used their share of the time


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is known at start."""

    latency: LatencyTable
    max_batch: int
    slo_ns: int  # until a policy says otherwise
    margin: float = 0.5  # without a live policy; aiming at the edge leaves nothing for a clump
    calm_share: float = 0.3  # of the margin, in which level 0 must fit: pressure is met early
    admission: bool = True
    admit_share: float = 0.9  # of a deadline: ages do not see the way to the queue and back
    pin_cap: float = 0.1  # share of the time for wishes dearer than the batch's level; 1 = no cap
    rejection_hold_ns: int = 500 * _MS
    queue_stale_ns: int = 200 * _MS  # older queue depths say nothing: four missed scrapes

    @property
    def levels(self) -> int:
        return len(self.latency.seconds)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one request asks for."""

    pin: int | None = None  # exactly this level
    floor: int | None = None  # no cheaper level than this index
    deadline_ns: int | None = None  # instead of the SLO
    images: int = 1


@dataclass(frozen=True, kw_only=True)
class State:
    """What is remembered between batches."""

    taken: int = 0  # D: requests taken from the queue so far
    history: tuple[tuple[int, int], ...] = ()  # (time, D before the batch), newest last
    arrivals: tuple[tuple[int, int], ...] = ()  # (time, A = D + Q), newest last
    full_batches: int = 0  # consecutive
    emptied_at_ns: int | None = None  # when a batch last took all that waited
    largest: int = 1  # images of the largest request so far
    correction: float = 1.0  # measured over predicted batch time
    rejected_at_ns: int | None = None
    shedding: bool = False  # the last batch had a request that was too late
    pin_credit_s: float = 0.0  # busy seconds dear wishes may still use
    last_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is seen when a batch arrives."""

    now_ns: int
    wishes: tuple[Wish, ...]  # one per request, oldest first
    policy: Policy | None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A level or a rejection for every request of the batch."""

    level: int  # of requests without a wish
    reason: Reason
    levels: tuple[int | Rejection, ...]  # one per request
    ages_ns: tuple[int, ...]  # one per request, estimated
    slo_ns: int
    predicted_s: float  # batch time of what will run, corrected
    retry_after_ms: int | None = None  # advice to those rejected; None: nobody was


_HISTORY = 64
_CORRECTION_BOUNDS = (0.5, 3.0)
_CORRECTION_WEIGHT = 0.1


def decide(config: Config, state: State, observation: Observation) -> tuple[State, Decision]:
    """Choose a level for every request of a batch, or reject it. Pure."""
    now, policy, wishes = observation.now_ns, observation.policy, observation.wishes
    live = policy is not None and policy.live(now)
    slo_ns = policy.slo_ns if policy else config.slo_ns
    margin = policy.margin if policy and live else config.margin
    allowed = _allowed(config, policy, live)

    state = _observe_queue(config, state, policy, now)
    ages = _ages(config, state, len(wishes), now)
    limits = [slo_ns if wish.deadline_ns is None else wish.deadline_ns for wish in wishes]
    # A deadline shorter than the SLO is its owner's affair: it does not make the others cheaper.
    due = [max(limit, slo_ns) for limit in limits]
    state, alive = _drop_dead(config, state, allowed, wishes, ages, limits, due, now)
    level, reason = _choose(config, state, allowed, wishes, ages, due, slo_ns, margin, now)

    levels: list[int | Rejection] = []
    credit = _accrued(config, state, now)
    images = sum(wish.images for wish in wishes)
    for wish, age, limit, lives in zip(wishes, ages, limits, alive, strict=True):
        urgent = age / 1e9 + _batch_s(config, state, level, images) > limit / 1e9
        wanted = _wanted(config, wish, allowed[-1] if urgent else level)
        cost = wish.images * _batch_s(config, state, wanted, config.max_batch) / config.max_batch
        if not lives:
            levels.append(Rejection.DEADLINE)
        elif wanted >= level or config.pin_cap == 1:
            levels.append(wanted)
        elif credit > 0:  # into debt by one request at most, however dear
            credit -= cost
            levels.append(wanted)
        else:
            levels.append(Rejection.PIN_CAP)
    decision = Decision(
        level=level,
        reason=reason,
        levels=tuple(levels),
        ages_ns=tuple(ages),
        slo_ns=slo_ns,
        predicted_s=_predicted(config, state, wishes, levels),
        retry_after_ms=_retry_after_ms(config, state, allowed[-1], wishes, levels, credit, now),
    )
    largest = max(state.largest, *(wish.images for wish in wishes))
    emptied = images <= config.max_batch - largest  # one more request would have fitted
    state = replace(
        state,
        taken=state.taken + len(wishes),
        history=(*state.history, (now, state.taken))[-_HISTORY:],
        full_batches=state.full_batches + 1 if images >= config.max_batch else 0,
        emptied_at_ns=now if emptied else state.emptied_at_ns,
        largest=largest,
        pin_credit_s=credit,
        last_ns=now,
    )
    return state, decision


def _drop_dead(
    config: Config,
    state: State,
    allowed: list[int],
    wishes: tuple[Wish, ...],
    ages: list[int],
    limits: list[int],
    due: list[int],
    now: int,
) -> tuple[State, list[bool]]:
    """Which requests can still be answered in time at the cheapest level they accept.

    The youngest first: a request is answered with all the younger ones of its batch, and of the
    oldest, who are nearest to their end, as many are dropped as make the batch too long. At the
    edge every batch would be half dead and run half full; so the next one whose oldest is late is
    dropped whole, until one is all alive.
    """
    alive, overloaded, images = [], False, 0
    share = config.admit_share
    for wish, age, limit, end in reversed([*zip(wishes, ages, limits, due, strict=True)]):
        wanted, together = _wanted(config, wish, allowed[-1]), images + wish.images
        own_ns, least_ns = (
            _batch_s(config, state, level, together) * 1e9 for level in (wanted, allowed[-1])
        )
        alive.append(not config.admission or age + own_ns <= share * limit)
        if alive[-1]:
            images = together
        # A wish that is too dear to be in time says nothing about the load.
        overloaded = overloaded or not (alive[-1] or age + least_ns <= share * end)
    alive.reverse()
    if overloaded and state.shedding and not alive[0]:
        alive = [False] * len(alive)
    rejected_at = now if overloaded else state.rejected_at_ns
    return replace(state, rejected_at_ns=rejected_at, shedding=overloaded), alive


def _choose(
    config: Config,
    state: State,
    allowed: list[int],
    wishes: tuple[Wish, ...],
    ages: list[int],
    due: list[int],
    slo_ns: int,
    margin: float,
    now: int,
) -> tuple[int, Reason]:
    """The level of requests without a wish."""
    if len(allowed) == 1:
        return allowed[0], Reason.PINNED
    rejected_at = state.rejected_at_ns
    if rejected_at is not None and now - rejected_at < config.rejection_hold_ns:
        return allowed[-1], Reason.REJECTED
    images = sum(wish.images for wish in wishes)
    queue = _queue(config, state, len(wishes), images, now)
    # Who waits behind has the SLO, whatever the deadlines here, and is younger than the last here.
    bounds = [*zip(due, ages, strict=True), *([(slo_ns, ages[-1])] if queue else [])]
    for level in allowed:
        share = margin * (config.calm_share if level == 0 else 1.0)
        slack_ns = min(share * end - age for end, age in bounds)
        if _serving_s(config, state, level, images, queue) <= slack_ns / 1e9:
            return level, Reason.CALM if level == allowed[0] else Reason.PRESSURE
    return allowed[-1], Reason.OVERLOAD


def _batch_s(config: Config, state: State, level: int, batch: int) -> float:
    return config.latency.batch_seconds(level, batch) * state.correction


def _serving_s(config: Config, state: State, level: int, images: int, queue: int) -> float:
    """Time of this batch and of all that waits behind it, at one level."""
    full, rest = divmod(queue, config.max_batch)
    seconds = _batch_s(config, state, level, images) if images else 0.0
    if full:
        seconds += full * _batch_s(config, state, level, config.max_batch)
    return seconds + _batch_s(config, state, level, rest) if rest else seconds


def _retry_after_ms(
    config: Config,
    state: State,
    cheapest: int,
    wishes: tuple[Wish, ...],
    levels: list[int | Rejection],
    credit: float,
    now: int,
) -> int | None:
    """When the queue of now is gone, served at the cheapest level, and dear wishes have credit."""
    rejected = [isinstance(level, Rejection) for level in levels]
    if not any(rejected):
        return None
    images = sum(wish.images for wish in wishes)
    runs = sum(wish.images for wish, out in zip(wishes, rejected, strict=True) if not out)
    queue = _queue(config, state, len(wishes), images, now)
    seconds = _serving_s(config, state, cheapest, runs, queue)
    if Rejection.PIN_CAP in levels:
        seconds = max(seconds, -credit / config.pin_cap)
    return max(1, math.ceil(1e3 * seconds))


def _accrued(config: Config, state: State, now: int) -> float:
    """Busy seconds dear wishes may use by now; at most what one second accrues."""
    since_s = (now - (state.last_ns or now)) / 1e9
    return min(config.pin_cap, state.pin_credit_s + config.pin_cap * since_s)


def settle(state: State, decision: Decision, seconds: float) -> State:
    """Learn from the measured time of the batch just answered. Pure.

    A batch of rejections teaches nothing; the correction then drifts back to 1, or a slow moment
    could reject everything for ever.
    """
    low, high = _CORRECTION_BOUNDS
    ran = decision.predicted_s > 0
    ratio = state.correction * seconds / decision.predicted_s if ran else 1.0
    blended = state.correction + _CORRECTION_WEIGHT * (
        min(max(ratio, low), high) - state.correction
    )
    return replace(state, correction=blended)


def _allowed(config: Config, policy: Policy | None, live: bool) -> list[int]:
    """Level indices that may be used, dearest first; never empty."""
    useful = config.latency.useful()
    if policy is None:
        return list(useful)
    floor = min(policy.quality_floor_level, config.levels - 1)
    if live and policy.dearest == policy.cheapest:  # a pin may name any level
        return [min(max(policy.dearest, 0), config.levels - 1)]
    dearest, cheapest = (policy.dearest, policy.cheapest) if live else (0, floor)
    allowed = [k for k in useful if dearest <= k <= min(cheapest, floor)]
    return allowed or [max((k for k in useful if k <= min(cheapest, floor)), default=0)]


def _wanted(config: Config, wish: Wish, level: int) -> int:
    """The level a wish gets in a batch that runs at ``level``."""
    if wish.pin is not None:
        return wish.pin
    if wish.floor is None or level <= wish.floor:
        return level
    return max(k for k in config.latency.useful() if k <= wish.floor)


def _predicted(
    config: Config, state: State, wishes: tuple[Wish, ...], levels: list[int | Rejection]
) -> float:
    """Time of what will run."""
    images: dict[int, int] = {}
    for wish, level in zip(wishes, levels, strict=True):
        if not isinstance(level, Rejection):
            images[level] = images.get(level, 0) + wish.images
    return config.latency.mixed_seconds(images) * state.correction


def _observe_queue(config: Config, state: State, policy: Policy | None, now: int) -> State:
    """Add a point to the curve of arrivals if the policy brings a new queue depth."""
    if policy is None or policy.queue_depth < 0:
        return state
    at = policy.queue_depth_at_ns
    known = state.arrivals[-1][0] if state.arrivals else 0
    if not (known < at <= now and now - at <= config.queue_stale_ns):
        return state
    later = [taken for time, taken in state.history if time > at]
    arrived = (later[0] if later else state.taken) + policy.queue_depth
    # What has arrived by now bounds what had arrived before: a wrong point lasts until the next.
    earlier = tuple((time, min(count, arrived)) for time, count in state.arrivals)
    return replace(state, arrivals=(*earlier, (at, arrived))[-_HISTORY:])


def _rate(state: State) -> float:
    """Arrivals per nanosecond over the last points of the curve."""
    (t0, a0), (t1, a1) = state.arrivals[max(-len(state.arrivals), -8)], state.arrivals[-1]
    return (a1 - a0) / (t1 - t0) if t1 > t0 else 0.0


def _queue(config: Config, state: State, requests: int, images: int, now: int) -> int:
    """Images still waiting behind this batch, if requests there are as large as here."""
    if not state.arrivals or now - state.arrivals[-1][0] > config.queue_stale_ns:
        # Blind: every full batch in a row is evidence of one more behind it.
        return config.max_batch * state.full_batches if images >= config.max_batch else 0
    at, arrived = state.arrivals[-1]
    expected = arrived + _rate(state) * (now - at)
    return max(0, int(expected) - state.taken - requests) * images // requests


def _ages(config: Config, state: State, batch: int, now: int) -> list[int]:
    """Estimated time since arrival of the next ``batch`` requests, oldest first.

    Never more than the time since a batch last emptied the queue: what is here arrived later.
    Unknown (0) without a recent curve: an old rate says nothing about the requests of now.
    """
    if len(state.arrivals) < 2 or now - state.arrivals[-1][0] > config.queue_stale_ns:
        return [0] * batch
    most = now if state.emptied_at_ns is None else now - state.emptied_at_ns
    return [min(most, max(0, now - _arrival(state, state.taken + i))) for i in range(batch)]


def _arrival(state: State, number: int) -> int:
    """When the request of this number (0-based) arrived: when the curve reaches ``number + 1``."""
    curve = state.arrivals
    at, arrived = curve[-1]
    if number >= arrived:  # since the last point
        rate = _rate(state)
        return at + int((number + 1 - arrived) / rate) if rate > 0 else at
    for (t0, a0), (t1, a1) in zip(reversed(curve[:-1]), reversed(curve[1:]), strict=True):
        if a0 <= number < a1:
            return t0 + (t1 - t0) * (number + 1 - a0) // (a1 - a0)
    return curve[0][0]

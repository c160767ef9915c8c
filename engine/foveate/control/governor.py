"""The inner loop: which level does this batch run at?

Pure functions: ``decide`` before a batch, ``settle`` after it. No clock, no I/O, no randomness; the
time is a field of the observation. Two rules (``docs/design.md``):

* **Calm**: level 0, as long as it could have carried all recent arrivals.
* **Pressure**: the dearest level k with ``age + W <= share_k * margin * SLO``, where W is the time
  to answer this batch and the whole queue at the cheapest level. The less of the SLO is left, the
  more a second costs; ``share_k`` is the quality that a second buys at level k, relative to what it
  buys at the step above the cheapest. If no level qualifies, the cheapest.

Either way, this batch at its level plus the queue at the cheapest must fit ``margin * SLO``.

Ages and queue come from :mod:`foveate.control.queue_ages`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import NamedTuple

from foveate.control.policy import Policy
from foveate.control.queue_ages import Curve, is_full
from foveate.levels.latency_table import LatencyTable

__all__ = [
    "PLAIN",
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

    CALM = "calm"  # the dearest allowed level suffices
    PRESSURE = "pressure"  # a cheaper level was needed
    OVERLOAD = "overload"  # even the cheapest cannot answer the whole queue in time
    REJECTED = "rejected"  # a recent rejection: the cheapest level, whatever the queue says
    PINNED = "pinned"  # the policy allows only one level


class Rejection(StrEnum):
    """Why a request is answered UNAVAILABLE."""

    DEADLINE = "deadline"  # it can no longer be answered in time
    PIN_CAP = "pin-cap"  # requests for dearer levels have used their share of the time


@dataclass(frozen=True, kw_only=True, eq=False)  # compared by identity, to cache derived values
class Config:
    """What is known at start."""

    latency: LatencyTable
    quality: tuple[float, ...]  # of every level, descending
    max_batch: int
    slo_ns: int  # until a policy sets another one
    # Margin without a live policy, and upper limit without a recent queue depth: a larger one would
    # leave no room for a burst.
    margin: float = 0.5
    # Calm ends when level 0, with a tenth to spare, would lag by this share of margin * SLO. A
    # smaller share would react sooner to bursts, but also to noise.
    calm_share: float = 1.0
    admission: bool = True
    admit_share: float = 0.9  # of a deadline: ages exclude the way to the queue and back
    # In a lasting overload some requests must be rejected anyway, better early than late; but not
    # earlier than would happen below capacity, or the overload would never end.
    shed_share: float = 0.45
    shed_after_ns: int = 600 * _MS
    pin_cap: float = 0.1  # share of time for wishes dearer than the batch's level; 1 = no cap
    rejection_hold_ns: int = 500 * _MS  # how long a rejection counts as a sign of overload

    @property
    def levels(self) -> int:
        return len(self.latency.seconds)

    @cached_property
    def useful(self) -> tuple[int, ...]:
        """Levels worth serving on this device, dearest first."""
        return self.latency.useful(self.max_batch)

    @cached_property
    def seconds(self) -> tuple[tuple[float, ...], ...]:
        """Time of a batch: [level][images], 0 to ``max_batch`` images."""
        return tuple(
            (0.0, *(self.latency.batch_seconds(k, n) for n in range(1, self.max_batch + 1)))
            for k in range(self.levels)
        )


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What one request asks for."""

    pin: int | None = None  # exactly this level
    floor: int | None = None  # no level cheaper than this index
    deadline_ns: int | None = None  # instead of the SLO
    images: int = 1


PLAIN = Wish()  # nothing special, as for almost every request


class State(NamedTuple):
    """What the governor remembers between batches."""

    curve: Curve = Curve()
    dense_backlog: float = 0.0  # images waiting if level 0 had answered all, with a tenth to spare
    correction: float = 1.0  # measured over predicted batch time
    gap_s: float = 0.0  # from the end of a batch to the next one while requests wait
    left_queue: bool = False  # requests waited behind the last batch
    seconds: float = 0.0  # duration of the last batch
    rejected_at_ns: int | None = None  # last time the load made a request too late
    shedding_since_ns: int | None = None  # first such time without a pause longer than the hold
    pin_credit_s: float = 0.0  # compute seconds that dear wishes may still use
    last_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is known when a batch arrives."""

    now_ns: int
    wishes: tuple[Wish, ...]  # one per request, oldest first
    policy: Policy | None
    # When the batches before are expected to be done, if any is under way: then this one begins.
    begins_ns: int | None = None


class Decision(NamedTuple):
    """A level or a rejection for every request of the batch."""

    level: int  # of requests without a wish
    reason: Reason
    levels: tuple[int | Rejection, ...]  # one per request
    ages_ns: tuple[int, ...]  # one per request, estimated
    slo_ns: int
    predicted_s: float  # corrected time of the accepted requests
    retry_after_ms: int | None = None  # hint for rejected requests; None if there are none


class _Batch(NamedTuple):
    """The requests a decision is about."""

    wishes: tuple[Wish, ...]
    plain: bool  # no wishes: what holds for the oldest request holds for all
    ages_ns: list[int]
    limits_ns: list[int]  # deadline of each, counted from its arrival
    images: int
    full: bool  # no room for another request of this size
    queue: int  # images waiting behind
    slo_ns: int
    margin: float
    allowed: tuple[int, ...]  # levels, dearest first
    correction: float
    gap_s: float


_SPARE = 1.1  # level 0 must carry the load with a tenth to spare
_BACKLOG_CAP_S = 1.0  # bounds the time to return to level 0
_CORRECTION_BOUNDS = (0.5, 3.0)
_CORRECTION_WEIGHT = 0.1
_DRIFT_WEIGHT = 0.02
_GAP_WEIGHT = 0.1
_MAX_GAP_S = 0.02
_CARRIED_CYCLES = 3  # a request waits for one batch and runs in the next, or in the one after


def decide(config: Config, state: State, observation: Observation) -> tuple[State, Decision]:
    """Choose a level for every request of a batch, or reject it. Pure."""
    now, policy, wishes = observation.now_ns, observation.policy, observation.wishes
    alone = observation.begins_ns is None
    begin = max(now, observation.begins_ns or now)  # requests are as old as then
    live = policy is not None and policy.live(now)
    slo_ns = policy.slo_ns if policy else config.slo_ns
    curve = state.curve
    if policy is not None:
        curve = curve.sampled(policy.queue_depth, policy.queue_depth_at_ns, now)
    margin = policy.margin if policy and live else config.margin
    if not curve.fresh(now):
        margin = min(margin, config.margin)
    plain = wishes.count(PLAIN) == len(wishes)
    images = len(wishes) if plain else sum([wish.images for wish in wishes])
    batch = _Batch(
        wishes=wishes,
        plain=plain,
        ages_ns=curve.ages(len(wishes), begin),
        limits_ns=[slo_ns] * len(wishes)
        if plain
        else [slo_ns if w.deadline_ns is None else w.deadline_ns for w in wishes],
        images=images,
        full=is_full(len(wishes), images, config.max_batch),
        queue=curve.waiting(len(wishes), images, config.max_batch, begin),
        slo_ns=slo_ns,
        margin=margin,
        allowed=_allowed(config, policy, live),
        correction=state.correction,
        gap_s=_gap_s(state, now) if alone else state.gap_s,
    )
    since_ns = _shedding_since_ns(config, state, now)
    alive, overloaded = _alive(config, batch, since_ns, now)
    rejected_at_ns = now if overloaded else state.rejected_at_ns
    if overloaded and since_ns is None:
        since_ns = now
    backlog = _dense_backlog(config, state, batch, now)
    if len(batch.allowed) == 1:
        level, reason = batch.allowed[0], Reason.PINNED
    elif since_ns is not None:
        level, reason = batch.allowed[-1], Reason.REJECTED
    else:
        level, reason = _choose(config, batch, backlog)
    levels, credit_s = _grant(config, state, batch, alive, level, now)
    decision = Decision(
        level=level,
        reason=reason,
        levels=tuple(levels),
        ages_ns=tuple(batch.ages_ns),
        slo_ns=slo_ns,
        predicted_s=state.correction * _table_s(config, batch, levels),
        retry_after_ms=_retry_after_ms(config, batch, levels, credit_s),
    )
    largest = 1 if plain else max([wish.images for wish in wishes])
    return State(
        curve=curve.took(now, len(wishes), images, largest, config.max_batch),
        dense_backlog=backlog,
        correction=state.correction,
        gap_s=batch.gap_s,
        # What passes between batches is hidden where one waits behind another.
        left_queue=alone and batch.queue > 0 and batch.full and any(alive),
        rejected_at_ns=rejected_at_ns,
        shedding_since_ns=since_ns,
        pin_credit_s=credit_s,
        last_ns=now,
    ), decision


def settle(state: State, decision: Decision, seconds: float) -> State:
    """Learn from the measured time of the batch just answered. Pure.

    A batch of rejections teaches nothing, so the correction drifts back to 1; otherwise one slow
    moment could reject everything for ever.
    """
    ratio, weight = 1.0, _DRIFT_WEIGHT
    if decision.predicted_s > 0:
        low, high = _CORRECTION_BOUNDS
        ratio = min(max(state.correction * seconds / decision.predicted_s, low), high)
        weight = _CORRECTION_WEIGHT
    blended = state.correction + weight * (ratio - state.correction)
    return state._replace(correction=blended, seconds=seconds)


def _gap_s(state: State, now: int) -> float:
    """Time between batches, updated if the last batch allows it."""
    if not state.left_queue or state.last_ns is None:
        return state.gap_s
    sample = (now - state.last_ns) / 1e9 - state.seconds
    if sample > _MAX_GAP_S:  # the queue was shorter than it seemed
        return state.gap_s
    return state.gap_s + _GAP_WEIGHT * (sample - state.gap_s)


def _choose(config: Config, batch: _Batch, backlog: float) -> tuple[int, Reason]:
    """The level of requests without a wish."""
    allowed, margin, oldest = batch.allowed, batch.margin, _oldest(batch)
    shares = _shares(config, allowed)
    behind_s = (backlog + batch.queue) * _dense_s(config, batch)
    calm = allowed[0] == 0 and behind_s <= config.calm_share * margin * batch.slo_ns / 1e9
    work_ns = 1e9 * _work_s(config, batch, batch.images)
    others_ns = work_ns - 1e9 * batch.correction * config.seconds[allowed[-1]][batch.images]
    most_ns = min([margin * end - age for end, age in oldest]) - others_ns
    for level, share in zip(allowed, shares, strict=False):
        if 1e9 * batch.correction * config.seconds[level][batch.images] > most_ns:
            continue
        worth = all([age + work_ns <= share * margin * end for end, age in oldest])  # noqa: C419
        if worth or (calm and level == 0):
            return level, Reason.CALM if level == allowed[0] else Reason.PRESSURE
    in_time = all(age + work_ns <= end for end, age in oldest)
    return allowed[-1], Reason.PRESSURE if in_time else Reason.OVERLOAD


def _oldest(batch: _Batch) -> Collection[tuple[int, int]]:
    """Every deadline that matters, and the age of the oldest request with it."""
    if batch.plain:
        return ((batch.slo_ns, batch.ages_ns[0]),)
    oldest: dict[int, int] = {}
    if batch.queue:
        # Requests still queued have the SLO as deadline, and are younger than the last one here.
        oldest[batch.slo_ns] = batch.ages_ns[-1]
    for limit, age in zip(batch.limits_ns, batch.ages_ns, strict=True):
        # A deadline shorter than the SLO must not lower the level of other requests.
        end = limit if limit > batch.slo_ns else batch.slo_ns
        if age > oldest.get(end, -1):
            oldest[end] = age
    return oldest.items()


def _shedding_since_ns(config: Config, state: State, now: int) -> int | None:
    """When the current overload began; None if there is none."""
    last = state.rejected_at_ns
    ended = last is None or now - last >= config.rejection_hold_ns
    return None if ended else state.shedding_since_ns


def _alive(
    config: Config, batch: _Batch, since_ns: int | None, now: int
) -> tuple[list[bool], bool]:
    """Which requests can still be in time at the cheapest level they accept; and whether any of the
    others are late because of the load.

    Goes from the youngest to the oldest, adding requests while all stay in time: the oldest ones,
    closest to their deadline, are dropped if they make the batch too long. At the edge every batch
    would lose half of its requests and run half full; so in an overload a full batch whose oldest
    request is late is dropped as a whole. ``since_ns`` is when the overload began.
    """
    count = len(batch.wishes)
    if not config.admission:
        return [True] * count, False
    lasting = since_ns is not None and now - since_ns >= config.shed_after_ns
    cheapest, scale = batch.allowed[-1], 1e9 * batch.correction
    carried_ns = _CARRIED_CYCLES * (scale * config.seconds[cheapest][-1] + 1e9 * batch.gap_s)

    def until_ns(end: int) -> float:
        """Age by which a request with this deadline must be answered."""
        latest = config.admit_share * end
        return min(latest, max(config.shed_share * end, carried_ns)) if lasting else latest

    usual_ns = until_ns(batch.slo_ns)
    # Measured times need not increase: where nearly equal, fewer images may take longer.
    longest_ns = scale * max(config.seconds[cheapest][: batch.images + 1])
    if batch.plain and batch.ages_ns[0] + longest_ns <= usual_ns:
        return [True] * count, False
    alive, overloaded, late, images = [True] * count, False, False, 0
    for i in range(count - 1, -1, -1):
        wish, age, limit = batch.wishes[i], batch.ages_ns[i], batch.limits_ns[i]
        together = images + wish.images
        wanted = _wanted(config, wish, cheapest)
        until = usual_ns if limit == batch.slo_ns else until_ns(limit)
        if age + scale * config.seconds[wanted][together] <= until:
            images, late = together, False
            continue
        alive[i] = False
        # A wish that is too dear or a deadline that is too short says nothing about the load.
        end = max(limit, batch.slo_ns)
        late = age + scale * config.seconds[cheapest][together] > until_ns(end)
        overloaded |= late
    if late and batch.full and since_ns is not None:  # ``late`` is the oldest request's
        alive = [False] * count
    return alive, overloaded


def _grant(
    config: Config, state: State, batch: _Batch, alive: list[bool], level: int, now: int
) -> tuple[list[int | Rejection], float]:
    """What each request gets in a batch that runs at ``level``, and the credit left."""
    cheapest = batch.allowed[-1]
    batch_ns = 1e9 * state.correction * config.seconds[level][batch.images]
    since_s = 0.0 if state.last_ns is None else (now - state.last_ns) / 1e9
    # Cap the credit at what one second accrues.
    credit_s = min(config.pin_cap, state.pin_credit_s + config.pin_cap * since_s)
    if batch.plain and all(alive) and batch.ages_ns[0] + batch_ns <= batch.slo_ns:
        return [level] * len(alive), credit_s
    levels: list[int | Rejection] = []
    for wish, age, limit, lives in zip(
        batch.wishes, batch.ages_ns, batch.limits_ns, alive, strict=True
    ):
        if not lives:
            levels.append(Rejection.DEADLINE)
            continue
        wanted = _wanted(config, wish, cheapest if age + batch_ns > limit else level)
        if wanted >= level or config.pin_cap == 1:
            levels.append(wanted)
        elif credit_s > 0:  # may go into debt by one request, however dear
            image_s = state.correction * config.seconds[wanted][-1] / config.max_batch
            credit_s -= wish.images * image_s
            levels.append(wanted)
        else:
            levels.append(Rejection.PIN_CAP)
    return levels, credit_s


def _wanted(config: Config, wish: Wish, level: int) -> int:
    """The level a wish gets in a batch that runs at ``level``."""
    if wish.pin is not None:
        return wish.pin
    if wish.floor is None or level <= wish.floor:
        return level
    return max(k for k in config.useful if k <= wish.floor)


def _work_s(config: Config, batch: _Batch, images: int) -> float:
    """Time of ``images`` of this batch and of the queue behind it, at the cheapest level."""
    seconds = config.seconds[batch.allowed[-1]]
    full, rest = divmod(batch.queue, config.max_batch)
    busy_s = batch.correction * (seconds[images] + full * seconds[-1] + seconds[rest])
    return busy_s + batch.gap_s * (full + (rest > 0))


def _dense_s(config: Config, batch: _Batch) -> float:
    """Time of an image at level 0 in full batches, with a tenth to spare."""
    return _SPARE * (batch.correction * config.seconds[0][-1] + batch.gap_s) / config.max_batch


def _dense_backlog(config: Config, state: State, batch: _Batch, now: int) -> float:
    """Images that level 0 would lag behind, including this batch, had it answered everything."""
    since_s = 0.0 if state.last_ns is None else (now - state.last_ns) / 1e9
    dense_s = _dense_s(config, batch)
    left = max(0.0, state.dense_backlog - since_s / dense_s)
    return min(left, _BACKLOG_CAP_S / dense_s) + batch.images


def _table_s(config: Config, batch: _Batch, levels: list[int | Rejection]) -> float:
    """Uncorrected time of the accepted requests."""
    first = levels[0]
    if batch.plain and levels.count(first) == len(levels):
        return 0.0 if isinstance(first, Rejection) else config.seconds[first][len(levels)]
    images: dict[int, int] = {}
    for wish, level in zip(batch.wishes, levels, strict=True):
        if not isinstance(level, Rejection):
            images[level] = images.get(level, 0) + wish.images
    return sum([config.seconds[level][n] for level, n in images.items()])  # one after the other


def _retry_after_ms(
    config: Config, batch: _Batch, levels: list[int | Rejection], credit_s: float
) -> int | None:
    """Time until the current queue is served at the cheapest level and dear wishes have credit."""
    if Rejection.DEADLINE not in levels and Rejection.PIN_CAP not in levels:
        return None
    runs = [
        wish.images
        for wish, level in zip(batch.wishes, levels, strict=True)
        if not isinstance(level, Rejection)
    ]
    seconds = _work_s(config, batch, sum(runs))
    if Rejection.PIN_CAP in levels:
        seconds = max(seconds, -credit_s / config.pin_cap)
    return max(1, math.ceil(1e3 * seconds))


def _allowed(config: Config, policy: Policy | None, live: bool) -> tuple[int, ...]:
    """Levels that may be used, dearest first; never empty."""
    if policy is None:
        return config.useful
    floor = min(policy.quality_floor_level, config.levels - 1)
    if not live:
        return _range(config, 0, floor)
    if policy.dearest == policy.cheapest:  # a pin may name any level
        return (min(max(policy.dearest, 0), config.levels - 1),)
    return _range(config, policy.dearest, min(policy.cheapest, floor))


@lru_cache(maxsize=1024)
def _range(config: Config, dearest: int, cheapest: int) -> tuple[int, ...]:
    """Useful levels from ``dearest`` to ``cheapest``; if there is none, the next dearer one."""
    allowed = tuple(k for k in config.useful if dearest <= k <= cheapest)
    return allowed or (max((k for k in config.useful if k <= cheapest), default=0),)


@lru_cache(maxsize=1024)
def _shares(config: Config, allowed: tuple[int, ...]) -> tuple[float, ...]:
    """Quality that a second buys at each level but the cheapest, relative to the best step.

    For full batches: the gain in quality over the next cheaper level, divided by the extra time.
    Levels that a mix of two others beats get 0: only the upper hull of quality over time counts.
    """
    hull, slopes = [allowed[-1]], [math.inf]
    for level in reversed(allowed[:-1]):
        while True:
            cheaper = hull[-1]
            gain = config.quality[level] - config.quality[cheaper]
            slope = gain / (config.seconds[level][-1] - config.seconds[cheaper][-1])
            if slope <= slopes[-1]:
                break
            hull.pop()
            slopes.pop()
        hull.append(level)
        slopes.append(slope)
    worth = dict(zip(hull, slopes, strict=True))
    best = max(slopes[1:], default=0.0)
    return tuple(max(0.0, worth.get(k, 0.0)) / best if best > 0 else 0.0 for k in allowed[:-1])

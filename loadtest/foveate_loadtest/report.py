"""The verdict on a run, computed from its rows. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate_loadtest.arrivals import Capacities, Schedule
from foveate_loadtest.ladder_facts import LadderFacts
from foveate_loadtest.percentiles import Percentiles
from foveate_loadtest.rows import DEAD, INTERRUPTED, Outcome, Rows

__all__ = ["LevelShare", "Percentiles", "Report", "Second", "summarise"]

SCHEMA = 1
MAX_FAILED = 0.001  # of the requests

_FAILURES = [kind.name.lower() for kind in (Outcome.INVALID, Outcome.FAILED, Outcome.LOST)]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class LevelShare:
    """How much of a run one level served."""

    level: int  # -1: the answer did not say
    name: str
    answers: float  # share of the answers
    time: float  # share of the time: the interval up to an answer counts for its level


@dataclass(frozen=True, kw_only=True)
class Second:
    """One second of a run. A request belongs to the second of its intended send."""

    second: int
    offered: int
    answered: int
    in_time: int
    rejected: int
    p99_ms: float | None
    level: float | None  # mean index over the answers


@dataclass(frozen=True, kw_only=True)
class Report:
    """One run. Latency counts from the intended send; a rejection, error or loss is a miss."""

    # The load
    scenario: str
    seed: int
    cv2: float
    arrivals_sha256: str
    capacities: Capacities | None
    seconds: float
    requests: int
    slo_ms: float
    # The answers
    offered_rate: float  # requests/s
    served_rate: float  # answers/s, of those that came while requests were due
    goodput: float  # answers in time/s
    attainment: float  # share answered in time
    attainment_admitted: float  # the same without the rejected
    latency_ms: Percentiles | None  # of the answers
    rejection_ms: Percentiles | None  # of the rejections
    rejected: int
    errors: Mapping[str, int]  # by kind, without rejections
    messages: Mapping[str, str]  # first of each kind
    interrupted: bool  # the run was stopped; the report covers what was sent until then
    # Quality, over the answers in time
    levels: tuple[LevelShare, ...]  # over all answers
    ladder_quality: float | None  # the ladder's quality of the levels served
    measured_quality: float | None  # share of labelled images classified correctly
    recovered: float | None  # ladder quality from cheapest (0) to exact (1)
    # Validity of the client's measurements
    send_lag_ms: Percentiles | None  # of the worker with the largest p99
    max_send_lag_ms: float  # limit on the p99
    max_in_flight: int
    environment: Mapping[str, str]
    series: tuple[Second, ...]

    @property
    def problem(self) -> str | None:
        """Why the run is invalid; None if it is valid."""
        if DEAD in self.messages:
            return self.messages[DEAD]
        if self._failed > MAX_FAILED * self.requests:
            return f"{self._failed} of {self.requests} requests failed: {self._why_failed}"
        if self.send_lag_ms is None or self.send_lag_ms.p99 > self.max_send_lag_ms:
            lag = (
                "nothing was sent" if self.send_lag_ms is None else f"{self.send_lag_ms.p99:.1f} ms"
            )
            return f"p99 send lag: {lag}, allowed {self.max_send_lag_ms:g} ms: the client was late"
        return None

    @property
    def _failed(self) -> int:
        """Failures not caused by overload: an overloaded server rejects, or is late."""
        return sum(self.errors.get(kind, 0) for kind in _FAILURES)

    @property
    def _why_failed(self) -> str:
        return "; ".join(self.messages[kind] for kind in _FAILURES if kind in self.messages)

    def to_json(self) -> str:
        data = {"schema": SCHEMA, "problem": self.problem, **asdict(self)}
        return json.dumps(data, indent=1)

    def save(self, path: Path) -> None:
        path.write_text(self.to_json() + "\n")


def summarise(
    rows: Rows,
    schedule: Schedule,
    slo_ms: float,
    ladder: LadderFacts | None,
    max_send_lag_ms: float,
    environment: Mapping[str, str],
) -> Report:
    """Summarise the rows of a run. Without ``ladder`` the quality of levels is unknown.

    A run that stopped early is treated as if it had been planned to end then.
    """
    seconds = schedule.seconds
    if DEAD in rows.messages or INTERRUPTED in rows.messages:
        rows = rows.played()
        seconds = max(1.0, float(rows.intended.max(initial=0.0)))
    ok = rows.outcome == Outcome.OK
    rejected = rows.outcome == Outcome.REJECTED
    in_time = ok & (rows.latency <= slo_ms / 1000)
    requests = len(rows.intended)
    quality = _ladder_quality(rows.level[in_time], ladder)
    return Report(
        scenario=schedule.scenario,
        seed=schedule.seed,
        cv2=schedule.cv2,
        arrivals_sha256=schedule.sha256,
        capacities=schedule.capacities,
        seconds=seconds,
        requests=requests,
        slo_ms=slo_ms,
        offered_rate=requests / seconds,
        served_rate=int((ok & (rows.done <= seconds)).sum()) / seconds,
        goodput=int(in_time.sum()) / seconds,
        attainment=_share(in_time, requests),
        attainment_admitted=_share(in_time, requests - int(rejected.sum())),
        latency_ms=Percentiles.of(rows.latency[ok]),
        rejection_ms=Percentiles.of(rows.latency[rejected]),
        rejected=int(rejected.sum()),
        errors={
            kind.name.lower(): count
            for kind in Outcome
            if kind not in (Outcome.OK, Outcome.REJECTED)
            and (count := int((rows.outcome == kind).sum()))
        },
        messages=rows.messages,
        interrupted=INTERRUPTED in rows.messages,
        levels=_level_shares(rows, ok, ladder),
        ladder_quality=quality,
        measured_quality=_measured_quality(rows, in_time),
        recovered=_recovered(quality, ladder),
        send_lag_ms=rows.send_lag(),
        max_send_lag_ms=max_send_lag_ms,
        max_in_flight=_max_in_flight(rows),
        environment=environment,
        series=_series(rows, ok, in_time, rejected, seconds),
    )


def _share(part: Mask, whole: int) -> float:
    return int(part.sum()) / whole if whole else 1.0


def _ladder_quality(levels: NDArray[np.int16], ladder: LadderFacts | None) -> float | None:
    if ladder is None or not len(levels) or (levels < 0).any():
        return None
    return float(np.array(ladder.quality)[levels].mean())


def _measured_quality(rows: Rows, in_time: Mask) -> float | None:
    known = in_time & (rows.label >= 0)
    return float((rows.answer == rows.label)[known].mean()) if known.any() else None


def _recovered(quality: float | None, ladder: LadderFacts | None) -> float | None:
    if quality is None or ladder is None:
        return None
    exact, cheapest = ladder.quality[0], ladder.quality[ladder.cheapest]
    return (quality - cheapest) / (exact - cheapest) if exact > cheapest else None


def _level_shares(rows: Rows, ok: Mask, ladder: LadderFacts | None) -> tuple[LevelShare, ...]:
    if not ok.any():
        return ()
    order = np.argsort(rows.done[ok], kind="stable")
    done, level = rows.done[ok][order], rows.level[ok][order]
    spent = np.diff(done, prepend=0.0)
    return tuple(
        LevelShare(
            level=index,
            name=ladder.names[index] if ladder is not None and index >= 0 else str(index),
            answers=float((level == index).mean()),
            time=float(spent[level == index].sum() / done[-1]),
        )
        for index in np.unique(level).tolist()
    )


def _max_in_flight(rows: Rows) -> int:
    sent = rows.sent[~np.isnan(rows.sent)]
    done = rows.done[~np.isnan(rows.done)]
    times = np.concatenate([sent, done])
    steps = np.concatenate([np.ones(len(sent), np.int64), -np.ones(len(done), np.int64)])
    return int(np.cumsum(steps[np.argsort(times, kind="stable")]).max(initial=0))


def _series(
    rows: Rows, ok: Mask, in_time: Mask, rejected: Mask, seconds: float
) -> tuple[Second, ...]:
    second = rows.intended.astype(np.int64)
    series = []
    for index in range(int(np.ceil(seconds))):
        here = second == index
        answered = here & ok
        latency = Percentiles.of(rows.latency[answered])
        series.append(
            Second(
                second=index,
                offered=int(here.sum()),
                answered=int(answered.sum()),
                in_time=int((here & in_time).sum()),
                rejected=int((here & rejected).sum()),
                p99_ms=None if latency is None else latency.p99,
                level=float(rows.level[answered].mean()) if answered.any() else None,
            )
        )
    return tuple(series)

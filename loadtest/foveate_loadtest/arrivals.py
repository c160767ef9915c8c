"""When to send: seeded arrival schedules, in seconds from the start of a run.

Every schedule is one renewal process of mean gap 1, stretched by the rate: gaps are gamma
distributed with squared coefficient of variation CV²: 0 is evenly spaced, 1 is Poisson, and larger
values are burstier. Rates are multiples of *measured* capacities, so that a laptop and a GPU see
the same shape of load.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate_loadtest.choices import Scenario
from foveate_loadtest.errors import ScheduleError

__all__ = [
    "Capacities",
    "Phase",
    "Schedule",
    "constant",
    "gamma",
    "piecewise",
    "poisson",
    "recorded_schedule",
    "scenario_phases",
    "scenario_schedule",
]

SCHEMA = 1

Times = NDArray[np.float64]


@dataclass(frozen=True)
class Phase:
    """A stretch of constant rate."""

    seconds: float
    rate: float  # requests/s


@dataclass(frozen=True)
class Capacities:
    """Measured requests/s of the two ends of a ladder."""

    exact: float  # level 0
    cheapest: float


def constant(rate: float, seconds: float) -> Times:
    """Evenly spaced send times, the first one gap after the start."""
    return piecewise((Phase(seconds, rate),), cv2=0.0, seed=0)


def poisson(rate: float, seconds: float, seed: int) -> Times:
    """Send times with exponential gaps."""
    return gamma(rate, seconds, 1.0, seed)


def gamma(rate: float, seconds: float, cv2: float, seed: int) -> Times:
    """Send times with gamma gaps of squared coefficient of variation ``cv2``."""
    return piecewise((Phase(seconds, rate),), cv2=cv2, seed=seed)


def piecewise(phases: Sequence[Phase], cv2: float, seed: int) -> Times:
    """Send times through ``phases``, ascending, all before their total length.

    Raises :class:`ScheduleError` for no phases, or a length, rate or CV² that is not a finite
    number ≥ 0.
    """
    values = [cv2, *(value for phase in phases for value in (phase.seconds, phase.rate))]
    if not phases or not all(math.isfinite(value) and value >= 0 for value in values):
        raise ScheduleError(f"phases={phases!r}, cv2={cv2}: need finite numbers ≥ 0")
    clock = np.cumsum([0.0, *(phase.seconds for phase in phases)])
    expected = np.cumsum([0.0, *(phase.seconds * phase.rate for phase in phases)])
    # Times of the unit-rate process are read off the inverse of the expected count.
    times: Times = np.interp(_unit_times(float(expected[-1]), cv2, seed), expected, clock)
    return times


def scenario_phases(scenario: Scenario, capacities: Capacities) -> tuple[Phase, ...]:
    """The rates of a scenario.

    ``calm``: 0.4 of the exact capacity for 10 s. ``burst``: calm for 5 s, 1.5 times the exact
    capacity for 10 s, calm for 10 s. ``overload``: the same with 2 times the cheapest capacity.
    """
    calm = 0.4 * capacities.exact
    match scenario:
        case Scenario.CALM:
            return (Phase(10.0, calm),)
        case Scenario.BURST:
            peak = 1.5 * capacities.exact
        case Scenario.OVERLOAD:
            peak = 2.0 * capacities.cheapest
    return (Phase(5.0, calm), Phase(10.0, peak), Phase(10.0, calm))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Send times and where they came from. Replaying a saved schedule repeats a run exactly."""

    times: Times  # seconds from the start, ascending
    seconds: float  # length of the run; the last send is earlier
    scenario: str
    seed: int
    cv2: float
    capacities: Capacities | None

    @property
    def sha256(self) -> str:
        """Fingerprint of the times, the same on every machine."""
        return hashlib.sha256(self.times.astype("<f8").tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        facts = {key: value for key, value in asdict(self).items() if key != "times"}
        data = {"schema": SCHEMA, **facts, "sha256": self.sha256, "times": self.times.tolist()}
        path.write_text(json.dumps(data) + "\n")

    @staticmethod
    def load(path: Path) -> Schedule:
        """Read an arrival file. Raises :class:`ScheduleError` naming the file and the key."""
        try:
            data: Mapping[str, Any] = json.loads(path.read_text())
            if data["schema"] != SCHEMA:
                raise ScheduleError(
                    f"{path}: schema={data['schema']!r}, this version reads {SCHEMA}"
                )
            capacities = data["capacities"]
            schedule = Schedule(
                times=np.array(data["times"], np.float64),
                seconds=float(data["seconds"]),
                scenario=str(data["scenario"]),
                seed=int(data["seed"]),
                cv2=float(data["cv2"]),
                capacities=None if capacities is None else Capacities(**capacities),
            )
            recorded = data["sha256"]
        except KeyError as error:
            raise ScheduleError(f"{path}: key {error} is missing") from error
        except (OSError, TypeError, ValueError) as error:
            raise ScheduleError(f"{path}: {error}") from error
        if schedule.sha256 != recorded:
            raise ScheduleError(f"{path}: sha256={recorded!r}, but the times hash to another value")
        return schedule


def recorded_schedule(path: Path, rate: float, seconds: float) -> Schedule:
    """Recorded arrivals, scaled to the given mean rate.

    Args:
        path: one time per line, in seconds of any clock, in any order.
        rate: mean requests/s; the recording is stretched or compressed to match.
        seconds: how much of the scaled recording to replay, from its beginning; at most all of it.

    The last time marks the end of the recording and is not sent. Raises :class:`ScheduleError`
    naming the file.
    """
    try:
        seen = np.sort([float(line) for line in path.read_text().split()])
    except (OSError, ValueError) as error:
        raise ScheduleError(f"{path}: {error}") from error
    if rate <= 0:
        raise ScheduleError(f"rate={rate:g}: expected more than 0")
    if len(seen) < 2 or not np.isfinite(seen).all() or seen[0] == seen[-1]:
        raise ScheduleError(f"{path}: {len(seen)} times; expected at least two different ones")
    times = (seen - seen[0]) * (len(seen) - 1) / (rate * (seen[-1] - seen[0]))
    gaps = np.diff(times)
    seconds = min(seconds, float(times[-1]))
    return Schedule(
        times=times[times < seconds],
        seconds=seconds,
        scenario=path.stem,
        seed=0,
        cv2=float(gaps.var() / gaps.mean() ** 2),
        capacities=None,
    )


def scenario_schedule(
    scenario: Scenario, capacities: Capacities, seed: int, cv2: float = 1.0
) -> Schedule:
    """The arrivals of a named scenario, Poisson unless ``cv2`` says otherwise."""
    phases = scenario_phases(scenario, capacities)
    return Schedule(
        times=piecewise(phases, cv2, seed),
        seconds=sum(phase.seconds for phase in phases),
        scenario=scenario,
        seed=seed,
        cv2=cv2,
        capacities=capacities,
    )


def _unit_times(end: float, cv2: float, seed: int) -> Times:
    """Event times below ``end`` of a renewal process with mean gap 1."""
    if cv2 == 0:
        return np.arange(1.0, math.ceil(end))
    rng = np.random.default_rng(seed)
    chunk = int(end + 4 * math.sqrt(end * cv2) + 16)
    times = np.cumsum(rng.gamma(1 / cv2, cv2, chunk))
    while times[-1] < end:
        times = np.append(times, times[-1] + np.cumsum(rng.gamma(1 / cv2, cv2, chunk)))
    early: Times = times[times < end]
    return early

"""Turn the text of ``/metrics`` into what happened between two scrapes. Pure functions.

Missing values are None, never zero: a server without metrics of a model does not mean it is idle.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from prometheus_client.parser import text_string_to_metric_families

from foveate_adapter.errors import ScrapeError

__all__ = [
    "METRICS",
    "Observation",
    "Sample",
    "collect",
    "credible",
    "observe",
    "parse",
    "series_key",
]

_SUCCESS = "nv_inference_request_success"
_FAILURE = "nv_inference_request_failure"
_IMAGES = "nv_inference_count"
_PENDING = "nv_inference_pending_request_count"
_RESPONSES = "nv_inference_first_response_histogram_ms_count"
_RESPONSE_TIMES = "nv_inference_first_response_histogram_ms_bucket"
_ANSWERS = "foveate_answers_total"
_REJECTIONS = "foveate_rejections_total"
_AGES = "foveate_age_seconds_bucket"
_LEVEL = "foveate_level"
_CORRECTION = "foveate_batch_time_correction"
_GAP = "foveate_batch_gap_seconds"
_HEARTBEATS = "foveate_heartbeats_total"
_ENERGY = re.compile(r"^nv_energy_consumption\{[^}]*\} (\S+)", re.MULTILINE)

# Name of each counter we read, and the labels that distinguish its series. Labels not listed here
# (``version``) are summed over.
_COUNTERS: Mapping[str, tuple[str, ...]] = {
    _SUCCESS: (),
    _FAILURE: (),
    _IMAGES: (),
    _RESPONSES: (),
    _RESPONSE_TIMES: ("le",),
    _ANSWERS: ("level", "slo"),
    _REJECTIONS: ("reason",),
    _AGES: ("le",),
    _HEARTBEATS: (),
}
_NUMBERS = {"level": int, "le": float}  # labels that are numbers
METRICS = (*_COUNTERS, _PENDING, _LEVEL, _CORRECTION, _GAP)  # names of all we read

Key = tuple[str, ...]  # name, label values

_STALE_S = 1.0  # a live model process counts about seven heartbeats in this time
_PARTIAL_S = 2.0  # series missing for longer are gone for good


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One model's part of one scrape: counters since its process started, gauges as of now."""

    at: float  # seconds, monotonic
    counters: Mapping[Key, float]
    gauges: Mapping[str, float]
    joules: float | None = None  # taken so far by all GPUs of the server


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What happened to one model in the ``interval_s`` before ``at``. None: unknown."""

    at: float  # seconds, monotonic
    interval_s: float | None = None
    reset: bool = False  # the counters started over, so nothing is known about the interval
    queue_depth: int | None = None  # requests waiting now
    arrivals: float | None = None  # may be negative: the batch being computed is in no counter
    served: float | None = None  # requests Triton finished, successfully or not
    images: float | None = None  # mean per successful request
    answers: Mapping[int, float] | None = None  # by level
    missed: float | None = None  # answers later than the SLO
    rejected: float | None = None  # because the deadline could not be met
    capped: float | None = None  # rejections of exact and pinned requests over their share
    age_p50_s: float | None = None
    age_p99_s: float | None = None
    power_w: float | None = None  # of all GPUs of the server, whoever uses them
    level: int | None = None  # of the latest batch
    correction: float | None = None  # measured / predicted batch time
    gap_s: float | None = None  # from the end of a batch to the next while requests wait

    @property
    def load(self) -> float | None:
        """Offered requests per second."""
        return None if self.arrivals is None else max(0.0, self.arrivals) / self._seconds

    @property
    def throughput(self) -> float | None:
        """Finished requests per second."""
        return None if self.served is None else self.served / self._seconds

    @property
    def attainment(self) -> float | None:
        """Share answered within the SLO; every rejection is a miss. None without traffic."""
        if self.answers is None or self.missed is None:
            return None
        answered = sum(self.answers.values())
        asked = answered + (self.rejected or 0.0) + (self.capped or 0.0)
        # A rejection may itself be late, and Triton's histogram then counts it among the missed.
        return max(0.0, answered - self.missed) / asked if asked else None

    @property
    def degraded(self) -> float | None:
        """Share of the answers given above level 0. None without answers."""
        answered = sum(self.answers.values()) if self.answers else 0.0
        return 1.0 - self.answers.get(0, 0.0) / answered if self.answers and answered else None

    @property
    def _seconds(self) -> float:
        return self.interval_s or math.inf


def parse(text: str, model: str, at: float) -> Sample:
    """The lines of ``text`` about ``model``. Raises :class:`ScrapeError` if they are malformed."""
    if not text.endswith("\n"):
        raise ScrapeError(f"metrics end in the middle of a line: {text[-80:]!r}")
    label = f'model="{model}"'
    series: list[tuple[Key, float]] = []
    for line in text.splitlines():
        if label not in line or not line.startswith(METRICS):
            continue
        try:
            whose, key, value = _line(line)
        except (ValueError, IndexError) as error:
            raise ScrapeError(f"metrics of {model!r}: {line!r}: {error}") from error
        if whose == model:
            series.append((key, value))
    return replace(collect(series, at), joules=_joules(text))


def collect(series: Iterable[tuple[Key, float]], at: float) -> Sample:
    """The sample made of one model's series. Merges series with the same key, ignores NaN."""
    counters: dict[Key, float] = {}
    gauges: dict[str, float] = {}
    for key, value in series:
        if not math.isfinite(value):
            continue
        if key[0] in _COUNTERS:
            counters[key] = counters.get(key, 0.0) + value
        elif key[0] == _PENDING:
            gauges[_PENDING] = gauges.get(_PENDING, 0.0) + value
        else:
            gauges[key[0]] = max(gauges.get(key[0], -math.inf), value)
    return Sample(at=at, counters=counters, gauges=gauges)


def series_key(name: str, labels: Mapping[str, str]) -> Key:
    """The key that distinguishes a model's series. Raises ValueError for a bad label."""
    key = {label: labels.get(label, "") for label in _COUNTERS.get(name, ())}
    for label in key.keys() & _NUMBERS.keys():
        _NUMBERS[label](key[label])
    return (name, *key.values())


# Most lines are the same from one scrape to the next.
@lru_cache(maxsize=1024)
def _line(line: str) -> tuple[str, Key, float]:
    """Model, key and value. Raises ValueError or IndexError for a malformed line."""
    head, _, tail = line.rpartition("} ")
    return *_series(head), float(tail.split()[0])


# The library's parser takes 25 µs per line, 2 % of a core at 20 Hz. The name and labels of a series
# never change, so we parse each once.
@lru_cache(maxsize=4096)
def _series(head: str) -> tuple[str, Key]:
    """Model and key of ``name{labels``. Raises ValueError if it is neither."""
    (family,) = text_string_to_metric_families(f"{head}}} 0\n")
    name, labels = family.samples[0].name, family.samples[0].labels
    return labels.get("model", ""), series_key(name, labels)


def credible(history: Sequence[Sample], sample: Sample) -> bool:
    """Whether ``sample`` is current and complete. ``history``: the credible samples before it.

    A sample is stale if the model process has counted no heartbeat for a second: the text was
    cached, or the process is dead and the server keeps its metrics. It is partial if series have
    disappeared while none has started over.
    """
    if _PENDING not in sample.gauges:
        return False
    beats = sample.counters.get((_HEARTBEATS,))
    old = next((past for past in reversed(history) if past.at <= sample.at - _STALE_S), None)
    if old and beats is not None and beats == old.counters.get((_HEARTBEATS,)):
        return False
    if not history or sample.at - history[-1].at >= _PARTIAL_S:
        return True
    before, now = history[-1].counters, sample.counters
    return before.keys() <= now.keys() or any(now.get(k, n) < n for k, n in before.items())


def observe(previous: Sample | None, sample: Sample, slo_s: float | None = None) -> Observation:
    """What happened from ``previous`` to ``sample``, which need not be consecutive.

    Triton has no arrival counter, so arrivals = finished requests + growth of the queue. Misses are
    the model process's estimate, or Triton's measurement if its response-time histogram has an edge
    at ``slo_s``.
    """
    pending = sample.gauges.get(_PENDING)
    level = sample.gauges.get(_LEVEL)
    now = Observation(
        at=sample.at,
        queue_depth=None if pending is None else max(0, round(pending)),
        level=None if level is None else int(level),
        correction=sample.gauges.get(_CORRECTION),
        gap_s=sample.gauges.get(_GAP),
    )
    if previous is None or sample.at <= previous.at:
        return now
    before = previous.counters
    change = {key: n - before.get(key, 0.0) for key, n in sample.counters.items()}
    gone = before.keys() - change.keys()
    if min(change.values(), default=0.0) < 0 or any(before[key] > 0 for key in gone):
        return replace(now, reset=True)

    moved = {key: n for key, n in change.items() if n}  # few, from one beat to the next
    served: float | None = None
    arrivals: float | None = None
    waited = previous.gauges.get(_PENDING)
    if pending is not None and waited is not None:
        served = _sum(moved, _SUCCESS) + _sum(moved, _FAILURE)
        arrivals = served + pending - waited
    succeeded = moved.get((_SUCCESS,), 0.0)
    now = replace(
        now,
        interval_s=sample.at - previous.at,
        power_w=_power(previous, sample),
        served=served,
        arrivals=arrivals,
        images=moved.get((_IMAGES,), 0.0) / succeeded if succeeded else None,
    )
    if not any(key[0].startswith("foveate_") for key in before):
        return now
    late = None if slo_s is None else _late(change, slo_s)
    if late is None:
        late = sum(n for key, n in moved.items() if key[2:] == ("missed",))
    capped = moved.get((_REJECTIONS, "pin-cap"), 0.0)
    ages = _ages(change)
    return replace(
        now,
        answers=_by_level(change),
        missed=late,
        rejected=_sum(moved, _REJECTIONS) - capped,
        capped=capped,
        age_p50_s=_quantile(ages, 0.5),
        age_p99_s=_quantile(ages, 0.99),
    )


def _sum(change: Mapping[tuple[str, ...], float], name: str) -> float:
    return sum(n for key, n in change.items() if key[0] == name)


def _late(change: Mapping[Key, float], slo_s: float) -> float | None:
    """Responses after ``slo_s`` in Triton's histogram; None if it has no edge there."""
    edge_ms = 1e3 * slo_s
    within = [
        n
        for key, n in change.items()
        if key[0] == _RESPONSE_TIMES and math.isclose(float(key[1]), edge_ms)
    ]
    return change[(_RESPONSES,)] - sum(within) if within and (_RESPONSES,) in change else None


def _by_level(change: Mapping[tuple[str, ...], float]) -> dict[int, float]:
    answers: dict[int, float] = {}
    for key, n in change.items():
        if key[0] == _ANSWERS:
            answers[int(key[1])] = answers.get(int(key[1]), 0.0) + n
    return answers


def _joules(text: str) -> float | None:
    """Energy used by all GPUs. Raises :class:`ScrapeError` if a value is not a number."""
    if "nv_energy_consumption{" not in text:
        return None
    try:
        return sum(float(value) for value in _ENERGY.findall(text))
    except ValueError as error:
        raise ScrapeError(f"nv_energy_consumption: {error}") from error


def _power(previous: Sample, sample: Sample) -> float | None:
    if previous.joules is None or sample.joules is None or sample.joules < previous.joules:
        return None
    return (sample.joules - previous.joules) / (sample.at - previous.at)


def _ages(change: Mapping[tuple[str, ...], float]) -> list[tuple[float, float]]:
    """Edges and cumulative counts of the age histogram."""
    return sorted((float(key[1]), n) for key, n in change.items() if key[0] == _AGES)


def _quantile(buckets: Sequence[tuple[float, float]], q: float) -> float | None:
    """Quantile of a histogram, linear within a bucket; beyond the last edge, that edge."""
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank = q * buckets[-1][1]
    low, below = 0.0, 0.0
    for edge, count in buckets:
        if count >= rank:
            share = (rank - below) / (count - below)
            return low if math.isinf(edge) else low + (edge - low) * share
        low, below = edge, count
    return low

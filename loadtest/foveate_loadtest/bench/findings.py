"""Paired evaluation of the runs. Pure functions of the data of a book."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from foveate.accuracy.interval import wilson
from foveate_loadtest.bench.plan import Policy, fixed

__all__ = [
    "ADAPTIVE",
    "Contender",
    "Finding",
    "Promise",
    "best_fixed",
    "close_rivals",
    "findings",
    "interval",
    "points",
    "promises",
]

ADAPTIVE = Policy.ADAPTIVE.value
FIRST = 1  # seed, with which everybody is played
CLOSE = 0.01  # of the right answers: nearer rivals are played with more seeds

Facts = Mapping[str, Any]  # of one run
Data = Mapping[str, Any]  # of a book


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A policy on a trace: means over its valid runs with the first seed, which everybody has."""

    who: str
    runs: int  # with all seeds
    attainment: float
    quality: float | None  # the ladder's, of the answers in time
    measured: float | None  # share of the answers in time that was right
    right: float  # share of all requests that was answered in time and rightly
    p99_ms: float | None
    rejected: float  # share
    errors: int
    ahead: tuple[float, ...]  # adaptive's ``right`` less this one's, by seed; of all seeds


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A trace."""

    name: str
    title: str
    requests: int  # of a run
    seeds: int
    cheapest: int  # level
    contenders: tuple[Contender, ...]
    best_fixed: str | None  # in hindsight, with the first seed
    noise: float | None  # largest difference of ``right`` between adaptive and itself
    invalid: tuple[str, ...]  # runs that count for nothing, and why

    @property
    def rivals(self) -> dict[str, Contender]:
        """Who adaptive is held against, by title; those with a valid run."""
        found = {
            "fixed exact": self.get(fixed(0)),
            "fixed cheapest": self.get(fixed(self.cheapest)),
            "best fixed in hindsight": self.get(self.best_fixed or ""),
            "p99 threshold": self.get(Policy.THRESHOLD),
            "concurrency limiter": self.get(Policy.LIMITER),
        }
        return {title: one for title, one in found.items() if one is not None}

    def get(self, who: str) -> Contender | None:
        return next((one for one in self.contenders if one.who == who), None)


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What the level of answers promised, and what labels say."""

    who: str  # the level, or all of them
    promised: float
    interval: tuple[float, float]  # 95 % (Wilson), of as many images as were sent
    measured: float
    answers: int

    @property
    def kept(self) -> bool:
        return self.interval[0] <= self.measured <= self.interval[1]


def findings(data: Data) -> list[Finding]:
    """Of each trace that was played, in the order of playing."""
    names = dict.fromkeys(facts["trace"] for facts in data["runs"].values())
    return [
        _finding(
            name,
            [facts for facts in data["runs"].values() if facts["trace"] == name],
            len(data["levels"]) - 1,
        )
        for name in names
    ]


def best_fixed(contenders: Sequence[Contender]) -> str | None:
    """The fixed level with the most requests answered in time and correctly."""
    levels = [one for one in contenders if one.who.startswith("fixed")]
    return max(levels, key=lambda one: one.right).who if levels else None


def close_rivals(data: Data, name: str) -> list[str]:
    """Rivals within a point of adaptive's right answers with the first seed."""
    return list(
        dict.fromkeys(
            rival.who
            for found in findings(data)
            if found.name == name
            for rival in found.rivals.values()
            if rival.ahead and abs(rival.ahead[0]) < CLOSE
        )
    )


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean (Student's); None of fewer than three."""
    if len(values) < 3:
        return None
    half = float(student.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def points(values: Sequence[float]) -> str:
    """Mean of shares in points, with its interval where there is one."""
    if not values:
        return "–"
    text = f"{100 * mean(values):+.2f}"
    if (ends := interval(values)) is not None:
        text += " ({:+.2f} to {:+.2f})".format(*(100 * end for end in ends))
    return text


def promises(data: Data) -> list[Promise]:
    """Of all answers in time, then of those of each level."""
    runs = list(_valid(data["runs"].values()))
    seen = []
    for level in data["levels"] or ():
        counts = [facts["by_level"].get(str(level["index"]), (0, 0)) for facts in runs]
        answers, right = sum(count for count, _ in counts), sum(count for _, count in counts)
        if answers:
            seen.append((level["level"], level["quality"], answers, right))
    groups = [("all levels", seen), *((one[0], [one]) for one in seen)] if seen else []
    images = data["images"]["count"]
    return [_promise(who, group, images) for who, group in groups]


def _promise(who: str, seen: Sequence[tuple[str, float, int, int]], images: int) -> Promise:
    answers = sum(count for _, _, count, _ in seen)
    promised = sum(quality * count for _, quality, count, _ in seen) / answers
    return Promise(
        who=who,
        promised=promised,
        interval=wilson(round(promised * images), images),
        measured=sum(right for *_, right in seen) / answers,
        answers=answers,
    )


def _finding(name: str, runs: Sequence[Facts], cheapest: int) -> Finding:
    valid = list(_valid(runs))
    contenders = tuple(
        _contender(who, valid)
        for who in dict.fromkeys(facts["who"] for facts in valid if facts["seed"] == FIRST)
    )
    seeds = {facts["seed"] for facts in runs}
    first = min(runs, key=lambda facts: facts["seed"])
    return Finding(
        name=name,
        title=first["title"],
        requests=first["requests"],
        seeds=len(seeds),
        cheapest=cheapest,
        contenders=contenders,
        best_fixed=best_fixed(contenders),
        noise=max(
            (
                max(ours) - min(ours)
                for seed in seeds
                if len(ours := _rights(valid, ADAPTIVE, seed)) > 1
            ),
            default=None,
        ),
        invalid=tuple(
            f"{f['who']}, seed {f['seed']}: {f['problem']}" for f in runs if f["problem"]
        ),
    )


def _contender(who: str, runs: Sequence[Facts]) -> Contender:
    every = [facts for facts in runs if facts["who"] == who]
    mine = [facts for facts in every if facts["seed"] == FIRST]
    answers = sum(facts["in_time"] for facts in mine)
    qualities = [f["ladder_quality"] for f in mine if f["ladder_quality"] is not None]
    latencies = [facts["p99_ms"] for facts in mine if facts["p99_ms"] is not None]
    pairs = (
        (_rights(runs, ADAPTIVE, seed), _rights(runs, who, seed))
        for seed in sorted({facts["seed"] for facts in every})
    )
    return Contender(
        who=who,
        runs=len(every),
        attainment=mean(facts["attainment"] for facts in mine),
        quality=mean(qualities) if qualities else None,
        measured=sum(facts["correct_in_time"] for facts in mine) / answers if answers else None,
        right=mean(map(_right, mine)),
        p99_ms=mean(latencies) if latencies else None,
        rejected=mean(facts["rejected"] / facts["requests"] for facts in mine),
        errors=sum(sum(facts["errors"].values()) for facts in mine),
        ahead=tuple(mean(ours) - mean(theirs) for ours, theirs in pairs if ours and theirs),
    )


def _valid(runs: Iterable[Facts]) -> Iterable[Facts]:
    return (facts for facts in runs if facts["problem"] is None)


def _rights(runs: Iterable[Facts], who: str, seed: int) -> list[float]:
    return [_right(f) for f in runs if (f["who"], f["seed"]) == (who, seed)]


def _right(facts: Facts) -> float:
    return float(facts["correct_in_time"] / facts["requests"])

"""What was promised about control, held against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from foveate_benchmarks.control.bounds import bound, fitted, simulated
from foveate_benchmarks.control.parts import (
    ADMISSION,
    CALM,
    FIDELITY,
    FLOOR,
    LONG_CALM,
    MIDPOINT,
    OVERLOAD,
    PARTS,
    QUALITY,
    REACTION,
    floor_run,
    floor_runs,
)
from foveate_benchmarks.control.runs import Policy, Run
from foveate_benchmarks.control.traces import Trace
from foveate_benchmarks.results import SLO_MS
from foveate_loadtest.bench.book import Book
from foveate_loadtest.choices import Shape

__all__ = ["Bar", "judge", "table"]

LOST = {0.70: 0.002, 0.85: 0.005}  # attainment, to fixed-cheapest
# By load and CV².
RECOVERED = {
    (0.55, 8.0): 0.85,
    (0.70, 4.0): 0.78,
    (0.70, 8.0): 0.72,
    (0.85, 2.0): 0.45,
    (0.85, 8.0): 0.25,
}
OF_BOUND = {(0.70, 2.0): 0.85}
GOODPUT = {1.3: 0.90, 2.0: 0.75}  # of the cheapest level's capacity


@dataclass(frozen=True, kw_only=True)
class Bar:
    """``met`` is None where nothing was promised."""

    text: str
    met: bool | None = None


def judge(book: Book) -> dict[str, list[Bar]]:
    """The bars of each part whose runs are all there."""
    return {
        part: [*_conditions(book, runs), *_JUDGES[part](book)]
        for part, runs in PARTS.items()
        if not book.missing(runs)
    }


def _conditions(book: Book, runs: list[Run]) -> Iterator[Bar]:
    """Whether the machine kept its speed, and the client its schedule."""
    seen = [book.capacities(run)[-1] for run in runs]
    yield Bar(
        text=f"cheapest capacity before a trace {min(seen):.0f} to {max(seen):.0f}/s, "
        f"at first {book.column('capacity')[-1]:.0f}/s"
    )
    for run in runs:
        # Without admission thousands of requests are in flight, which slows the client itself.
        if run.admission and (problem := book[run]["problem"]):
            yield Bar(text=f"{run.trace.key}, {run.policy}: {problem}", met=False)


def _calm(book: Book) -> Iterator[Bar]:
    exact, adaptive = (
        [book[pair[policy]] for pair in CALM] for policy in (Policy.EXACT, Policy.ADAPTIVE)
    )
    long = book[LONG_CALM]
    for name, runs in (("paired", adaptive), ("long", [long])):
        lost = 100 * (_mean(exact, "ladder_quality") - _mean(runs, "ladder_quality"))
        yield Bar(text=f"{name}: quality lost {lost:.3f} points, at most 0.02", met=lost <= 0.02)
    band = sorted(run["p99_ms"] for run in exact)
    ours = median(run["p99_ms"] for run in adaptive)
    yield Bar(
        text=f"median p99 {ours:.1f} ms, at most 3 % over those of fixed-exact, "
        f"{band[0]:.1f} to {band[-1]:.1f}",
        met=ours <= 1.03 * band[-1],
    )
    changes = long["level_changes"]
    yield Bar(
        text=f"{changes} changes of level in {long['seconds']:.0f} s, at most 2", met=changes <= 2
    )


def _floor(book: Book) -> Iterator[Bar]:
    for load, groups in FLOOR.items():
        for traces in groups:
            ours, cheapest = (_floor_runs(book, traces, policy) for policy in _PAIR)
            lost = _mean(cheapest, "attainment") - _mean(ours, "attainment")
            text = (
                f"{traces[0].title}: in time {_mean(ours, 'attainment'):.2%}, "
                f"{100 * lost:+.2f} points lost, at most {100 * LOST[load]:.1f}"
            )
            if len(traces) == 1:  # played twice, the same with the same
                apart = cheapest[0]["attainment"] - cheapest[1]["attainment"]
                text += f"; fixed-cheapest differs from itself by {100 * abs(apart):.2f}"
            yield Bar(text=text, met=lost <= LOST[load])


def _quality(book: Book) -> Iterator[Bar]:
    bursty = [traces for groups in FLOOR.values() for traces in groups if traces[0].cv2 > 1]
    for title, trace, ours, best in (
        *(_alone(book, run) for run in QUALITY),
        *(_paired(book, traces) for traces in bursty),
    ):
        recovered = _mean(ours, "recovered")
        text = f"{title}: recovered {recovered:.2f}"
        least = RECOVERED.get((trace.load, trace.cv2))
        share = None if best is None else f" of {best:.2f} ({recovered / best:.2f} of the bound)"
        text += share or ", no bound: nobody is in time so often"
        if least is not None:
            beyond = best is not None and least > best
            note = "; the bar is above the clairvoyant bound" if beyond else ""
            yield Bar(text=f"{text}, at least {least:.2f}{note}", met=recovered >= least)
        elif (least := OF_BOUND.get((trace.load, trace.cv2))) is not None:
            met = best is not None and recovered >= least * best
            yield Bar(text=f"{text}, at least {least:.2f} of the bound", met=met)
        else:
            yield Bar(text=text)


def _reaction(book: Book) -> Iterator[Bar]:
    ours, cheapest = (book[REACTION[policy]]["bursts"] for policy in _PAIR)
    extra = [a["missed"] - b["missed"] for a, b in zip(ours, cheapest, strict=True)]
    yield Bar(
        text=f"extra misses of a burst: mean {mean(extra):.1f}, most {max(extra)}, at most 10",
        met=max(extra) <= 10,
    )
    back = [burst["mostly_level_0_again_s"] for burst in ours]
    known = [seconds for seconds in back if seconds is not None]
    middle = f"median {median(known):.1f} s, longest {max(known):.1f} s" if known else "never"
    yield Bar(
        text=f"level 0 again after {len(known)} of {len(back)} bursts, {middle}, at most 5 s",
        met=len(known) == len(back) and max(known) <= 5,
    )


def _midpoint(book: Book) -> Iterator[Bar]:
    run = book[MIDPOINT]
    minutes = run["seconds"] / 60
    for name, key in (
        ("range", "dearer_ranges"),
        ("most frequent level of 5 s", "dearer_moves_5s"),
    ):
        rate = run[key] / minutes
        yield Bar(text=f"{name} moves dearer {rate:.1f} times a minute, at most 6", met=rate <= 6)
    raw = ", ".join(
        f"{run[key] / minutes:.0f} {name}"
        for name, key in (
            ("moves dearer of the most frequent level of 1 s", "dearer_moves_1s"),
            ("changes of level between answers", "level_changes"),
        )
    )
    yield Bar(text=f"a minute: {raw}")
    yield Bar(
        text=f"autocorrelation of the mean level at most {run['cycle']:.2f}, less than 0.3",
        met=run["cycle"] < 0.3,
    )


def _overload(book: Book) -> Iterator[Bar]:
    for run in OVERLOAD:
        capacity = book.capacities(run)[-1]
        assert isinstance(run.trace, Trace)
        seen, name, least = book[run], f"{run.trace.load:g} times", GOODPUT[run.trace.load]
        share = seen["goodput"] / capacity
        yield Bar(text=f"{name}: goodput {share:.2f}, at least {least:.2f}", met=share >= least)
        flat = min(seen["goodput_10s"][1:], default=0.0) / seen["goodput"]
        yield Bar(
            text=f"{name}: least goodput of 10 s {flat:.2f} of the mean, at least 0.8",
            met=flat >= 0.8,
        )
        p99, refused = seen["p99_ms"], seen["rejection_p99_ms"]
        yield Bar(
            text=f"{name}: p99 of answers {p99:.0f} ms, at most {SLO_MS:.0f}", met=p99 <= SLO_MS
        )
        yield Bar(
            text=f"{name}: p99 of rejections {refused or 0:.0f} ms, at most {SLO_MS / 2:.0f}",
            met=refused is None or refused <= SLO_MS / 2,
        )
        counted = round(seen["rejections_counted"])
        yield Bar(
            text=f"{name}: {counted} rejections counted, the client saw {seen['rejected']}",
            met=counted == seen["rejected"],
        )


def _admission(book: Book) -> Iterator[Bar]:
    for run, without in ADMISSION:
        a, b = book[run], book[without]
        yield Bar(
            text=f"{run.trace.title}, {run.policy}: in time {a['attainment']:.2%}, without "
            f"admission {b['attainment']:.2%}; p99 {a['p99_ms']:.0f} and {b['p99_ms']:.0f} ms"
        )


def _fidelity(book: Book) -> Iterator[Bar]:
    server = fitted(book)
    yield Bar(
        text=f"batches take {server.slowdown:.2f} times what the table says "
        f"and {1e3 * server.within_s:.1f} ms, with {1e3 * server.overhead_s:.1f} ms between them"
    )
    for run in FIDELITY:
        real, imagined = book[run], simulated(book, run)
        for name, was, says, allowed in (
            ("in time", real["attainment"], imagined.attainment, 1.0),
            ("quality", real["ladder_quality"], imagined.quality, 0.2),
        ):
            apart = 100 * abs((says or 0.0) - was)
            yield Bar(
                text=f"{run.trace.title}: {name} {was:.2%}, simulated {says or 0.0:.2%}, "
                f"at most {allowed:g} points apart",
                met=apart <= allowed,
            )


_JUDGES: dict[str, Callable[[Book], Iterator[Bar]]] = {
    "calm": _calm,
    "floor": _floor,
    "quality": _quality,
    "reaction": _reaction,
    "midpoint": _midpoint,
    "overload": _overload,
    "admission": _admission,
    "fidelity": _fidelity,
}
_PAIR = (Policy.ADAPTIVE, Policy.CHEAPEST)


def table(book: Book) -> list[dict[str, Any]]:
    """What the README shows: a row a trace that was played adaptively."""
    groups = [traces for groups in FLOOR.values() for traces in groups]
    paired = [
        (*_paired(book, traces), _floor_runs(book, traces, Policy.CHEAPEST))
        for traces in groups
        if not book.missing(floor_runs(traces))
    ]
    alone = [(*_alone(book, run), None) for run in QUALITY if not book.missing([run])]
    return [
        {
            "trace": title,
            "seeds": len(ours),
            "adaptive": _mean(ours, "attainment"),
            "cheapest": cheapest and _mean(cheapest, "attainment"),
            "recovered": _mean(ours, "recovered"),
            "bound": best,
            "p99_ms": _mean(ours, "p99_ms"),
        }
        for title, _, ours, best, cheapest in sorted((*alone, *paired), key=_rank)
    ]


def _rank(judged: tuple[Any, ...]) -> tuple[float, bool, float]:
    trace: Trace = judged[1]
    return trace.load, trace.shape is not Shape.STEADY, trace.cv2


_Judged = tuple[str, Trace, list[dict[str, Any]], float | None]  # title, trace, runs, bound


def _paired(book: Book, traces: list[Trace]) -> _Judged:
    """Adaptive runs, and the mean bound at the attainment of fixed-cheapest."""
    ours, cheapest = (_floor_runs(book, traces, policy) for policy in _PAIR)
    takes = len(cheapest) // len(traces)
    bounds = [
        bound(
            book,
            floor_run(trace, Policy.ADAPTIVE),
            _mean(cheapest[takes * number : takes * (number + 1)], "attainment"),
        )
        for number, trace in enumerate(traces)
    ]
    known = [best for best in bounds if best is not None]
    return traces[0].title, traces[0], ours, mean(known) if len(known) == len(bounds) else None


def _alone(book: Book, run: Run) -> _Judged:
    """An adaptive run without a partner, and the bound when all is in time."""
    assert isinstance(run.trace, Trace)
    return run.trace.title, run.trace, [book[run]], bound(book, run, 1.0)


def _floor_runs(book: Book, traces: list[Trace], policy: Policy) -> list[dict[str, Any]]:
    return [book[run] for run in floor_runs(traces) if run.policy is policy]


def _mean(runs: list[dict[str, Any]], key: str) -> float:
    return float(mean(run[key] for run in runs))

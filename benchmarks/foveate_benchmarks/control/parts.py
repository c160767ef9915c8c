"""Which runs each part of the evidence needs. A run that several parts need is played once."""

from __future__ import annotations

from foveate_benchmarks.control.runs import Policy, Run
from foveate_benchmarks.control.traces import Steps, Trace, Unit
from foveate_loadtest.choices import Shape

__all__ = [
    "ADMISSION",
    "CALM",
    "FIDELITY",
    "FLOOR",
    "LONG_CALM",
    "MIDPOINT",
    "OVERLOAD",
    "PARTS",
    "QUALITY",
    "REACTION",
    "floor_run",
    "floor_runs",
]

_HALF = Trace(load=0.5, unit=Unit.EXACT, length=2)

# A second of a slow host decides what the p99 of a minute is: both policies in turn, three times.
CALM = [
    {
        policy: Run(part="calm", trace=_HALF, policy=policy, take=take)
        for policy in (Policy.EXACT, Policy.ADAPTIVE)
    }
    for take in (1, 2, 3)
]
LONG_CALM = Run(
    part="calm", trace=Trace(load=0.5, unit=Unit.EXACT, seed=2, length=10), policy=Policy.ADAPTIVE
)

# By load, the schedules of each kind: several seeds count as one, with their mean.
FLOOR: dict[float, list[list[Trace]]] = {
    load: [
        [Trace(load=load)],
        [Trace(load=load, cv2=4)],
        [Trace(load=load, cv2=8, seed=seed) for seed in (1, 2, 3)],
        *([Trace(load=load, shape=shape)] for shape in (Shape.ON_OFF, Shape.RAMP, Shape.FLASH)),
    ]
    for load in (0.70, 0.85)
}

# Traces whose quality has a bar, beside those of the floor.
QUALITY = [
    Run(part="quality", trace=Trace(load=load, cv2=cv2, length=2), policy=Policy.ADAPTIVE)
    for load, cv2 in ((0.55, 8.0), (0.70, 2.0), (0.85, 2.0))
]

REACTION = {
    policy: Run(part="reaction", trace=Steps(), policy=policy)
    for policy in (Policy.CHEAPEST, Policy.ADAPTIVE)
}

MIDPOINT = Run(
    part="midpoint", trace=Trace(load=1.0, unit=Unit.MIDPOINT, length=20), policy=Policy.ADAPTIVE
)

OVERLOAD = [
    Run(part="overload", trace=Trace(load=load, length=4), policy=Policy.ADAPTIVE)
    for load in (1.3, 2.0)
]


# A machine drifts: who is first is also last. Of several seeds, each policy goes first in turn.
_FIRST, _OTHER = Policy.CHEAPEST, Policy.ADAPTIVE
_ABBA = ((_FIRST, 1), (_OTHER, 1), (_OTHER, 2), (_FIRST, 2))


def floor_run(trace: Trace, policy: Policy, take: int = 1) -> Run:
    return Run(part="floor", trace=trace, policy=policy, take=take)


def floor_runs(traces: list[Trace]) -> list[Run]:
    """In the order in which they are played."""
    if len(traces) == 1:
        return [floor_run(traces[0], policy, take) for policy, take in _ABBA]
    turns = ((_FIRST, _OTHER), (_OTHER, _FIRST))
    return [
        floor_run(trace, policy)
        for number, trace in enumerate(traces)
        for policy in turns[number % 2]
    ]


def _with_and_without_admission(trace: Trace, policy: Policy) -> tuple[Run, Run]:
    part = "floor" if policy is Policy.CHEAPEST else "admission"
    return (
        Run(part=part, trace=trace, policy=policy),
        Run(part="admission", trace=trace, policy=policy, admission=False),
    )


ADMISSION = [
    _with_and_without_admission(trace, policy)
    for trace in (
        Trace(load=0.70, cv2=8),
        Trace(load=0.85, cv2=8),
        Trace(load=0.85, shape=Shape.FLASH),
    )
    for policy in (Policy.EXACT, Policy.CHEAPEST)
]

FIDELITY = [
    floor_run(trace, Policy.ADAPTIVE)
    for trace in (
        Trace(load=0.70, cv2=4),
        Trace(load=0.85, cv2=8),
        Trace(load=0.70, shape=Shape.ON_OFF),
    )
]

_FLOOR = [run for groups in FLOOR.values() for traces in groups for run in floor_runs(traces)]

PARTS: dict[str, list[Run]] = {
    "calm": [*(run for pair in CALM for run in pair.values()), LONG_CALM],
    "floor": _FLOOR,
    "quality": [
        *QUALITY,
        *(run for run in _FLOOR if isinstance(run.trace, Trace) and run.trace.cv2 in (4, 8)),
    ],
    "reaction": [*REACTION.values()],
    "midpoint": [MIDPOINT],
    "overload": OVERLOAD,
    "admission": [run for pair in ADMISSION for run in pair],
    "fidelity": FIDELITY,
}

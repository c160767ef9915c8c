"""What is played: traces, policies, and in which order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from foveate_loadtest.choices import Shape
from foveate_loadtest.traces import Trace, Unit

__all__ = ["QUICK", "TRACES", "Policy", "Run", "fixed", "order", "seeded"]

TRACES = {
    "calm": Trace(load=0.50, unit=Unit.EXACT),
    "bursty": Trace(load=0.70, cv2=4),
    "mmpp": Trace(load=0.60, shape=Shape.MMPP),
    "step": Trace(load=0.77, unit=Unit.EXACT, shape=Shape.STEP),  # 0.4, then 1.5, then 0.4
    "flash": Trace(load=0.70, shape=Shape.FLASH),
    "azure": Trace(load=0.60, shape=Shape.AZURE),
    "overload": Trace(load=1.30),
}
QUICK = ("bursty", "step")


class Policy(StrEnum):
    """Who chooses the level."""

    ADAPTIVE = "adaptive"  # the governor and the adapter
    FIXED = "fixed"  # always the same level
    THRESHOLD = "threshold"  # a slow loop over the p99 of the last minute
    LIMITER = "limiter"  # nobody; the client limits what is in flight


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trace under a policy."""

    name: str  # of the trace
    trace: Trace
    policy: Policy
    level: int | None = None  # of a fixed one
    take: int = 1  # of the same once more

    @property
    def who(self) -> str:
        return f"fixed {self.level}" if self.policy is Policy.FIXED else self.policy.value

    @property
    def key(self) -> str:
        take = "" if self.take == 1 else f", take {self.take}"
        return f"{self.name}, seed {self.trace.seed}, {self.who}{take}"


def fixed(level: int) -> str:
    """What :attr:`Run.who` is for a fixed level."""
    return f"fixed {level}"


def seeded(name: str, seed: int) -> Trace:
    return replace(TRACES[name], seed=seed)


def order(name: str, seed: int, levels: int, rivals: list[str] | None = None) -> Iterator[Run]:
    """Runs of a trace: adaptive first and last, all others between.

    So steady drift of the machine favours no policy, and adaptive against itself shows the noise.
    ``rivals`` are those to play, all for None: each of the ``levels`` fixed levels, the threshold
    controller and the limiter.
    """
    trace = seeded(name, seed)
    others = [
        Run(name=name, trace=trace, policy=Policy.LIMITER),
        *(Run(name=name, trace=trace, policy=Policy.FIXED, level=k) for k in range(levels)),
        Run(name=name, trace=trace, policy=Policy.THRESHOLD),
    ]
    yield Run(name=name, trace=trace, policy=Policy.ADAPTIVE)
    yield from (run for run in others if rivals is None or run.who in rivals)
    yield Run(name=name, trace=trace, policy=Policy.ADAPTIVE, take=2)

"""What the HTTP API takes and gives. Unknown keys and wrong types are refused, naming them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from foveate_adapter.control import Decision, Reason
from foveate_adapter.model import WINDOW_S, Model, Slo

__all__ = ["DecisionView", "ModelView", "PinWish", "SloWish"]


class _Wish(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class SloWish(_Wish):
    """A new SLO; a key left out keeps its value."""

    latency_ms: float | None = Field(default=None, gt=0, le=3_600_000)
    objective: float | None = Field(default=None, gt=0, lt=1)
    min_quality: float | None = Field(default=None, ge=0, le=1)

    def applied_to(self, slo: Slo) -> Slo:
        return Slo(
            latency_s=slo.latency_s if self.latency_ms is None else self.latency_ms / 1000,
            objective=slo.objective if self.objective is None else self.objective,
            min_quality=slo.min_quality if self.min_quality is None else self.min_quality,
        )


class PinWish(_Wish):
    """The level every request is served at, by name or index."""

    level: str | int


class SloView(BaseModel):
    latency_ms: float
    objective: float
    min_quality: float


class LevelView(BaseModel):
    index: int
    name: str
    quality: float
    macs: int
    batch_ms: float | None = Field(description="largest batch on this device; null: not measured")
    allowed: bool = Field(description="within the range of the last decision, and good enough")


class PolicyView(BaseModel):
    """The policy word as last published."""

    epoch: int
    sequence: int
    margin: float
    dearest: int
    cheapest: int
    quality_floor_level: int


class ObservationView(BaseModel):
    """The last ten seconds; null: not known."""

    window_s: float = WINDOW_S
    load_per_s: float | None
    served_per_s: float | None
    queue_depth: int | None
    level: int | None = Field(description="of the latest batch")
    answers: dict[int, int] | None = Field(description="by level")
    attainment: float | None = Field(description="share answered within the SLO")
    degraded: float | None = Field(description="share of the answers above level 0")
    age_p99_ms: float | None
    correction: float | None = Field(description="measured / predicted batch time")


class DecisionView(BaseModel):
    """One decision; load in requests per second, smoothed over a second."""

    time: datetime
    reason: Reason
    margin: float
    dearest: int
    cheapest: int
    load_per_s: float | None
    queue_depth: int | None
    credit: float = Field(description="misses the error budget still allows; negative: debt")

    @staticmethod
    def of(decision: Decision) -> DecisionView:
        wall = time.time() - time.monotonic() + decision.at
        return DecisionView(
            time=datetime.fromtimestamp(wall, UTC),
            reason=decision.reason,
            margin=decision.margin,
            dearest=decision.dearest,
            cheapest=decision.cheapest,
            load_per_s=decision.load,
            queue_depth=decision.queue_depth,
            credit=decision.credit,
        )


class ModelView(BaseModel):
    name: str
    problem: str | None = Field(description="why the model is not under control; null: it is")
    slo: SloView
    pin: str | None
    levels: list[LevelView]
    policy: PolicyView | None
    observation: ObservationView | None
    decision: DecisionView | None

    @staticmethod
    def of(model: Model) -> ModelView:
        return ModelView(
            name=model.name,
            problem=model.problem(time.monotonic()),
            slo=SloView(
                latency_ms=model.slo.latency_s * 1000,
                objective=model.slo.objective,
                min_quality=model.slo.min_quality,
            ),
            pin=None if model.pin is None else model.ladder.levels[model.pin].name,
            levels=[_level(model, index) for index in range(len(model.ladder.levels))],
            policy=_policy(model),
            observation=_observation(model),
            decision=None if model.decision is None else DecisionView.of(model.decision),
        )


def _level(model: Model, index: int) -> LevelView:
    level, table, decision = model.ladder.levels[index], model.table, model.decision
    largest = None if table is None else table.batch_seconds(index, table.batches[-1])
    return LevelView(
        index=index,
        name=level.name,
        quality=model.ladder.quality(index),
        macs=level.macs,
        batch_ms=None if largest is None else largest * 1000,
        allowed=decision is not None and decision.dearest <= index <= decision.cheapest,
    )


def _policy(model: Model) -> PolicyView | None:
    if model.policy is None:
        return None
    return PolicyView(**{name: getattr(model.policy, name) for name in PolicyView.model_fields})


def _observation(model: Model) -> ObservationView | None:
    window = model.window()
    if window is None:
        return None
    return ObservationView(
        load_per_s=window.load,
        served_per_s=window.throughput,
        queue_depth=window.queue_depth,
        level=window.level,
        answers=None
        if window.answers is None
        else {k: round(n) for k, n in window.answers.items()},
        attainment=window.attainment,
        degraded=window.degraded,
        age_p99_ms=None if window.age_p99_s is None else window.age_p99_s * 1000,
        correction=window.correction,
    )

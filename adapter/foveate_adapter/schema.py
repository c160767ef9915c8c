"""Requests and responses of the HTTP API. Unknown keys and wrong types are rejected by name."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from foveate_adapter.control import Reason
from foveate_adapter.model import Decided, Model
from foveate_adapter.slo import Slo

__all__ = ["ClassView", "DecisionView", "Explanation", "Fate", "ModelView", "PinWish", "Problem"]


class Problem(BaseModel):
    """Why a request was rejected; names key and value."""

    detail: str


class PinWish(BaseModel):
    """The level every request is served at, by name or index."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    level: str | int
    expires_s: float | None = Field(
        default=None, gt=0, le=31_536_000, description="seconds; null: until unpinned"
    )


class PinView(BaseModel):
    level: str
    expires_s: float | None = Field(description="seconds left; null: until unpinned")


class LevelView(BaseModel):
    index: int
    name: str
    quality: float
    macs: int
    batch_ms: float | None = Field(description="largest batch on this device; null: not measured")
    allowed: bool = Field(description="within the last decision's range and the quality floor")


class PolicyView(BaseModel):
    """The policy word as last published, by this adapter or another one."""

    epoch: int
    sequence: int
    slo_ms: float
    margin: float
    dearest: int
    cheapest: int
    quality_floor_level: int


class ObservationView(BaseModel):
    """What happened in the last ``window_s``; null: unknown."""

    window_s: float
    load_per_s: float | None
    served_per_s: float | None
    queue_depth: int | None
    level: int | None = Field(description="of the latest batch")
    answers: dict[int, int] | None = Field(description="by level")
    attainment: float | None = Field(description="share answered within the SLO")
    degraded: float | None = Field(description="share of the answers above level 0")
    quality: float | None = Field(description="mean of the answers, on the ladder's scale")
    tokens_per_image: float | None = Field(description="mean of the answers, in the last block")
    age_p50_ms: float | None
    age_p99_ms: float | None
    power_w: float | None = Field(description="of all GPUs of the server")
    correction: float | None = Field(description="measured / predicted batch time")


class ClassView(BaseModel):
    index: int
    label: str | None
    score: float = Field(description="probability")


class Fate(StrEnum):
    """What happened to a patch."""

    KEPT = "kept"  # has its own token
    MERGED = "merged"  # shares a token with similar patches
    WORD = "word"  # shares a token with patches of the same visual word
    PACKAGED = "packaged"  # is part of the one token that stands for all unimportant patches
    DROPPED = "dropped"  # has no token


class Explanation(BaseModel):
    """How one image was answered. Patches are in raster order, ``rows`` by ``columns``."""

    level: int
    level_name: str
    classes: list[ClassView] = Field(description="best first")
    rows: int
    columns: int
    tokens: list[int] = Field(description="where each patch went; -1 dropped, -2 packaged")
    fates: list[Fate] = Field(description="what happened to each patch")


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
    def of(decided: Decided) -> DecisionView:
        decision = decided.decision
        return DecisionView(
            time=decided.time,
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
    read_only: bool = Field(description="another adapter publishes its policy")
    slo: Slo
    pin: PinView | None
    levels: list[LevelView]
    policy: PolicyView | None
    observation: ObservationView | None
    decision: DecisionView | None

    @staticmethod
    def of(model: Model) -> ModelView:
        now = time.monotonic()
        with model.lock:
            return ModelView(
                name=model.name,
                problem=model.holder or model.problem(now),
                read_only=model.holder is not None,
                slo=model.slo,
                pin=_pin(model, now),
                levels=[_level(model, index) for index in range(len(model.ladder.levels))],
                policy=_policy(model),
                observation=_observation(model),
                decision=None if model.latest is None else DecisionView.of(model.latest),
            )


def _pin(model: Model, now: float) -> PinView | None:
    if model.pin is None:
        return None
    left = model.pin.until - now
    return PinView(
        level=model.ladder.levels[model.pin.level].name,
        expires_s=None if math.isinf(left) else max(0.0, left),
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
    policy = model.policy
    if policy is None:
        return None
    return PolicyView(
        epoch=policy.epoch,
        sequence=policy.sequence,
        slo_ms=policy.slo_ns / 1e6,
        margin=policy.margin,
        dearest=policy.dearest,
        cheapest=policy.cheapest,
        quality_floor_level=policy.quality_floor_level,
    )


def _observation(model: Model) -> ObservationView | None:
    window = model.window()
    if window is None:
        return None
    answers = {} if window.answers is None else {k: n for k, n in window.answers.items() if n}
    return ObservationView(
        window_s=model.window_s,
        load_per_s=window.load,
        served_per_s=window.throughput,
        queue_depth=window.queue_depth,
        level=window.level,
        answers=None
        if window.answers is None
        else {k: round(n) for k, n in window.answers.items()},
        attainment=window.attainment,
        degraded=window.degraded,
        quality=_mean(answers, model.ladder.quality),
        tokens_per_image=_mean(answers, lambda level: model.ladder.levels[level].tokens[-1]),
        age_p50_ms=None if window.age_p50_s is None else window.age_p50_s * 1000,
        age_p99_ms=None if window.age_p99_s is None else window.age_p99_s * 1000,
        power_w=window.power_w,
        correction=window.correction,
    )


def _mean(answers: Mapping[int, float], value: Callable[[int], float]) -> float | None:
    """Mean of a level's value, weighted by answers; None without answers."""
    total = sum(answers.values())
    return sum(n * value(level) for level, n in answers.items()) / total if total else None

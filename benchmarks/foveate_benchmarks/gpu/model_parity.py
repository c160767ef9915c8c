"""Whole models against float64, the choice of tokens forced.

A 16-bit model scores tokens a little differently, and near a tie keeps another one: then answers
differ, and nothing is wrong. So the choices that float64 made on the CPU are replayed on the GPU,
and what remains is arithmetic. How often free choices agree is reported apart.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from foveate.inference.fixed import Forward, Routes
from foveate.inference.token_map import trace
from foveate.levels.schedule import Schedule
from foveate.reduce.merge import Merge
from foveate.reduce.prune import Prune
from foveate.reduce.vwt_inter import VwtInter
from foveate.reduce.vwt_intra import VwtIntra
from foveate_benchmarks.gpu.clock import Clock
from foveate_benchmarks.gpu.models import ROUTES, Spec, counts, pruned, random_vit, spec, tome
from foveate_benchmarks.gpu.rows import Rows, table
from foveate_kernels.packed import Plan

__all__ = ["centred", "measure", "report"]

BATCH, REAL = 8, 5  # images a pass has room for, and those of a batch that is not full
REPLAYS = 20
REDUCERS = (Prune, Merge, VwtIntra, VwtInter)
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
# Largest relative error of centred logits by PyTorch's operators, some four times that of DeiT-S on
# a CPU. Ours may have twice the error of those: they sum in another order.
LIMIT = {"fp16": 4e-3, "bf16": 3e-2}


def measure(rows: Rows, clock: Clock) -> None:
    model = spec("deit-s", clock.quick)
    half = model.config.patches // 2
    levels = {
        "dense": Schedule(),
        "keep 0.7 package": pruned(model, 7, "package"),
        "keep 0.5 drop": pruned(model, 5, "drop"),
        "vwt-intra keep 0.7": Schedule(
            input=VwtIntra(keep=half - 1),
            blocks={
                block: Prune(block=block, keep=keep // 2, fate="package")
                for block, keep in counts(model, 7).items()
            },
        ),
        "vwt-inter": Schedule(input=VwtInter(count=half)),
        "tome": tome(model),
    }
    for level, schedule in levels.items():
        for name in DTYPES:
            key = f"model {level}: {name}"
            rows.run(key, partial(_forced, model, schedule, name, clock))
            rows.run(f"{key} free", partial(_free, model, schedule, name, clock))
        rows.run(f"model {level}: graph", partial(_graph, model, schedule, clock))
        rows.run(f"model {level}: padded", partial(_padded, model, schedule, clock))


def _forced(model: Spec, schedule: Schedule, name: str, clock: Clock) -> dict[str, Any]:
    """Errors of every route, with the plans of float64."""
    case = _Case(model, schedule, DTYPES[name], clock)
    with _recorded() as plans:
        exact = centred(case.exact()[0])
    errors: dict[str, float] = {}
    for route, routes in ROUTES.items():
        with _replayed(plans):
            logits = centred(case.forward(routes)()[0])
        errors[route] = float((logits - exact).norm() / exact.norm())
    allowed = 2 * errors["torch"] + 1e-4
    wrong = [f"{r}: off by {e:.1e}" for r, e in errors.items() if not e <= allowed]
    if not errors["torch"] <= LIMIT[name]:
        wrong.append(f"torch: off by {errors['torch']:.1e}, not {LIMIT[name]:g}")
    return {"errors": errors, "wrong": wrong}


def _free(model: Spec, schedule: Schedule, name: str, clock: Clock) -> dict[str, Any]:
    """How often a 16-bit model chooses and answers as float64 does: reported, not judged."""
    case = _Case(model, schedule, DTYPES[name], clock)
    exact, exact_dests = case.exact()
    scores, dests = case.forward(ROUTES["attention gelu norm"])()
    kept, want = (
        trace(schedule, model.config, moves, BATCH) >= 0 for moves in (dests, exact_dests)
    )
    same = (kept & want).sum(1) / (kept | want).sum(1)
    agree = scores.cpu().argmax(1) == exact.argmax(1)
    return {"jaccard": float(same.mean()), "top1_agreement": float(agree.float().mean())}


def _graph(model: Spec, schedule: Schedule, clock: Clock) -> dict[str, Any]:
    """Replays of a CUDA graph are equal to the pass they captured, to the bit."""
    wrong = []
    for route in ("torch", "attention gelu norm"):
        run = _Case(model, schedule, torch.float16, clock).forward(ROUTES[route])
        eager = run()[0].clone()
        replay = clock.capture(run)
        if not all(torch.equal(replay()[0], eager) for _ in range(REPLAYS)):
            wrong.append(f"{route}: a replay differs from the eager pass")
    return {"errors": {}, "wrong": wrong}


def _padded(model: Spec, schedule: Schedule, clock: Clock) -> dict[str, Any]:
    """An image's answer is the same in a full batch and in one that is not, to the bit."""
    wrong = []
    for route in ("torch", "attention gelu norm"):
        case = _Case(model, schedule, torch.float16, clock)
        run = case.forward(ROUTES[route])
        full = run()[0][:REAL].clone()
        case.present.clamp_(max=REAL)
        case.pixels[REAL:] = 255 - case.pixels[REAL:]
        if not torch.equal(run()[0][:REAL], full):
            wrong.append(f"{route}: answers of a batch that is not full differ")
    return {"errors": {}, "wrong": wrong}


class _Case:
    """One level of a random model, on the device in 16 bits and on the CPU in float64."""

    def __init__(self, model: Spec, schedule: Schedule, dtype: torch.dtype, clock: Clock) -> None:
        config = model.config
        self._vit = random_vit(config, clock.device, dtype)
        shape = (BATCH, config.height, config.width, 3)
        self._words = torch.randn(200, config.patch**2 * 3).to(dtype)
        self._schedule, self._device = schedule, clock.device
        self.pixels = torch.randint(0, 256, shape, dtype=torch.uint8).to(clock.device)
        self.present = torch.arange(BATCH + 1, dtype=torch.int32, device=clock.device)

    def exact(self) -> tuple[Tensor, list[Tensor]]:
        vit = copy.deepcopy(self._vit).to("cpu", torch.float64)
        forward = Forward(self._schedule, vit, self._words.double(), Routes())
        return forward(self.pixels.cpu(), self.present.cpu())

    def forward(self, routes: Routes) -> Callable[[], tuple[Tensor, list[Tensor]]]:
        words = self._words.to(self._device)
        level = Forward(self._schedule, self._vit, words, routes)
        return partial(level, self.pixels, self.present)


@contextmanager
def _recorded() -> Iterator[list[Plan]]:
    """Keep the plans that reducers make."""
    plans: list[Plan] = []

    def recorder(original: Callable[..., Plan]) -> Callable[..., Plan]:
        def plan(*args: Any) -> Plan:
            plans.append(original(*args))
            return plans[-1]

        return plan

    with _plans_by({kind: recorder(kind.plan) for kind in REDUCERS}):
        yield plans


@contextmanager
def _replayed(plans: list[Plan]) -> Iterator[None]:
    """Reducers take these plans, in their order, whatever the scores are."""
    rest = iter(plans)

    def plan(self: object, first: Any, *args: Any) -> Plan:
        device = getattr(first, "x", first).device  # of rows, or of what patches are judged by
        dest, lengths, packaged, weight = next(rest)
        return Plan(
            dest.to(device),
            lengths.to(device),
            packaged.to(device),
            None if weight is None else weight.to(device),
        )

    with _plans_by(dict.fromkeys(REDUCERS, plan)):
        yield


@contextmanager
def _plans_by(makers: dict[Any, Callable[..., Plan]]) -> Iterator[None]:
    patches = [patch.object(kind, "plan", maker) for kind, maker in makers.items()]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def centred(scores: Tensor) -> Tensor:
    """Logits less their mean, from probabilities: [B, classes] float64."""
    logits = scores.cpu().double().log()
    return logits - logits.mean(1, keepdim=True)


def report(rows: Rows) -> None:
    lines = [
        (key.removeprefix("model "), f"{row['jaccard']:.4f}", f"{row['top1_agreement']:.3f}")
        for key, row in rows.items("model ")
        if "jaccard" in row
    ]
    table("free choices", ("level", "tokens in common", "same answer"), lines)

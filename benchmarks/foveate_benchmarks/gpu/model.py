"""Part ``model``: how fast every level of a model is, and who else is how fast.

All contenders of a batch size are captured in CUDA graphs and timed in turn, round by round, but
the compiled one, which comes last because compiling takes a minute and more. They start from what
they are made for: ours from bytes, others from normalised images. Dense peers are timm's model (or
ours, in plain PyTorch), launched call by call, in a graph, and compiled; level 0 with PyTorch's
FlashAttention; and ToMe. The ideal speed-up of a level is its ratio of multiply-accumulates; the
realised share of it is (speed-up - 1) / (ideal - 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from foveate.inference.fixed import Forward
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT
from foveate_benchmarks.gpu.asked import Asked
from foveate_benchmarks.gpu.clock import Clock
from foveate_benchmarks.gpu.contenders import Dense, FlashForward, maker, normalised
from foveate_benchmarks.gpu.models import ROUTES, SERVED, Spec, random_vit, spec, tome
from foveate_benchmarks.gpu.rows import Rows, table

__all__ = ["measure", "report"]

BATCHES = (1, 8, 32, 128)
COMPILED = (1, 32)
REDUCING = ("select_tokens", "compact_tokens", "cls_importance", "patch_variance")
DENSE, OURS = "dense", "foveate"
# Batches that keep a GPU busy: there the bars on what a level realises hold.
BUSY = {"deit-s": (), "deit-b": (32, 128), "vit-l-384": (8, 32, 128)}
REALISED = {"deit-b": 0.75, "vit-l-384": 0.85}
SELECTION = {("deit-b", 32), ("vit-l-384", 8)}

Run = Callable[[], object]


@torch.inference_mode()
def measure(rows: Rows, clock: Clock, asked: Asked) -> None:
    rows.data["dense peer"] = maker()
    model = _spec(asked, clock.quick)
    vit = random_vit(model.config, clock.device, torch.float16 if clock.cuda else torch.float32)
    batches = asked.batches or ((1, 2) if clock.quick else BATCHES)
    for batch in batches:
        _time(rows, clock, model, vit, batch, asked)
        for level in model.levels():
            if (route := fastest(rows, batch, level)) is not None:
                given = (clock, model, vit, batch, level, route)
                rows.run(f"b{batch} {level} selection", partial(_selection, *given))
                if asked.energy:
                    rows.run(f"b{batch} {level} energy", partial(_energy, *given))
    for batch in COMPILED if clock.cuda and _wanted(asked, model, f"{DENSE} compiled") else ():
        if batch in batches:
            rows.run(f"b{batch} {DENSE} compiled", partial(_compiled, clock, vit, batch))


def _wanted(asked: Asked, model: Spec, who: str) -> bool:
    """``who`` is the key of a row without its batch: a level and a route, or a peer."""
    level = next((level for level in model.levels() if who.startswith(f"{level} ")), "")
    route = who.removeprefix(f"{level} ").removeprefix(f"{OURS} ")
    named = [route, f"{level} {route}"]
    if route == SERVED:
        named += ["served", f"{level} served"]
    return asked.routes is None or any(name.startswith(asked.routes) for name in named)


def _time(rows: Rows, clock: Clock, model: Spec, vit: ViT, batch: int, asked: Asked) -> None:
    """Time what has no row yet, together."""
    if f"b{batch} timing" in rows:  # failed before
        return
    pool = torch.cuda.graph_pool_handle() if clock.cuda else None
    runs: dict[str, Run] = {}
    for key, build in _contenders(clock, model, vit, batch, pool):
        wanted = _wanted(asked, model, key.removeprefix(f"b{batch} "))
        if wanted and key not in rows and (run := rows.attempt(key, build)) is not None:
            runs[key] = run
    timings = rows.attempt(f"b{batch} timing", lambda: clock.in_turn(runs)) if runs else None
    for key, timing in (timings or {}).items():
        rows.put(key, {**timing, "images_per_s": batch / timing["ms"] * 1e3})


def _contenders(
    clock: Clock, model: Spec, vit: ViT, batch: int, pool: Any
) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Key of a row, and what builds the run it times."""

    def ours(kind: type[Forward], *args: Any) -> Run:
        return clock.capture(_pass(kind(*args), vit, batch), pool)

    for level, schedule in model.levels().items():
        for route, routes in ROUTES.items():
            yield (
                f"b{batch} {level} {OURS} {route}",
                partial(ours, Forward, schedule, vit, None, routes),
            )
        if clock.cuda and find_spec("torch.nn.attention.varlen"):
            for route in ("torch", "gelu norm"):
                yield (
                    f"b{batch} {level} flash {route}",
                    partial(ours, FlashForward, schedule, vit, None, ROUTES[route]),
                )
    for route in ("torch", "attention gelu norm"):
        merging = partial(ours, Forward, tome(model), vit, None, ROUTES[route])
        yield f"b{batch} tome {route}", merging
    for how in ("eager", "graph") if clock.cuda else ("eager",):
        yield f"b{batch} {DENSE} {how}", partial(_dense, clock, vit, batch, how, pool)


def _compiled(clock: Clock, vit: ViT, batch: int) -> dict[str, Any]:
    timing = clock.in_turn({"": _dense(clock, vit, batch, "compiled")})[""]
    return {**timing, "images_per_s": batch / timing["ms"] * 1e3}


def _pass(forward: Forward, vit: ViT, batch: int) -> Run:
    """A full batch of random images through it."""
    config, device = vit.config, vit.cls_token.device
    shape = (batch, config.height, config.width, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    present = torch.arange(batch + 1, dtype=torch.int32, device=device)
    return lambda: forward(pixels, present)[0]


def _dense(clock: Clock, vit: ViT, batch: int, how: str, pool: Any = None) -> Run:
    model: Any = Dense(vit)
    config = vit.config
    shape = (batch, config.height, config.width, 3)
    with torch.inference_mode(False):
        pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=clock.device)
        images = normalised(pixels, vit)
    _same_answers(model(images), vit, pixels)
    if how == "compiled":
        # The mode's own graphs copy their inputs; captured like the others it is a little faster.
        model = torch.compile(model, mode="max-autotune-no-cudagraphs", dynamic=False)
    run = partial(model, images)
    return run if how == "eager" else clock.capture(run, pool)


def _same_answers(scores: Tensor, vit: ViT, pixels: Tensor) -> None:
    """A peer that computes something else would be no peer."""
    forward = Forward(Schedule(), vit, None, ROUTES["torch"])
    present = torch.arange(len(pixels) + 1, dtype=torch.int32, device=pixels.device)
    expected = forward(pixels, present)[0]
    error = float((scores - expected).norm() / expected.norm())
    if not error < 0.05:
        raise ValueError(f"the peer's answers are off by {error:.3f}")


def _selection(
    clock: Clock, model: Spec, vit: ViT, batch: int, level: str, route: str
) -> dict[str, Any]:
    """Share of the kernels' time spent on choosing and moving tokens."""
    if not clock.cuda or level == DENSE:
        return {"skipped": "nothing is chosen" if level == DENSE else "a CPU runs no kernels"}
    apart = replace(ROUTES[route], attention="torch")  # scores in a kernel of their own
    forward = Forward(model.levels()[level], vit, None, apart)
    kernels = clock.kernels(_pass(forward, vit, batch))
    ours = {name: us for name, us in kernels.items() if name.startswith(REDUCING)}
    return {"share": sum(ours.values()) / sum(kernels.values()), "microseconds": ours}


def _energy(
    clock: Clock, model: Spec, vit: ViT, batch: int, level: str, route: str
) -> dict[str, Any]:
    if not clock.cuda:
        return {"skipped": "a CPU has no NVML"}
    try:
        import pynvml
    except ImportError as error:
        return {"skipped": str(error)}
    forward = Forward(model.levels()[level], vit, None, ROUTES[route])
    try:
        return {"joules_per_image": clock.joules(clock.capture(_pass(forward, vit, batch))) / batch}
    except pynvml.NVMLError as error:  # virtual machines may hide the counter
        return {"skipped": str(error)}


def fastest(rows: Rows, batch: int, level: str) -> str | None:
    """Our route with the least time; None if there is no time."""
    prefix = f"b{batch} {level} {OURS} "
    times = {key.removeprefix(prefix): row["ms"] for key, row in rows.items(prefix)}
    return min(times, key=times.__getitem__) if times else None


def report(rows: Rows, asked: Asked) -> dict[str, bool]:
    name = str(asked.name)
    model = _spec(asked, rows.hardware["identity"]["quick"])
    bars: dict[str, bool] = {}
    lines: list[tuple[str, ...]] = []
    for batch in sorted({int(key.split()[0][1:]) for key, _ in rows.items()}):
        found = _levels(rows, model, batch)
        if DENSE not in found:
            continue
        others = _others(rows, batch)
        lines += [_line(batch, level, facts) for level, facts in found.items()]
        dense = found[DENSE]["ms"]
        for other, ms in sorted(others.items(), key=lambda item: item[1]):
            ideal = ""
            if other.startswith("tome"):
                macs = model.levels()[DENSE].macs(model.config)
                ideal = f"{macs / tome(model).macs(model.config):.2f}"
            numbers = (f"{ms:.3f}", f"{batch / ms * 1e3:.0f}", f"{dense / ms:.2f}", ideal)
            lines.append((str(batch), "", other, *numbers, "", "", ""))
        bars |= _bars(name, batch, found, others)
        print(f"fastest at batch {batch}: {_fastest_of_all(rows, model, batch)}")
    print(f"dense peer: {rows.data['dense peer']}")
    head = ("batch", "level", "by", "ms", "images/s", "speed-up", "ideal", "realised")
    table(name, (*head, "selection", "J/image"), lines)
    return {} if rows.hardware["identity"]["quick"] else bars


def _levels(rows: Rows, model: Spec, batch: int) -> dict[str, dict[str, Any]]:
    """What is known of each level by its fastest route."""
    found: dict[str, dict[str, Any]] = {}
    schedules = model.levels()
    macs = {level: schedule.macs(model.config) for level, schedule in schedules.items()}
    for level in schedules:
        route = fastest(rows, batch, level)
        if route is None or (level != DENSE and DENSE not in found):
            continue
        row = rows[f"b{batch} {level} {OURS} {route}"]
        speed = found[DENSE]["ms"] / row["ms"] if found else 1.0
        ideal = macs[DENSE] / macs[level]
        found[level] = {
            **row,
            "route": route,
            "speed": speed,
            "ideal": ideal,
            "realised": (speed - 1) / (ideal - 1) if ideal > 1 else None,
            "selection": rows[f"b{batch} {level} selection"].get("share"),
            "joules": rows[f"b{batch} {level} energy"].get("joules_per_image"),
        }
    return found


def _others(rows: Rows, batch: int) -> dict[str, float]:
    """ms of all who are not ours, level 0 unless named otherwise."""
    return {
        key.removeprefix(f"b{batch} "): row["ms"]
        for key, row in rows.items(f"b{batch} ")
        if "ms" in row and f" {OURS} " not in key
    }


def _line(batch: int, level: str, facts: dict[str, Any]) -> tuple[str, ...]:
    forms = {"ms": ".3f", "images_per_s": ".0f", "speed": ".2f", "ideal": ".2f"}
    forms |= {"realised": ".2f", "selection": ".3f", "joules": ".4f"}
    known = ((facts[key], form) for key, form in forms.items())
    cells = ("" if value is None else format(value, form) for value, form in known)
    return (str(batch), level, facts["route"], *cells)


def _bars(
    name: str, batch: int, found: dict[str, dict[str, Any]], others: dict[str, float]
) -> dict[str, bool]:
    """What was promised of this model at this batch size, as far as it was measured."""
    bars: dict[str, bool] = {}

    def bar(what: str, value: float | None, bound: float, *, at_most: bool = False) -> None:
        if value is not None:
            sense = "most" if at_most else "least"
            text = f"b{batch} {what}: {value:.3f}, at {sense} {bound:.3f}"
            bars[text] = value <= bound if at_most else value >= bound

    dense = found[DENSE]
    peers = [ms for other, ms in others.items() if other.startswith(DENSE)]
    bar("level 0 over the best dense peer", min(peers) / dense["ms"] if peers else None, 0.95)
    for level in ("keep 0.7", "keep 0.5"):
        facts = found.get(level, {})
        if (name, batch) in SELECTION:
            bar(f"{level}, time in selection", facts.get("selection"), 0.05, at_most=True)
        if batch in BUSY[name]:
            bar(f"{level}, realised share", facts.get("realised"), REALISED[name])
    if (name, batch) == ("vit-l-384", 1):
        bar("keep 0.7, speed-up", found.get("keep 0.7", {}).get("speed"), 1.25)
    if batch in BUSY[name] and "vwt-intra" in found:
        facts = found["vwt-intra"]
        share = 1 / facts["ideal"]
        bar("vwt-intra, share of time", facts["ms"] / dense["ms"], share + 0.01, at_most=True)
        if facts["joules"] and dense["joules"]:
            energy = facts["joules"] / dense["joules"]  # the counter is good to a few per cent
            bar("vwt-intra, share of energy", energy, share + 0.05, at_most=True)
    return bars


def _fastest_of_all(rows: Rows, model: Spec, batch: int) -> str:
    """The route with the least time, relative to PyTorch's, on average over the levels."""
    relative: dict[str, float] = {}
    keys = [f"b{batch} {level} {OURS} " for level in model.levels()]
    for route in ROUTES:
        if all("ms" in rows[f"{key}{who}"] for key in keys for who in (route, "torch")):
            times = (rows[f"{key}{route}"]["ms"] / rows[f"{key}torch"]["ms"] for key in keys)
            relative[route] = sum(times) / len(keys)
    if not relative:
        return "not measured"
    best = min(relative, key=relative.__getitem__)
    return f"{ROUTES[best]}, {relative[best]:.3f} of the time of PyTorch's"


def _spec(asked: Asked, quick: bool) -> Spec:
    assert asked.name is not None
    return spec(asked.name, quick)

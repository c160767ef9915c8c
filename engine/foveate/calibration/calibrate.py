"""From a model and images to its ladder: all steps in order.

Levels are searched and chosen on one set of images and reported on another, so that the choice does
not bias the qualities in ``ladder.json``. Everything in a ladder is measured, not estimated.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from foveate.calibration.candidate import WEIGHTS
from foveate.calibration.check import check_images, load_models
from foveate.calibration.contest import hold_contests
from foveate.calibration.explore import explore
from foveate.calibration.front import climb, front
from foveate.calibration.journal import Journal
from foveate.calibration.max_batch import GPU_SIZES, SIZES, MaxBatch, choose_max_batch
from foveate.calibration.measurements import DENSE, Bench
from foveate.calibration.result import Calibration, Trial
from foveate.calibration.seeds import find_seeds
from foveate.calibration.settings import Settings
from foveate.calibration.vocabulary import WORDS, save_words
from foveate.images.dataset import Images
from foveate.images.folder import Progress
from foveate.inference.block_times import BlockTimes, measure_blocks
from foveate.inference.energy import energy_counter, image_joules
from foveate.inference.engine import Engine, batch_sizes
from foveate.inference.latency import hardware, measure, table_path
from foveate.inference.runtime import Runtime
from foveate.levels.ladder import Quality
from foveate.model.vit import ViT
from foveate.reduce.selector_file import load_selectors

__all__ = ["calibrate"]

_CONTEST = 500  # images to measure every uniform schedule on
_SAMPLES = 6  # images whose token maps go into the report


def calibrate(
    folder: Path,
    model: str,
    choose: Images,
    report: Images,
    settings: Settings | None = None,
    *,
    state: Path,
    vocabulary: str | None = None,
    variants: Sequence[str] = (),
    selector: str | None = None,
    runtime: Runtime | None = None,
    fp8: bool = False,
    progress: Progress = lambda *_: None,
    clock: Callable[[], float] = time.process_time,
) -> Calibration:
    """Write ``ladder.json`` (and a vocabulary, if a level uses one just learned) into ``folder``.

    Deterministic for given measured times. Reuses what an interrupted run has measured, from
    ``state``.

    Args:
        folder: version folder that holds ``model.safetensors``.
        model: name of the model.
        choose, report: images to choose levels on, and to measure the chosen ones on.
        settings: budgets, limits, search effort, and what the largest batch is chosen by.
        state: folder to store measurements in.
        vocabulary: file of visual words in ``folder``; learned from ``choose`` if None.
        variants: further weights files in ``folder``: slimmer models of the same task.
        selector: file of token selectors in ``folder``; without, no level has a learned score.
        runtime: what computes; as for serving, if not given.
        fp8: also offer what a search finds with its products in FP8, level 0's too; for a device
            that has it (:func:`~foveate.inference.fp8.has_fp8`).
        progress: called with stage, steps done and total steps.
        clock: seconds; of the process, to count work alone.

    Raises :class:`~foveate.errors.InputError` or :class:`~foveate.errors.WeightsError` before
    work starts.
    """
    settings, runtime = settings or Settings(), runtime or Runtime.choose()
    limit = settings.time_limit_s
    deadline = None if limit is None else time.monotonic() + limit
    vits = load_models(folder, vocabulary, variants)
    configs = {name: vit.config for name, vit in vits.items()}
    trained = [*load_selectors(folder / selector, configs[WEIGHTS])] if selector else []
    check_images(configs[WEIGHTS], choose, report)

    files = [*vits, *(name for name in (vocabulary, selector) if name is not None)]
    scratch = (
        state / model / f"calibration-{_digest(folder, files, choose, report, settings, runtime)}"
    )
    scratch.mkdir(parents=True, exist_ok=True)
    for name in files:
        shutil.copy2(folder / name, scratch / name)
    words = vocabulary or f"words-{WORDS}.safetensors"
    if not (scratch / words).exists():
        save_words(scratch / words, choose, configs[WEIGHTS], settings.seed)
    journal = Journal(scratch / "journal.jsonl")
    sets = {
        "glance": choose.draw(settings.search_images // 4 or 1, settings.seed),
        "search": choose.draw(settings.search_images, settings.seed),
        "choose": choose,
        "contest": report[:_CONTEST],
        "report": report,
    }
    bench = Bench(
        scratch,
        model,
        configs,
        sets,
        journal,
        runtime=runtime,
        batch=settings.batch,
        clock=clock,
    )

    progress("time blocks and uniform schedules", 0, 1)
    blocks = {
        name: _block_times(name, vit, journal, settings, runtime, clock)
        for name, vit in vits.items()
    }
    named = {"vocabulary": words} | ({"selector": selector} if selector else {})
    seeds = find_seeds(bench, blocks, named, settings, trained)
    found = [DENSE, *explore(bench, seeds, settings, deadline, progress)]
    if fp8:
        found += [point.in_fp8 for point in found]
        seeds = seeds.with_twins()
    finalists = list({point.key: point for point in found}.values())
    for done, point in enumerate(finalists):
        progress("measure finalists", done, len(finalists))
        bench.outcome(point, "choose")
    seconds = bench.seconds(finalists)
    outcomes = [bench.outcome(point, "choose") for point in finalists]
    # Hundreds of images cannot tell neighbours apart by a count of right answers; how far answers
    # are from level 0's is a number for each of them.
    nearness = [-outcome.kl for outcome in outcomes]
    losses = [outcomes[0].score - outcome.score for outcome in outcomes]
    chosen = climb(seconds, nearness, losses, max_loss=settings.max_loss, step=settings.step)

    reported = []
    for done, index in enumerate(chosen):
        progress("measure levels", done, len(chosen))
        reported.append(bench.outcome(finalists[index], "report"))
    kept = [i for i, o in enumerate(reported) if reported[0].score - o.score <= settings.max_loss]
    chosen, reported = [chosen[i] for i in kept], [reported[i] for i in kept]
    levels = [finalists[index] for index in chosen]
    contests = hold_contests(bench, seeds, levels, progress)

    ladder = bench.ladder(levels, _monotone([outcome.quality for outcome in reported]))
    ladder.save(folder / "ladder.json")
    if vocabulary is None and any(level.vocabulary for level in ladder.levels):
        shutil.copy2(scratch / words, folder / words)
    progress("time the ladder", 0, 1)
    asked = settings.max_batch
    sizes = SIZES if runtime.graphs is None else GPU_SIZES
    engine = bench.engine(levels[1:], batch_sizes(asked) if asked else sizes)
    latency = measure(engine, clock=clock)
    max_batch = (
        MaxBatch(asked, "as asked for") if asked else choose_max_batch(latency, settings.slo_ms)
    )
    latency.up_to(max_batch.images).save(table_path(engine, state))
    joules = _joules(engine, settings.batch, progress)
    best = set(front(seconds, nearness))
    journal.close()
    samples = report.pixels[:_SAMPLES]
    return Calibration(
        settings=settings,
        ladder=ladder,
        latency=latency,
        max_batch=max_batch,
        joules=joules,
        outcomes=tuple(reported),
        trials=tuple(
            Trial(
                point=point,
                seconds=seconds[i],
                outcome=outcomes[i],
                on_front=i in best,
                level=chosen.index(i) if i in chosen else None,
            )
            for i, point in enumerate(finalists)
        ),
        contests=contests,
        samples=samples,
        token_maps=bench.token_maps(levels, samples),
        recalled=journal.recalled,
        measured=journal.added,
    )


def _digest(
    folder: Path,
    files: Sequence[str],
    choose: Images,
    report: Images,
    settings: Settings,
    runtime: Runtime,
) -> str:
    """Fingerprint of everything that a measurement depends on. Excludes what is searched for, such
    as budgets, so that other searches can reuse measurements."""
    sha = hashlib.sha256()
    for name in files:
        sha.update(name.encode() + (folder / name).read_bytes())
    facts = (
        hardware(runtime.graphs or torch.device("cpu")),
        runtime,
        choose.digest,
        report.digest,
        settings.batch,
        settings.search_images,
        settings.seed,
    )
    sha.update(repr(facts).encode())
    return sha.hexdigest()[:16]


def _joules(engine: Engine, batch: int, progress: Progress) -> tuple[float, ...] | None:
    """Of an image at each level, in batches of the size that levels are timed at."""
    read = energy_counter(engine.device)
    if read is None:
        return None
    found = []
    for level in range(len(engine.levels)):
        progress("measure energy", level, len(engine.levels))
        found.append(image_joules(engine, level, batch, read))
    return tuple(found)


def _block_times(
    name: str,
    vit: ViT,
    journal: Journal,
    settings: Settings,
    runtime: Runtime,
    clock: Callable[[], float],
) -> BlockTimes:
    table = journal.once(
        f"blocks {name}", lambda: asdict(measure_blocks(vit, settings.batch, runtime, clock=clock))
    )
    return BlockTimes(**table)


def _monotone(qualities: Sequence[Quality]) -> list[Quality]:
    """Lower a measured quality to the previous, dearer level's if it is above that."""
    out = [qualities[0]]
    for quality in qualities[1:]:
        last = out[-1]
        top1 = None
        if quality.top1 is not None and last.top1 is not None:
            top1 = min(quality.top1, last.top1)
        out.append(
            Quality(top1=top1, agreement=min(quality.agreement, last.agreement), n=quality.n)
        )
    return out

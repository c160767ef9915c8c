"""Train selectors for a model in a repository: checks, training, files and report."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from foveate.devices import choose_device
from foveate.errors import InputError
from foveate.images.dataset import Images
from foveate.images.digit_sets import training_images
from foveate.images.folder import Progress, read_folder
from foveate.images.labelled_folder import class_names
from foveate.images.pairs import check_data
from foveate.images.preprocess import read_preprocess
from foveate.inference.runtime import Runtime
from foveate.model.vit import ViT, ViTConfig, load_vit, save_vit
from foveate.reduce.selector_file import load_selectors, save_selectors
from foveate.reduce.selector_network import Selector
from foveate.repository import precision_of
from foveate.selector.blocktable import BlockTable, measure_block, read_block_table
from foveate.selector.budget import fit_counts, geometric
from foveate.selector.decision import Fate
from foveate.selector.problem import Problem, load_or_pose
from foveate.selector.pruned import by_attention, by_selector
from foveate.selector.recipe import Budget, Method, Recipe, after_warm_up, warm_up
from foveate.selector.report import served_report, threshold_report
from foveate.selector.search import search_plan
from foveate.selector.split import split
from foveate.selector.train import Trained, train

__all__ = ["Options", "run"]

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of ``foveate train-selector``; see its ``--help``."""

    repository: Path
    model: str
    budget_ms: float
    data: Path | None = None
    blocks: str = ""
    method: str = "distill"
    train_backbone: bool = False
    learn_ratios: bool = False
    warm_up: bool = True
    fate: str = "drop"
    per_head: bool = False
    table: Path | None = None
    device: str = "cpu"
    batch: int = 8
    images: int = 4096
    steps: int = 120
    max_drop: float = 0.01
    threads: int = 1
    seed: int = 0
    out: str = "selector.safetensors"

    @property
    def folder(self) -> Path:
        """Version folder of the model."""
        return self.repository / self.model / "1"

    def check(self) -> None:
        """Raise :class:`InputError` naming an option with an invalid value."""
        for key, value, choices in (
            ("method", self.method, get_args(Method)),
            ("fate", self.fate, get_args(Fate)),
        ):
            if value not in choices:
                raise InputError(f"{key}={value!r}: expected one of {', '.join(choices)}")
        for key, given in (
            ("train-backbone", self.train_backbone),
            ("learn-ratios", self.learn_ratios),
        ):
            if given and self.method != "gumbel":
                raise InputError(f"{key}: needs method=gumbel")
        if choose_device(self.device).type != "cpu" and self.table is not None:
            raise InputError(f"device={self.device!r}: expected no table, which has the times")
        if Path(self.out).name != self.out or not self.out.endswith(".safetensors"):
            raise InputError(f"out={self.out!r}: expected a file name NAME.safetensors")
        if self.out == WEIGHTS:
            raise InputError(f"out={self.out!r}: this is the weights file; choose another name")
        check_data(self.model, self.data)


def run(
    options: Options, progress: Progress = lambda *_: None, *, restart: bool = False
) -> dict[str, Any]:
    """Train, write the selectors (and weights, if they learned) beside the model, and report.

    An interrupted run leaves files ``OUT.checkpoint``, ``OUT.problem.json``, ``OUT.warm-up``; a run
    with the same options resumes from them. ``restart`` deletes them.

    Raises a :class:`~foveate.errors.FoveateError` before work starts if something cannot be used.
    """
    options.check()
    vit = load_vit(options.folder / WEIGHTS)
    vit.config.require_plain("train-selector")
    blocks = parse_blocks(options.blocks, vit.config)
    times = block_table(options, vit)
    if blocks is not None:  # reject an impossible budget before reading any image
        _counts(options, Problem(times, geometric(blocks)), vit.config)
    learning, validation = split(_images(options, vit.config), options.seed)

    posed, warm, warming, checkpoint = left = [
        options.folder / f"{options.out}.{end}"
        for end in ("problem.json", "warm-up", "warm-up.checkpoint", "checkpoint")
    ]
    if restart:
        _remove(left)
    torch.set_num_threads(options.threads)
    if blocks is not None:
        pose = functools.partial(Problem, times, geometric(blocks))
    else:
        pose = functools.partial(_search, options, vit, times, learning, validation, progress)
    asked = {
        key: value if isinstance(value, int | float | bool) else str(value)
        for key, value in asdict(options).items()
    }
    problem = load_or_pose(posed, asked, pose)
    recipe = Recipe(
        counts=_counts(options, problem, vit.config),
        method=options.method,  # type: ignore[arg-type]
        backbone=options.train_backbone,
        shared=not options.per_head,
        fate=options.fate,  # type: ignore[arg-type]
        steps=options.steps,
        budget=Budget(problem.times, options.budget_ms) if options.learn_ratios else None,
        seed=options.seed,
    )

    def learn(recipe: Recipe, checkpoint: Path, start: Mapping[int, Selector] | None) -> Trained:
        return train(
            vit, learning, validation, recipe, checkpoint=checkpoint, start=start, progress=progress
        )

    start = None
    if options.method == "gumbel" and options.warm_up:
        if not warm.exists():
            distilled = learn(warm_up(recipe), warming, None)
            save_selectors(warm, distilled.selectors)
        start = load_selectors(warm, vit.config)
    trained = learn(after_warm_up(recipe) if start else recipe, checkpoint, start)
    weights = _save(options, trained)
    report = _report(options, vit, trained, recipe, problem, validation, weights)
    _remove(left)
    return report


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def parse_blocks(text: str, config: ViTConfig) -> list[int] | None:
    """Blocks of ``--blocks``: ascending, without the last; None for ``auto``.

    Raises :class:`InputError` naming the range.
    """
    if text == "auto":
        return None
    if not text:
        return sorted({config.depth // 4, config.depth // 2, 3 * config.depth // 4})
    try:
        blocks = [int(part) for part in text.split(",")]
    except ValueError:
        blocks = []
    rising = blocks == sorted(set(blocks))
    if not blocks or not rising or blocks[0] < 0 or blocks[-1] >= config.depth:
        raise InputError(
            f"blocks={text!r}: expected auto, or ascending numbers in 0..{config.depth - 1} "
            "separated by commas"
        )
    return blocks


def block_table(options: Options, vit: ViT) -> BlockTable:
    """The table that was given, or one measured as levels are served; on a CPU with one thread."""
    if options.table is not None:
        return read_block_table(options.table, 1 + vit.config.patches)
    precision = precision_of(options.repository, options.model)
    device = choose_device(options.device)
    return measure_block(vit, options.batch, Runtime.choose(precision=precision, device=device))


def _counts(options: Options, problem: Problem, config: ViTConfig) -> dict[int, int]:
    return fit_counts(problem.times, problem.shape, config.depth, config.patches, options.budget_ms)


def _images(options: Options, config: ViTConfig) -> Images:
    if options.data is not None:
        model = options.repository / options.model
        return read_folder(
            options.data,
            config,
            class_names(model),
            read_preprocess(model),
            max_images=options.images,
            seed=options.seed,
        )

    return training_images(options.images, options.seed)


def _search(
    options: Options,
    vit: ViT,
    times: BlockTable,
    learning: Images,
    validation: Images,
    progress: Progress,
) -> Problem:
    """The layer-to-phase schedule; raises :class:`InputError` if it finds no block."""
    plans = itertools.count(1)

    def show(plan: Mapping[int, float], agreement: float) -> None:
        tried = ", ".join(f"{block}: {ratio:g}" for block, ratio in plan.items())
        progress(f"insert selectors: {{{tried}}} agrees {agreement:.4f}", next(plans), 0)

    shape = search_plan(
        vit, learning, validation, max_drop=options.max_drop, seed=options.seed, progress=show
    )
    if not shape:
        raise InputError(f"max_drop={options.max_drop:g}: too small for any block to lose a token")
    problem = Problem(times, shape)
    _counts(options, problem, vit.config)
    return problem


def _save(options: Options, trained: Trained) -> str:
    """Write what was learned; returns the name of the weights file it is for."""
    save_selectors(options.folder / options.out, trained.selectors, trained.counts)
    if not options.train_backbone:
        return WEIGHTS
    weights = options.out.removesuffix(".safetensors") + "-weights.safetensors"
    save_vit(trained.vit, options.folder / weights)
    return weights


def _report(
    options: Options,
    vit: ViT,
    trained: Trained,
    recipe: Recipe,
    problem: Problem,
    validation: Images,
    weights: str,
) -> dict[str, Any]:
    config, fate = vit.config, recipe.fate
    score = by_selector(trained.selectors)
    return {
        "model": options.model,
        "selector": options.out,
        "weights": weights,
        "reducers": [
            {"kind": "prune", "block": b, "keep": k, "fate": options.fate, "score": "selector"}
            for b, k in trained.counts.items()
        ],
        "budget_ms": options.budget_ms,
        "blocks_ms": float(problem.times.model_ms(trained.counts, config.depth, config.patches)),
        "dense_blocks_ms": float(problem.times.model_ms({}, config.depth, config.patches)),
        "steps": trained.steps,
        "parameters": sum(p.numel() for s in trained.selectors.values() for p in s.parameters()),
        "history": trained.history,
        "served": served_report(vit, trained.vit, trained.counts, score, validation, fate),
        "cls_attention": served_report(vit, vit, trained.counts, by_attention, validation, fate),
        "threshold": threshold_report(trained.vit, trained.selectors, validation, fate),
    }

"""From a model and images to a ladder, and on from where an interruption left it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from foveate.calibration import calibrate as module
from foveate.calibration.calibrate import calibrate
from foveate.calibration.candidate import WEIGHTS, Point
from foveate.calibration.journal import Journal
from foveate.calibration.max_batch import SIZES, batch_ms
from foveate.calibration.measurements import DENSE, Bench
from foveate.calibration.report import write_report
from foveate.calibration.settings import Settings
from foveate.errors import InputError, WeightsError
from foveate.images.dataset import Images
from foveate.inference.block_times import BlockTimes
from foveate.inference.energy import image_joules
from foveate.inference.engine import Engine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.inference.runtime import Runtime
from foveate.levels.ladder import Quality
from foveate.levels.latency_table import LatencyTable
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT, ViTConfig
from foveate.reduce.selector_file import save_selectors
from foveate.reduce.selector_network import Selector

TINY = ViTConfig(height=48, width=48, dim=32, depth=4, heads=2, mlp_dim=64)  # of version
Pair = tuple[Images, Images]
PYTORCH = Runtime(compiled=False, bf16=False, threads=1)
QUICK = Settings(budgets=(0.7, 0.4), max_loss=1.0, search_images=8, starts=1, patience=2.0)


def macs_as_times(engine: Engine, batches: Sequence[int] | None = None, **_: Any) -> LatencyTable:
    batches = batches or engine.batches
    rows = [[1e-9 * level.macs * batch for batch in batches] for level in engine.ladder.levels]
    return LatencyTable(
        device="none",
        ladder=engine.ladder.digest,
        batches=tuple(batches),
        seconds=tuple(map(tuple, rows)),
    )


def block_macs(vit: ViT, batch: int, *_: Any, **__: Any) -> BlockTimes:
    config, tokens = vit.config, range(4, vit.config.patches + 2)
    attention = [1e-9 * batch * (4 * n * config.dim**2 + 2 * n * n * config.dim) for n in tokens]
    mlp = [1e-9 * batch * 2 * n * config.dim * config.mlp_dim for n in tokens]
    return BlockTimes(
        tokens=[*tokens], attention=[attention] * config.depth, mlp=[mlp] * config.depth
    )


def macs_as_samples(bench: Bench, points: Sequence[Point]) -> dict[str, list[float]]:
    ladder = bench.ladder(points, [Quality(top1=None, agreement=0.0, n=0)] * len(points))
    return {
        point.key: [1e-9 * level.macs * 8]
        for point, level in zip(points, ladder.levels, strict=True)
    }


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose times are its multiply-accumulates."""
    monkeypatch.setattr(Bench, "_sample", macs_as_samples)
    monkeypatch.setattr(module, "measure", macs_as_times)
    monkeypatch.setattr(module, "measure_blocks", block_macs)


def test_a_ladder_for_a_gpu_is_found_through_graphs_and_its_energy_reported(
    version: Path,
    images: Pair,
    tmp_path: Path,
    steady: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a GPU the passes of graphs run as they are; the counter is played: 0.25 J a reading
    later."""
    joules = iter(range(1000))
    monkeypatch.setattr(module, "energy_counter", lambda _: lambda: next(joules) / 4)
    monkeypatch.setattr(module, "image_joules", partial(image_joules, seconds=0))
    runtime = Runtime(compiled=False, bf16=False, threads=1, graphs=torch.device("cpu"))
    found = calibrate(version, "toy", *images, QUICK, state=tmp_path / "state", runtime=runtime)
    assert len(found.ladder.levels) > 1
    assert found.joules == (0.25 / 8,) * len(found.ladder.levels)
    assert [*(tmp_path / "state" / "toy").glob("latency-*.json")]
    write_report(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<th>mJ per image</th>" in page
    assert page.count("<td>31.2</td>") == len(found.ladder.levels)
    assert "answers batches of 8" in page
    write_report(replace(found, joules=None), tmp_path / "report.html")
    assert "mJ per image" not in (tmp_path / "report.html").read_text()


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often each point was judged on each set."""
    counts: Counter[tuple[str, str]] = Counter()
    judge: Callable[..., Any] = Bench._judge

    def counting(self: Bench, point: Any, on: str) -> Any:
        outcome = judge(self, point, on)
        counts[point.key, on] += 1
        return outcome

    monkeypatch.setattr(Bench, "_judge", counting)
    return counts


@pytest.mark.usefixtures("steady")
def test_the_ladder_is_one_the_engine_loads_and_the_report_shows_all_of_it(
    version: Path, images: Pair, tmp_path: Path
) -> None:
    found = calibrate(version, "toy", *images, QUICK, runtime=PYTORCH, state=tmp_path)
    engine = ReferenceEngine(PreparedLadder.load(version))
    assert engine.ladder == found.ladder
    assert len(engine.levels) >= 2
    assert list(engine.ladder.qualities) == sorted(engine.ladder.qualities, reverse=True)
    assert found.latency.ladder == engine.ladder.digest
    assert found.outcomes[0].agreeing == found.outcomes[0].n == 24
    assert found.outcomes[0].kl == pytest.approx(0, abs=1e-6)

    write_report(found, tmp_path / "out" / "report.html")
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"<code>max_batch_size</code> 32: {found.max_batch.reason}." in page
    for index, level in enumerate(found.ladder.levels):
        assert f"<td>{index} {level.name}</td>" in page
    for trial in found.trials:
        assert f"<td>{trial.point.name}</td>" in page
    sources = re.findall(r'(?:src|href)="([^"]{1,40})', page)
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert (tmp_path / "out" / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("steady")
def test_levels_in_fp8_are_offered_only_for_a_device_that_has_it(
    version: Path, images: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(bench: Bench, points: Sequence[Point]) -> dict[str, list[float]]:
        times = macs_as_samples(bench, points)
        return {p.key: [0.6 * t if p.precision else t for t in times[p.key]] for p in points}

    monkeypatch.setattr(Bench, "_sample", sample)
    for fp8 in (False, True):
        found = calibrate(version, "toy", *images, QUICK, runtime=PYTORCH, fp8=fp8, state=tmp_path)
        ladder = PreparedLadder.load(version).ladder
        assert ladder == found.ladder
        assert [level.precision for level in ladder.levels] == (
            [None, *(["fp8"] if fp8 else [None]) * (len(ladder.levels) - 1)]
        )
        families = {family for contest in found.contests for family in contest.rivals}
        assert any(family.endswith(", fp8") for family in families) == fp8
    assert ladder.levels[1].name == "fp8"
    assert ladder.levels[1].reducers == ()


@pytest.mark.usefixtures("steady")
def test_the_stored_times_are_of_the_batches_that_will_be_served(
    version: Path, images: Pair, tmp_path: Path
) -> None:
    def stored(**options: Any) -> tuple[int, tuple[int, ...]]:
        settings = replace(QUICK, **options)
        found = calibrate(version, "toy", *images, settings, runtime=PYTORCH, state=tmp_path)
        (path,) = (tmp_path / "toy").glob("latency-*.json")
        return found.max_batch.images, LatencyTable.load(path).batches

    every = calibrate(version, "toy", *images, QUICK, runtime=PYTORCH, state=tmp_path).latency
    assert every.batches == SIZES
    of_twelve_ms = batch_ms(every, 12)
    assert stored(slo_ms=4.1 * of_twelve_ms) == (12, (1, 2, 4, 8, 12))
    assert stored(max_batch=5) == (5, (1, 2, 4, 5))
    assert stored(max_batch=48) == (48, (*SIZES, 48))


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("kls", [[], [0.0], [-1e-8, 0.0], [0.0, 2e-3]])
def test_a_report_needs_no_schedule_that_fits_or_answers_otherwise(
    version: Path, images: Pair, tmp_path: Path, kls: list[float]
) -> None:
    """Level 0 alone, or with others that are no farther from it than rounding."""
    found = calibrate(version, "toy", *images, QUICK, runtime=PYTORCH, state=tmp_path)
    trials = [
        replace(trial, outcome=replace(trial.outcome, kl=kl))
        for trial, kl in zip(found.trials, [0.0, *kls], strict=False)
    ]
    write_report(replace(found, trials=tuple(trials), contests=()), tmp_path / "report.html")
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("steady")
def test_an_interrupted_run_goes_on_without_repeating_anything(
    version: Path,
    images: Pair,
    tmp_path: Path,
    judged: Counter[tuple[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = calibrate(version, "toy", *images, QUICK, runtime=PYTORCH, state=tmp_path / "whole")
    asked = Counter(judged)
    assert set(asked.values()) == {1}
    judged.clear()

    judge = Bench._judge

    def killed(self: Bench, point: Any, on: str) -> Any:
        if len(judged) == len(asked) // 2:
            raise KeyboardInterrupt
        return judge(self, point, on)

    with monkeypatch.context() as patch:
        patch.setattr(Bench, "_judge", killed)
        with pytest.raises(KeyboardInterrupt):
            calibrate(version, "toy", *images, QUICK, runtime=PYTORCH, state=tmp_path / "cut")
    resumed = calibrate(version, "toy", *images, QUICK, runtime=PYTORCH, state=tmp_path / "cut")
    assert judged == asked
    assert resumed.recalled > 0
    assert resumed.ladder == whole.ladder
    assert resumed.contests == whole.contests

    judged.clear()
    again = calibrate(version, "toy", *images, QUICK, runtime=PYTORCH, state=tmp_path / "cut")
    assert not judged
    assert again.measured == 0
    assert again.ladder == whole.ladder


@pytest.mark.usefixtures("steady")
def test_selectors_are_a_method_where_they_were_trained(
    version: Path, images: Pair, tmp_path: Path, judged: Counter[tuple[str, str]]
) -> None:
    torch.manual_seed(0)
    selectors = {block: Selector(TINY) for block in (1, 3)}
    save_selectors(version / "chosen.safetensors", selectors)
    found = calibrate(
        version,
        "toy",
        *images,
        QUICK,
        runtime=PYTORCH,
        state=tmp_path,
        selector="chosen.safetensors",
    )
    learned = [
        (point["block"], files)
        for reducers, _, files in (json.loads(key) for key, _ in judged)
        for point in reducers
        if point.get("score") == "selector"
    ]
    assert {block for block, _ in learned} == {1, 3}
    assert all(files == {"selector": "chosen.safetensors"} for _, files in learned)
    rivals = {family for contest in found.contests for family in contest.rivals}
    assert {"selector, drop", "selector, package", "tome, every block"} <= rivals
    with pytest.raises(WeightsError, match="absent"):
        calibrate(
            version,
            "toy",
            *images,
            QUICK,
            runtime=PYTORCH,
            state=tmp_path,
            selector="absent.safetensors",
        )


def test_a_level_costs_what_its_selectors_do(version: Path, tmp_path: Path) -> None:
    save_selectors(version / "chosen.safetensors", {1: Selector(TINY)})
    reducers = ({"kind": "prune", "block": 1, "keep": 9, "fate": "drop", "score": "selector"},)
    point = Point(family="x", reducers=reducers, files={"selector": "chosen.safetensors"})
    journal = Journal(tmp_path / "journal")
    bench = Bench(
        version, "toy", {WEIGHTS: TINY}, {}, journal, runtime=PYTORCH, batch=1, clock=lambda: 0.0
    )
    unknown = Quality(top1=None, agreement=0.0, n=0)
    _, level = bench.ladder([DENSE, point], [unknown] * 2).levels
    prepared = bench.engine([point]).levels[1]
    with FlopCounterMode(display=False) as counter:
        prepared.selectors[1](torch.zeros(1, TINY.patches, TINY.dim))
    plain = Schedule.parse(reducers, TINY).macs(TINY)
    assert level.macs - plain == counter.get_total_flops() // 2 > 0
    assert level.selector == "chosen.safetensors"


@pytest.mark.usefixtures("steady")
def test_without_labels_quality_is_agreement(version: Path, images: Pair, tmp_path: Path) -> None:
    bare = [Images(half.pixels, None) for half in images]
    found = calibrate(version, "toy", *bare, QUICK, runtime=PYTORCH, state=tmp_path)
    assert not found.ladder.uses_labels
    assert found.ladder.quality(0) == 1.0


def test_what_does_not_belong_together_is_refused(
    version: Path, images: Pair, tmp_path: Path
) -> None:
    def refused(message: str, *pair: Images, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            calibrate(
                version, "toy", *(pair or images), QUICK, runtime=PYTORCH, state=tmp_path, **options
            )

    choose, report = images
    save_file({"words": torch.zeros(10, 3 * 16 * 16)}, version / "words.safetensors")
    refused(r"vocabulary=.*\[10, 768\]; expected \[words, 192\]", vocabulary="words.safetensors")
    refused("vocabulary=.*absent", vocabulary="absent.safetensors")
    refused("labels 0..10; expected 0..9", choose, Images(report.pixels, torch.arange(24) % 11))
    refused("labels: only choose or report", choose, Images(report.pixels, None))
    refused("images of .32, 48.; expected .48, 48.", choose, Images(report.pixels[:, :32], None))
    with pytest.raises(WeightsError, match="absent"):
        calibrate(
            version,
            "toy",
            *images,
            QUICK,
            runtime=PYTORCH,
            state=tmp_path,
            variants=["absent.safetensors"],
        )
    assert not (version / "ladder.json").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("budgets", ()),
        ("budgets", (0.5, 1.0)),
        ("batch", 0),
        ("max_loss", 2.0),
        ("step", 0.5),
        ("multiple", 0),
        ("seed", -1),
        ("starts", 0),
        ("time_limit_s", -1.0),
        ("slo_ms", 0.0),
        ("max_batch", 0),
    ],
)
def test_settings_out_of_range_are_refused_with_their_range(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{field}=.*: expected "):
        Settings(**{field: value})

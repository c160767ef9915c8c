"""Levels compiled by OpenVINO answer as PyTorch does; what cannot be compiled is served all the
same."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from openvino import Model
from torch import Tensor

from foveate.errors import InputError
from foveate.images import cluttered_digits
from foveate.inference import compiled, exported, precision, runtime
from foveate.inference.compiled import CompiledEngine, has_bf16
from foveate.inference.engine import batch_sizes
from foveate.inference.exported import exported_levels
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.inference.runtime import Runtime
from foveate.inference.start import start_engine
from foveate.model.vit import ViTConfig
from foveate.reduce.selector_network import Selector

FP32 = Runtime(compiled=True, bf16=False, threads=1)
Reducers = list[dict[str, Any]]


def prune(block: int, keep: int, fate: str, score: str = "cls-value") -> dict[str, Any]:
    return {"kind": "prune", "block": block, "keep": keep, "fate": fate, "score": score}


def merge(block: int, remove: int, by: str = "tome") -> dict[str, Any]:
    return {"kind": "merge", "block": block, "remove": remove, "by": by}


def intra(keep: int, fate: str = "package") -> dict[str, Any]:
    return {"kind": "vwt-intra", "keep": keep, "fate": fate}


CONFIG = ViTConfig(height=40, width=48, patch=8, dim=32, depth=4, heads=2, mlp_dim=64)
LEVELS: dict[str, Reducers] = {
    "dense": [],
    "intra, as published": [intra(12, "drop")],
    "adaptive": [{"kind": "adaptive", "keeps": [6, 18], "variance": 0.05}],
    "evit": [prune(1, 14, "package-sum", "cls"), prune(2, 7, "package-sum", "cls")],
    "diffrate": [prune(0, 20, "merge"), prune(3, 5, "merge")],
    "key": [prune(0, 20, "drop", "key"), prune(1, 14, "package", "key")],
    "shift": [prune(1, 14, "drop", "mlp-shift"), prune(2, 7, "package", "mlp-shift")],
    "selector": [prune(1, 14, "package", "selector"), prune(2, 7, "package", "selector")],
    "random": [prune(1, 14, "drop", "random"), prune(2, 7, "merge", "random")],
    "tome": [merge(block, 5) for block in range(3)],
    "pitome": [merge(block, 5, "pitome") for block in range(2)],
    "inter": [{"kind": "vwt-inter", "count": 20}, prune(0, 12, "package")],
    "inter, few": [{"kind": "vwt-inter", "count": 5}],
}
CLSLESS: dict[str, Reducers] = {
    "dense": [],
    "key and tome": [intra(20), prune(1, 14, "package", "key"), merge(2, 4)],
    "pitome": [merge(1, 5, "pitome"), prune(3, 7, "merge", "key")],
}
OTHERS: dict[str, dict[str, Any]] = {
    "mean": {"prefix": 3, "pool": "mean", "norm_last": True, "qk_norm": True},
    "map": {"prefix": 0, "pool": "map", "activation": "gelu-tanh", "unit": True, "sigmoid": True},
    "both": {"prefix": 2, "pool": "cls+mean", "norm_first": True, "embedding": 24},
    "distilled": {"prefix": 2, "pool": "cls+dist", "activation": "quick-gelu"},
}


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Six images [6, 40, 48, 3], nearly flat to busy; no two patches are the same."""
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (6, 40, 48, 3), dtype=torch.uint8, generator=generator)
    for i in range(6):
        pixels[i, : 8 * i] //= 16
        pixels[i, : 8 * i] += 40 * i
    return pixels


def check(reference: ReferenceEngine, pixels: Tensor, names: list[str]) -> None:
    prepared = PreparedLadder(reference.ladder, reference.levels)
    engine = FP32.engine(prepared, (4,))
    assert isinstance(engine, CompiledEngine)
    for level, name in enumerate(names):
        wanted = [level] * len(pixels)
        expected = reference.infer(pixels, wanted, token_map=True)
        answers = engine.infer(pixels, wanted, token_map=True)
        same = (answers.token_map == expected.token_map).all(1)  # type: ignore[union-attr]
        assert int(same.sum()) >= len(pixels) - 1, name  # rounding may decide between near equals
        torch.testing.assert_close(answers.scores[same], expected.scores[same], rtol=0, atol=1e-5)
    assert not engine.uncompiled


def test_every_kind_of_level_answers_as_pytorch_does(
    build_engine: Callable[..., ReferenceEngine], pictures: Tensor
) -> None:
    selectors = {block: Selector(CONFIG).eval().requires_grad_(False) for block in (1, 2)}
    engine = build_engine(list(LEVELS.values()), CONFIG, selectors, std=0.2)
    check(engine, pictures, list(LEVELS))


@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_head_answers_as_pytorch_does(
    build_engine: Callable[..., ReferenceEngine], pictures: Tensor, name: str
) -> None:
    config = ViTConfig(**{**vars(CONFIG), **OTHERS[name]})
    check(build_engine(list(CLSLESS.values()), config, std=0.2), pictures, list(CLSLESS))


@pytest.fixture(scope="module")
def digits(repository: Path) -> PreparedLadder:
    return PreparedLadder.load(repository / "digits" / "1")


def test_bf16_answers_the_same_classes(digits: PreparedLadder) -> None:
    """The demo as it is served; the benchmark of precision counts thousands."""
    if not has_bf16():
        pytest.skip("this CPU has neither AMX-BF16 nor AVX512-BF16")
    pixels = torch.from_numpy(cluttered_digits.test_set(64)[0])
    engine = Runtime(compiled=True, bf16=True, threads=1).engine(digits, batch_sizes(16))
    reference = ReferenceEngine(digits)
    for level in range(len(digits.levels)):
        own, expected = (e.infer(pixels, [level] * 64).scores for e in (engine, reference))
        assert int((own.argmax(1) == expected.argmax(1)).sum()) >= 63, level


def test_batches_of_any_size_are_answered_in_passes_of_its_sizes(
    digits: PreparedLadder, pixels: Tensor
) -> None:
    engine = FP32.engine(digits, (1, 2, 4))
    expected = ReferenceEngine(digits).infer(pixels, [0, 4, 0, 4, 4, 4, 4, 4]).scores
    answers = engine.infer([pixels[:3], pixels[3:]], [0, 4, 0, 4, 4, 4, 4, 4]).scores
    torch.testing.assert_close(answers, expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def version(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A version folder with the demo's first and last level."""
    folder = tmp_path_factory.mktemp("model") / "1"
    shutil.copytree(repository / "digits" / "1", folder)
    ladder = json.loads((folder / "ladder.json").read_text())
    ladder["levels"] = [ladder["levels"][0], ladder["levels"][-1]]
    (folder / "ladder.json").write_text(json.dumps(ladder))
    return folder


@pytest.fixture(scope="module")
def filled(version: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds both levels."""
    cache = tmp_path_factory.mktemp("state") / "levels"
    models = export(version, cache)
    assert all(isinstance(model, Model) for model in models.values())
    return cache


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "levels"))


def export(version: Path, cache: Path) -> dict[tuple[int, int], Model | str]:
    return exported_levels(version, PreparedLadder.load(version), cache, "fp32", 2)


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("exported again")

    monkeypatch.setattr(exported.subprocess, "run", refuse)


@pytest.mark.usefixtures("no_processes")
def test_a_level_is_exported_once(version: Path, cache: Path) -> None:
    assert [*export(version, cache)] == [(0, 0), (1, 0)]


@pytest.mark.parametrize("damage", ["cut", "gone", "no digests"])
def test_a_damaged_entry_is_made_anew(
    version: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    entry = next(cache.glob("level1-*"))
    if damage == "cut":
        with (entry / "0.bin").open("r+b") as file:
            file.truncate(1000)
    else:
        (entry / {"gone": "0.xml", "no digests": "digests.json"}[damage]).unlink()
    models = export(version, cache)
    assert f"{entry}: damaged" in caplog.text
    assert isinstance(models[1, 0], Model)
    caplog.clear()
    export(version, cache)
    assert not caplog.records


def test_a_cache_that_cannot_be_written_is_named_and_missed_by_nobody(
    version: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "levels").touch()
    models = export(version, tmp_path / "levels")
    assert str(tmp_path / "levels") in caplog.text
    assert all(isinstance(model, Model) for model in models.values())


def test_a_full_disk_is_named_and_missed_by_nobody(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that exports finds no room in the cache, and some in a temporary folder."""
    cache = tmp_path / "levels"
    death = "echo cannot be written, 0 MiB are free >&2; exit 4;; esac"
    dies_where(f'case "$4" in {cache}*)', death, tmp_path, monkeypatch)
    models = export(version, cache)
    assert f"{cache}: level 1 cannot be written, 0 MiB are free" in caplog.text
    assert all(isinstance(model, Model) for model in models.values())
    assert not any(cache.iterdir())


@pytest.mark.usefixtures("no_processes")
def test_a_cache_that_can_only_be_read_is_read(
    version: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(exported.os, "utime", refuse)
    monkeypatch.setattr(exported.tempfile, "TemporaryFile", refuse)
    assert all(isinstance(model, Model) for model in export(version, cache).values())
    assert not caplog.records


def test_what_a_stopped_start_left_is_removed(version: Path, cache: Path) -> None:
    (cache / ".left" / "0").mkdir(parents=True)
    os.utime(cache / ".left", (0, 0))
    (cache / ".gone").symlink_to("nowhere")
    export(version, cache)
    assert not (cache / ".left").exists()


def dies_where(test: str, death: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have another Python export, which first does what it is told by the shell."""
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\nfor level in "$@"; do :; done\n{test} {death}\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(exported.sys, "executable", str(python))


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -SEGV $$", "the compiler dies of SIGSEGV"),
        ("echo no rule for aten::what >&2; exit 3", "no rule for aten::what"),
    ],
)
def test_a_level_that_cannot_be_compiled_runs_on_the_reference(
    version: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    script: str,
    reason: str,
) -> None:
    """By name, and once for all: the next start does not try it again."""
    dies_where('if [ "$level" = 1 ]; then', f"{script}; fi", tmp_path, monkeypatch)
    cache = tmp_path / "levels"
    for _ in range(2):
        models = export(version, cache)
        assert isinstance(models[0, 0], Model)
        assert models[1, 0] == reason
        monkeypatch.setattr(exported.sys, "executable", "/nowhere")
    engine = CompiledEngine(
        PreparedLadder.load(version),
        lambda level, variant: models[level, variant],
        (1, 2),
        precision="fp32",
        threads=1,
    )
    engine.compile()
    name = engine.ladder.levels[1].name
    assert f"level 1, {name}, runs on the reference: {reason}" in caplog.text
    assert engine.uncompiled == {1: reason}
    pixels = torch.from_numpy(cluttered_digits.test_set(2)[0])
    expected = ReferenceEngine(PreparedLadder.load(version)).infer(pixels, [0, 1]).scores
    answers = engine.infer(pixels, [0, 1]).scores
    torch.testing.assert_close(answers, expected, rtol=0, atol=1e-5)


def test_a_model_that_bf16_answers_otherwise_is_served_in_fp32(
    version: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if not has_bf16():
        pytest.skip("this CPU has neither AMX-BF16 nor AVX512-BF16")
    assert start_engine(version, 1, cache=cache).precision == "bf16"
    monkeypatch.setattr(precision, "_TOLERANCE", -1.0)  # no answer is near enough
    assert start_engine(version, 1, cache=cache).precision == "fp32"
    assert f"{version}: in bf16, a score of level 0 is off by" in caplog.text


def test_without_openvino_pytorch_serves_and_says_so(
    version: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    engine = start_engine(version, 4, cache=tmp_path)
    assert isinstance(engine, ReferenceEngine)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "openvino is not installed" in caplog.text
    with pytest.raises(InputError, match="executor='compiled': openvino is not installed"):
        Runtime.choose("compiled")
    with pytest.raises(InputError, match="precision='bf16'"):
        Runtime.choose("auto", "bf16")


def test_precision_follows_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "has_bf16", lambda: False)
    assert Runtime.choose().precision == "fp32"
    with pytest.raises(InputError, match="precision='bf16': this CPU has neither"):
        Runtime.choose(precision="bf16")
    monkeypatch.setattr(compiled, "has_bf16", lambda: True)
    assert Runtime.choose().precision == "bf16"
    assert Runtime.choose(precision="fp32").precision == "fp32"
    assert not Runtime.choose("reference").compiled

"""Training selectors: objectives that learn, resuming to the bit, folders, the command."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from foveate.errors import InputError
from foveate.images.dataset import Images
from foveate.model.vit import ViT, ViTConfig, load_vit, save_vit
from foveate.reduce.selector_file import load_selectors
from foveate.selector import job
from foveate.selector.blocktable import BlockTable
from foveate.selector.masked import masked_forward
from foveate.selector.pruned import by_selector, pruned_forward
from foveate.selector.recipe import Budget, Recipe
from foveate.selector.search import search_plan
from foveate.selector.split import split
from foveate.selector.teacher import teach
from foveate.selector.train import Trained, train
from foveate_cli.main import app

CONFIG = ViTConfig(height=32, width=32, dim=32, depth=4, heads=2, mlp_dim=64)
COUNTS = {1: 10, 2: 5}
TIMES = BlockTable((1, 17), (1.0, 17.0))
RECIPES = {
    "distill": {},
    "gumbel": {"method": "gumbel"},
    "package": {"method": "gumbel", "fate": "package", "shared": False},
    "backbone": {"method": "gumbel", "backbone": True},
    "learned ratios": {"method": "gumbel", "budget": Budget(TIMES, 45.0)},
}


@pytest.fixture(scope="module")
def vit() -> ViT:
    torch.manual_seed(0)
    model = ViT(CONFIG).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.2)
    return model


@pytest.fixture(scope="module")
def images() -> tuple[Images, Images]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (40, 32, 32, 3), dtype=torch.uint8, generator=generator)
    return split(Images(pixels, torch.arange(40) % 10), 0)


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"counts": COUNTS, "steps": 4, "batch": 4, "every": 1, **changes})


def same(one: Trained, other: Trained) -> bool:
    pairs = [(one.vit, other.vit)] + [(one.selectors[b], other.selectors[b]) for b in COUNTS]
    return one.history == other.history and all(
        torch.equal(a, b)
        for left, right in pairs
        for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    )


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("name", RECIPES)
def test_training_goes_on_after_an_interruption_to_the_bit(
    name: str, vit: ViT, images: tuple[Images, Images], tmp_path: Path
) -> None:
    chosen = recipe(**RECIPES[name])  # type: ignore[arg-type]
    checkpoint = tmp_path / "checkpoint"

    def interrupt(stage: str, step: int, steps: int) -> None:
        if step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(vit, *images, chosen, checkpoint=checkpoint, progress=interrupt)
    steps: list[int] = []
    resumed = train(
        vit, *images, chosen, checkpoint=checkpoint, progress=lambda _, step, __: steps.append(step)
    )
    assert steps == [3, 4]  # steps 1 and 2 were done
    assert not checkpoint.exists()
    straight = train(vit, *images, chosen)
    assert same(resumed, straight)
    assert all(p.isfinite().all() for s in straight.selectors.values() for p in s.parameters())
    learned = not torch.equal(straight.vit.head.weight, vit.head.weight)
    assert learned <= chosen.backbone


def test_a_checkpoint_of_another_run_is_refused(
    vit: ViT, images: tuple[Images, Images], tmp_path: Path
) -> None:
    def interrupt(stage: str, step: int, steps: int) -> None:
        if step == 2:
            raise Interrupted

    path = tmp_path / "checkpoint"
    with pytest.raises(Interrupted):
        train(vit, *images, recipe(), checkpoint=path, progress=interrupt)
    with pytest.raises(InputError, match=r"started with seed=0, not seed=1"):
        train(vit, *images, recipe(seed=1), checkpoint=path)
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot resume"):
        train(vit, *images, recipe(), checkpoint=path)


def test_it_stops_when_nothing_is_gained(vit: ViT, images: tuple[Images, Images]) -> None:
    trained = train(vit, *images, recipe(steps=50, rate=0.0, patience=2))
    assert trained.steps == 3  # the first validation counts as a gain, two more do not


def test_distillation_finds_where_the_model_looks(vit: ViT) -> None:
    looking = copy.deepcopy(vit)  # with sharper attention, which bright patches draw or repel
    for block in looking.blocks:
        block.attn.qkv.weight.mul_(2.5)  # type: ignore[operator, union-attr]
    generator = torch.Generator().manual_seed(0)
    bright = torch.rand(64, 4, 1, 4, 1, 1, generator=generator) < 0.3
    pixels = torch.randint(0, 60, (64, 4, 8, 4, 8, 3), generator=generator) + 180 * bright
    images = split(Images(pixels.reshape(64, 32, 32, 3).byte(), None), 0)
    attention = teach(looking, images[0].pixels).attention

    def seen(trained: Trained) -> float:
        """Deep attention of the dense model on the five of sixteen tokens that are chosen."""
        full, score = dict.fromkeys(COUNTS, 16), by_selector(trained.selectors)
        best = pruned_forward(looking, images[0].pixels, full, score).ranks[1].topk(5, 1).indices
        return attention.gather(1, best).sum(1).mean().item()

    untrained = seen(train(looking, *images, recipe(steps=1, rate=0.0)))
    trained = seen(train(looking, *images, recipe(steps=40, every=40, rate=1e-2)))
    most = attention.topk(5, 1).values.sum(1).mean().item()
    assert untrained < 0.8 * most
    assert trained > 0.95 * most


def test_the_ratio_loss_is_obeyed_by_drawn_decisions(
    vit: ViT, images: tuple[Images, Images]
) -> None:
    heavy = recipe(method="gumbel", steps=60, every=60, sparsity_weight=200.0, rate=1e-2)
    trained = train(vit, *images, heavy)
    noise = torch.Generator().manual_seed(0)
    alive = masked_forward(trained.vit, trained.selectors, images[0].pixels, noise).alive
    for block, count in COUNTS.items():
        assert alive[block].sum(1).mean().item() == pytest.approx(count, abs=2)


def test_the_schedule_trains_what_it_inserts(vit: ViT, images: tuple[Images, Images]) -> None:
    tried: list[dict[int, float]] = []
    plan = search_plan(
        vit, *images, max_drop=1.0, steps=2, progress=lambda plan, _: tried.append(dict(plan))
    )
    assert tried[0] == {}
    assert list(tried[1]) == [CONFIG.depth - 2]
    assert plan  # everything is acceptable, so at least one phase is left


def write_images(folder: Path, names: list[str], each: int) -> None:
    generator = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            pixels = generator.integers(0, 256, (40, 36, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def _flat(folder: Path) -> Path:
    write_images(folder, ["."], 16)
    return folder


@pytest.fixture
def repository(vit: ViT, tmp_path: Path) -> Path:
    folder = tmp_path / "repository" / "toy"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(
        'backend: "foveate"\nparameters { key: "component" value { string_value: "classify" } }\n'
    )
    save_vit(vit, folder / "1" / "model.safetensors")
    return tmp_path / "repository"


def command(repository: Path, *more: str) -> Any:
    arguments = ["train-selector", "--repository", str(repository), "--steps", "3"]
    return CliRunner().invoke(app, [*arguments, "--threads", "1", *more])


def test_the_command_writes_a_selector_that_loads(repository: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", [str(i) for i in range(10)], 2)
    table = tmp_path / "phone.csv"
    table.write_text("tokens,ms\n1,1\n17,17\n")
    more = ["--data", str(tmp_path / "images"), "--table", str(table), "--blocks", "1,2"]
    result = command(repository, *more, "--budget-ms", "45", "--fate", "package", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    folder = repository / "toy" / "1"
    assert load_selectors(folder / report["selector"], CONFIG).keys() == {1, 2}
    assert [r["block"] for r in report["reducers"]] == [1, 2]
    assert {r["score"] for r in report["reducers"]} == {"selector"}
    assert report["blocks_ms"] <= 45 < report["dense_blocks_ms"]
    assert report["threshold"]["images"] == 2
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.safetensors",
        "selector.safetensors",
    ]

    gumbel = ["--method", "gumbel", "--train-backbone", "--learn-ratios", "--per-head"]
    result = command(repository, *more, "--budget-ms", "45", *gumbel)
    assert result.exit_code == 0, result.output
    assert "selector, top-k" in result.stdout
    load_vit(folder / "selector-weights.safetensors")
    assert len(list(folder.iterdir())) == 3  # and nothing is left of the run


def test_an_interrupted_command_does_not_warm_up_twice(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods: list[str] = []

    def interrupt(*args: Any, **kwargs: Any) -> Trained:
        methods.append(args[3].method)
        if args[3].method == "gumbel":
            assert kwargs["start"].keys() == {1, 2}
            raise Interrupted
        return train(*args, **kwargs)

    monkeypatch.setattr(job, "train", interrupt)
    more = ["--data", str(_flat(tmp_path / "images")), "--blocks", "1,2", "--method", "gumbel"]
    (tmp_path / "phone.csv").write_text("tokens,ms\n1,1\n17,17\n")
    more += ["--table", str(tmp_path / "phone.csv"), "--budget-ms", "45"]
    for _ in range(2):
        assert isinstance(command(repository, *more).exception, Interrupted)
    assert methods == ["distill", "gumbel", "gumbel"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--budget-ms", "45"], "data: missing"),
        (["--budget-ms", "0.5", "--data", "x", "--table", "T"], "budget_ms=0.5: expected a number"),
        (["--budget-ms", "45", "--data", "x", "--table", "T"], "data=x: not a folder"),
        (["--budget-ms", "45", "--data", "x", "--blocks", "2,1"], "blocks='2,1': expected"),
        (["--budget-ms", "45", "--data", "x", "--blocks", "4"], r"0..3"),
        (["--budget-ms", "45", "--data", "x", "--method", "guess"], "expected one of distill"),
        (
            ["--budget-ms", "45", "--data", "x", "--learn-ratios"],
            "learn-ratios: needs method=gumbel",
        ),
        (["--budget-ms", "45", "--data", "x", "--out", "../a"], "out='../a'"),
        (["--budget-ms", "45", "--data", "x", "--table", "no.csv"], "no.csv: cannot read"),
    ],
)
def test_the_command_refuses_before_it_works(
    repository: Path, tmp_path: Path, more: list[str], says: str
) -> None:
    table = tmp_path / "phone.csv"
    table.write_text("tokens,ms\n1,1\n17,17\n")
    result = command(repository, *[str(table) if part == "T" else part for part in more])
    assert isinstance(result.exception, InputError)
    assert says in str(result.exception)
    assert [path.name for path in (repository / "toy" / "1").iterdir()] == ["model.safetensors"]


def test_an_interrupted_command_goes_on_with_the_same_table(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([BlockTable((1, 17), (1.0, 17.0)), BlockTable((1, 17), (1.1, 17.1))] * 2)
    monkeypatch.setattr(job, "measure_block", lambda vit, batch, runtime: next(measured))
    seen: list[Recipe] = []

    def interrupt(*args: Any, **kwargs: Any) -> Trained:
        seen.append(args[3])
        raise Interrupted

    monkeypatch.setattr(job, "train", interrupt)
    more = ["--data", str(_flat(tmp_path / "images")), "--budget-ms", "45"]
    for _ in range(2):
        assert isinstance(command(repository, *more).exception, Interrupted)
    assert seen[0] == seen[1]
    refused = command(repository, *more, "--seed", "5")
    assert "started with seed=0, not seed=5" in str(refused.exception)
    assert isinstance(command(repository, *more, "--seed", "5", "--restart").exception, Interrupted)

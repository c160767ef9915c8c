"""Structured pruning: criteria, removal, least squares, search and the weight variant."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from foveate.compress.criteria import distinctness, elimination_order, query_key_importance
from foveate.compress.cut import cut_vit
from foveate.compress.distill import distill
from foveate.compress.fit import fit_vit
from foveate.compress.ranking import Kept, Ranking, block_inputs, keep, rank_block, rank_channels
from foveate.compress.search import choose, macs, sizes
from foveate.compress.slim import compress
from foveate.errors import InputError, WeightsError
from foveate.inference.graphs import GraphEngine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.levels.ladder import Ladder, Level, Quality
from foveate.levels.schedule import Schedule
from foveate.model.vit import BlockShape, ViT, ViTConfig, load_vit, save_vit
from foveate_cli.main import app

SMALL = ViTConfig(height=48, width=48, patch=8, dim=32, depth=3, heads=2, mlp_dim=64)


@pytest.fixture(scope="module")
def dense() -> ViT:
    return random_vit(SMALL)


@pytest.fixture(scope="module")
def images() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (32, 48, 48, 3), dtype=torch.uint8, generator=generator)


def random_vit(config: ViTConfig) -> ViT:
    torch.manual_seed(0)
    vit = ViT(config).eval().requires_grad_(False)
    for name, parameter in vit.named_parameters():
        parameter.normal_(std=0.2)
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1)
    return vit


# Criteria


@settings(max_examples=15)
@given(n=st.integers(2, 12), d=st.integers(1, 8), seed=st.integers(0, 2**31))
def test_query_key_importance_is_the_cosine_with_rank_one_logits(n: int, d: int, seed: int) -> None:
    """Against the definition, with every n x n matrix written out."""
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 2, 2, n, d, generator=generator, dtype=torch.float64)
    expected = torch.zeros(2, d, dtype=torch.float64)
    for image in range(2):
        for head in range(2):
            u, sigma, vh = torch.linalg.svd(q[image, head] @ k[image, head].T)
            for i in range(d):
                part = torch.outer(q[image, head, :, i], k[image, head, :, i]).flatten()
                for j in range(min(n, d)):
                    direction = sigma[j] * torch.outer(u[:, j], vh[j]).flatten()
                    expected[head, i] += F.cosine_similarity(part, direction, dim=0).abs() / 2
    torch.testing.assert_close(query_key_importance(q, k), expected)


def test_a_query_neuron_that_is_zero_has_no_importance() -> None:
    q, k = torch.randn(2, 1, 1, 9, 4)
    q[..., 2] = 0
    scores = query_key_importance(q, k)[0]
    assert scores[2] == 0
    assert (scores[[0, 1, 3]] > 0).all()


def test_distinctness_is_least_for_copies() -> None:
    rows = torch.randn(12, 30, generator=torch.Generator().manual_seed(0))
    rows[7] = -2 * rows[3]  # a cosine of -1 is as redundant as one of 1
    assert set(distinctness(rows).argsort()[:2].tolist()) == {3, 7}


@settings(max_examples=30)
@given(n=st.integers(2, 7), o=st.integers(1, 5), seed=st.integers(0, 2**31))
def test_the_first_to_go_is_what_least_squares_misses_least(n: int, o: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, n, generator=generator, dtype=torch.float64)
    w = torch.randn(o, n, generator=generator, dtype=torch.float64)
    losses = []
    for gone in range(n):
        left = [i for i in range(n) if i != gone]
        solution = torch.linalg.lstsq(x[:, left], x @ w.T).solution
        losses.append((x[:, left] @ solution - x @ w.T).square().sum().item())
    order = elimination_order((x.T @ x)[None], w[None])[0]
    assert sorted(order.tolist()) == list(range(n))
    assert losses[int(order[-1])] == pytest.approx(min(losses))


def test_lanes_lose_one_group_each_in_turn() -> None:
    x = torch.randn(50, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reader = torch.ones(1, 1, 12, dtype=torch.float64)
    order = elimination_order((x.T @ x)[None], reader, lanes=3, size=2)
    assert order.shape == (3, 2)
    assert order.sort(1).values.tolist() == [[0, 1]] * 3


# Removal and least squares


def everything(config: ViTConfig) -> list[Kept]:
    shape = config.shapes[0]
    ranking = Ranking(
        heads=torch.arange(shape.heads),
        qk=torch.arange(shape.qk_dim).repeat(shape.heads, 1),
        v=torch.arange(shape.v_dim).repeat(shape.heads, 1),
        mlp=torch.arange(shape.mlp_dim),
    )
    return [keep(ranking, own) for own in config.shapes]


def test_keeping_everything_changes_nothing(dense: ViT, images: Tensor) -> None:
    kept, channels = everything(SMALL), torch.arange(SMALL.dim)
    slim = cut_vit(dense, kept, channels)
    assert torch.equal(slim(images), dense(images))
    fit_vit(dense, slim, kept, channels, images)
    torch.testing.assert_close(slim(images), dense(images), rtol=1e-4, atol=1e-4)


def test_heads_whose_output_is_zero_are_removed_without_a_trace(dense: ViT, images: Tensor) -> None:
    vit = random_vit(SMALL)
    for block in vit.blocks:
        block.attn.proj.weight[:, :16] = 0  # of the first of two heads
    inputs = block_inputs(vit, images)[:-1]
    rankings = [rank_block(b, x, "loss") for b, x in zip(vit.blocks, inputs, strict=True)]
    assert [ranking.heads.tolist() for ranking in rankings] == [[1, 0]] * 3
    shape = replace(SMALL.shapes[0], heads=1)
    slim = cut_vit(vit, [keep(r, shape) for r in rankings], torch.arange(SMALL.dim))
    assert slim.blocks[0].attn.qkv.weight.shape == (48, 32)
    torch.testing.assert_close(slim(images), vit(images), rtol=1e-4, atol=1e-4)


def test_copies_of_neurons_are_removed_and_least_squares_restores_the_answers(
    images: Tensor,
) -> None:
    vit = random_vit(SMALL)
    for block in vit.blocks:
        block.mlp.fc1.weight[48:] = block.mlp.fc1.weight[:16]
        block.mlp.fc1.bias[48:] = block.mlp.fc1.bias[:16]
        values, bias = block.attn.qkv.weight[64:], block.attn.qkv.bias[64:]  # of two heads of 16
        for head in (values[:16], values[16:], bias[:16], bias[16:]):
            head[12:] = head[:4]
        for rows in (block.attn.qkv.weight, block.attn.qkv.bias):  # queries and keys alike
            for first in range(0, 64, 16):
                rows[first + 12 : first + 16] = rows[first : first + 4]
    inputs = block_inputs(vit, images)[:-1]
    rankings = [rank_block(b, x, "loss") for b, x in zip(vit.blocks, inputs, strict=True)]
    shape = BlockShape(heads=2, qk_dim=16, v_dim=12, mlp_dim=48)
    kept = [keep(ranking, shape) for ranking in rankings]
    for own in kept:
        assert {i % 48 for i in own.mlp.tolist()} == set(range(48))
        assert all({i % 12 for i in head.tolist()} == set(range(12)) for head in own.v)
    channels = torch.arange(SMALL.dim)
    cut = cut_vit(vit, kept, channels)
    slim = cut_vit(vit, kept, channels)
    fit_vit(vit, slim, kept, channels, images)
    error = (slim(images) - vit(images)).norm() / vit(images).norm()
    assert error < 0.01
    assert (cut(images) - vit(images)).norm() / vit(images).norm() > 10 * error


def test_copies_of_query_and_key_neurons_are_mixed_back(images: Tensor) -> None:
    vit = random_vit(SMALL)
    for block in vit.blocks:
        for rows in (block.attn.qkv.weight, block.attn.qkv.bias):
            for first in range(0, 64, 16):
                rows[first + 8 : first + 16] = rows[first : first + 8]
    kept = [replace(own, qk=torch.arange(8).repeat(2, 1)) for own in everything(SMALL)]
    channels = torch.arange(SMALL.dim)
    slim = cut_vit(vit, kept, channels)
    fit_vit(vit, slim, kept, channels, images)
    assert (slim(images) - vit(images)).norm() / vit(images).norm() < 0.01


@pytest.mark.parametrize("criterion", ["loss", "redundancy"])
def test_channels_go_from_everything_that_residual_additions_connect(
    images: Tensor, criterion: Any
) -> None:
    """Channels nobody writes or reads are found, and leave no trace but in the norms' statistics,
    for which least squares makes up."""
    vit = random_vit(SMALL)
    idle = [3, 9, 20, 31]
    for tensor in (vit.cls_token, vit.pos_embed):
        tensor[..., idle] = 0
    written = [vit.patch_embed.proj]
    for block in vit.blocks:
        written += [block.attn.proj, block.mlp.fc2]
    for layer in written:
        layer.weight[idle], layer.bias[idle] = 0, 0
    for name, parameter in vit.named_parameters():
        if "norm" in name:
            parameter[idle] = 0
    order = rank_channels(vit, block_inputs(vit, images), criterion)
    assert sorted(order.tolist()) == list(range(32))
    if criterion == "loss":
        assert set(order[-4:].tolist()) == set(idle)
    channels = torch.tensor([c for c in range(32) if c not in idle])
    kept = everything(SMALL)
    slim = cut_vit(vit, kept, channels)
    assert slim.config.dim == slim.pos_embed.shape[-1] == slim.head.in_features == 28
    fit_vit(vit, slim, kept, channels, images)
    assert (slim(images) - vit(images)).norm() / vit(images).norm() < 0.05


# Search


@settings(max_examples=40)
@given(
    target=st.floats(0.35, 0.99),
    seed=st.integers(0, 2**31),
    dim=st.sampled_from([32, 24]),
)
def test_chosen_sizes_meet_the_target_and_leave_no_room(target: float, seed: int, dim: int) -> None:
    rng = random.Random(seed)
    options = [sizes(shape, multiple=4, heads=True) for shape in SMALL.shapes]
    losses = {
        (block, part, size): rng.random() / size
        for block, own in enumerate(options)
        for part, tried in own.items()
        for size in tried
    }
    shapes = choose(SMALL, dim, losses, target)
    budget = target * macs(SMALL, 32, SMALL.shapes)
    assert macs(SMALL, dim, shapes) <= budget
    for block, shape in enumerate(shapes):
        for part, tried in options[block].items():
            assert getattr(shape, part) in [*tried, getattr(SMALL.shapes[block], part)]


def test_a_target_the_losses_cannot_reach_is_refused() -> None:
    with pytest.raises(InputError, match=r"target-macs=0.5: expected at least 0\.\d+"):
        choose(SMALL, 32, {(0, "mlp_dim", 8): 0.1}, 0.5)


@pytest.mark.parametrize("target", [0.0, -1.0, 1.0, 1.5, 0.05, float("nan")])
def test_a_target_out_of_range_is_refused_before_any_work(dense: ViT, target: float) -> None:
    with pytest.raises(InputError, match=r"target-macs=.*expected 0\.\d+ to below 1"):
        compress(dense, torch.empty(0), target)


@pytest.mark.parametrize(
    "options", [{}, {"heads": True}, {"residual": True}, {"criterion": "redundancy"}]
)
def test_compress_meets_its_target_with_sizes_that_suit_the_hardware(
    dense: ViT, images: Tensor, options: dict[str, Any]
) -> None:
    slim = compress(dense, images, 0.5, **options)
    assert macs(slim.config, slim.config.dim, slim.config.shapes) <= 0.5 * Schedule().macs(SMALL)
    for shape in slim.config.shapes:
        assert {shape.qk_dim % 8, shape.v_dim % 8, shape.mlp_dim % 8} == {0}
        assert shape.heads == 2 or "heads" in options
    assert slim.config.dim == 32 or "residual" in options
    again = compress(dense, images, 0.5, **options)
    assert again.config == slim.config
    assert torch.equal(again(images), slim(images))


# The weight variant


SLIM = replace(
    SMALL,
    dim=24,
    blocks=(
        BlockShape(heads=2, qk_dim=8, v_dim=16, mlp_dim=40),
        BlockShape(heads=1, qk_dim=16, v_dim=8, mlp_dim=64),
        BlockShape(heads=2, qk_dim=8, v_dim=8, mlp_dim=8),
    ),
)


def test_a_variant_survives_the_file(tmp_path: Path, images: Tensor) -> None:
    slim = random_vit(SLIM)
    save_vit(slim, tmp_path / "slim.safetensors", torch.float32)
    loaded = load_vit(tmp_path / "slim.safetensors")
    assert loaded.config == SLIM
    assert torch.equal(loaded(images), slim(images))
    assert [path.name for path in tmp_path.iterdir()] == ["slim.safetensors"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "blocks"),
        ('[{"heads": 1}]', "blocks.*qk_dim"),
        (json.dumps([{"heads": 1, "qk_dim": 0, "v_dim": 1, "mlp_dim": 1}] * 3), "qk_dim=0"),
        (json.dumps([{"heads": 1, "qk_dim": 8, "v_dim": 8, "mlp_dim": 8}]), "depth=3"),
        (json.dumps([{"heads": 1, "qk_dim": 8, "v_dim": 8, "mlp_dim": 8}] * 3), "qkv.weight"),
    ],
)
def test_damaged_shapes_are_refused_naming_file_and_key(
    tmp_path: Path, text: str, reason: str
) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "slim.safetensors"
    save_vit(random_vit(SLIM), path)
    metadata = {key: str(getattr(SLIM, key)) for key in vars(SLIM) if key != "blocks"}
    save_file(load_file(path), path, metadata={**metadata, "blocks": text})
    with pytest.raises(WeightsError, match=f"(?s)slim.safetensors.*{reason}"):
        load_vit(path)


def ladder_folder(folder: Path, levels: list[tuple[str, list[dict[str, Any]]]]) -> None:
    made = []
    for index, (weights, reducers) in enumerate(levels):
        config = load_vit(folder / weights).config
        schedule = Schedule.parse(reducers, config)
        made.append(
            Level(
                name=f"level{index}",
                reducers=schedule.dump(),
                weights=weights,
                vocabulary=None,
                tokens=tuple(schedule.tokens(config)[1]),
                macs=schedule.macs(config),
                quality=Quality(top1=None, agreement=1 - index / 10, n=1),
            )
        )
    Ladder(model="toy", image_size=(48, 48), tokens=37, levels=tuple(made)).save(
        folder / "ladder.json"
    )


PRUNE = {"kind": "prune", "block": 1, "keep": 10, "fate": "package"}


def test_a_variant_serves_reduced_levels_and_batch_mates_do_not_matter(
    tmp_path: Path, images: Tensor
) -> None:
    save_vit(random_vit(SMALL), tmp_path / "model.safetensors")
    save_vit(random_vit(SLIM), tmp_path / "slim.safetensors")
    ladder_folder(
        tmp_path,
        [
            ("model.safetensors", []),
            ("slim.safetensors", []),
            ("slim.safetensors", [PRUNE]),
            ("slim.safetensors", [{"kind": "vwt-intra", "keep": 20}, PRUNE]),
        ],
    )
    engine = ReferenceEngine(PreparedLadder.load(tmp_path))
    slim = load_vit(tmp_path / "slim.safetensors")
    expected = slim(images[:8]).softmax(-1)
    scores = engine.infer(images[:8], [1] * 8).scores
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    alone = [
        [engine.infer(images[i : i + 1], [level]).scores[0] for i in range(8)] for level in range(4)
    ]
    graphs = GraphEngine(engine, torch.device("cpu"), 4, torch.float32)
    for level in range(4):
        scores = graphs.infer(images[:8], [level] * 8).scores
        torch.testing.assert_close(scores, torch.stack(alone[level]), rtol=1e-3, atol=1e-4)
    rng = random.Random(0)
    for _ in range(30):
        chosen = rng.sample(range(8), rng.randint(1, 8))
        levels = [rng.randrange(4) for _ in chosen]
        scores = engine.infer(images[chosen], levels).scores
        for row, (image, level) in enumerate(zip(chosen, levels, strict=True)):
            torch.testing.assert_close(scores[row], alone[level][image], rtol=0, atol=1e-5)


def test_a_variant_of_another_model_is_refused(tmp_path: Path) -> None:
    save_vit(random_vit(SMALL), tmp_path / "model.safetensors")
    save_vit(random_vit(replace(SMALL, classes=5)), tmp_path / "other.safetensors")
    ladder_folder(tmp_path, [("model.safetensors", []), ("other.safetensors", [])])
    with pytest.raises(WeightsError, match=r"other.safetensors: classes=5, level 0 has 10"):
        ReferenceEngine(PreparedLadder.load(tmp_path))


# Training and the command


def test_an_interrupted_distillation_resumes_to_the_same_weights(
    tmp_path: Path, dense: ViT, images: Tensor
) -> None:
    class Interrupt(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if done == 3:  # the third epoch has one step: two are done, one is lost
            raise Interrupt

    def train(**options: Any) -> ViT:
        slim = random_vit(SLIM)
        distill(slim, dense, images, epochs=3, seed=1, **options)
        return slim

    whole = train(checkpoint=tmp_path / "a")
    with pytest.raises(Interrupt):
        train(checkpoint=tmp_path / "b", progress=stop)
    steps: list[int] = []
    resumed = train(checkpoint=tmp_path / "b", progress=lambda _, done, total: steps.append(done))
    assert steps == [3]
    assert torch.equal(resumed(images), whole(images))
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_variant_that_a_level_can_name(
    tmp_path: Path, repository: Path, images: Tensor
) -> None:
    from PIL import Image

    model = tmp_path / "toy"
    shutil.copytree(repository / "digits", model, ignore=lambda folder, names: {"1"} & {*names})
    (model / "1").mkdir()
    save_vit(random_vit(SMALL), model / "1" / "model.safetensors")
    ladder_folder(model / "1", [("model.safetensors", [])])
    data = tmp_path / "data"
    data.mkdir()
    for index, pixels in enumerate(images):
        Image.fromarray(pixels.numpy()).save(data / f"{index}.png")
    command = ["compress", f"--repository={tmp_path}", f"--data={data}", "--json"]

    done = CliRunner().invoke(app, [*command, "--target-macs=0.6", "--distill-epochs=1"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["file"] == str(model / "1" / "slim60.safetensors")
    slim = load_vit(model / "1" / "slim60.safetensors")
    assert report["slim"]["macs"] == Schedule().macs(slim.config) <= 0.6 * report["dense"]["macs"]
    assert report["slim"]["images"] == 16
    assert report["dense"]["agreement"] == 1
    assert report["slim"]["top1"] is None
    assert sorted(path.name for path in (model / "1").iterdir()) == [
        "ladder.json",
        "model.safetensors",
        "slim60.safetensors",
    ]
    (model / "empty").mkdir()
    for option, reason in [
        ("--target-macs=1.5", "target-macs=1.5: expected"),
        ("--out=model.safetensors", "out=model.safetensors: expected"),
        ("--out=../slim.safetensors", "out=../slim.safetensors: expected"),
        (f"--data={tmp_path / 'none'}", "not a folder"),
        (f"--data={model / 'empty'}", "0 JPEG or PNG files; expected at least 16"),
    ]:
        done = CliRunner().invoke(app, [*command, option])
        assert isinstance(done.exception, InputError), done.output
        assert reason in str(done.exception)

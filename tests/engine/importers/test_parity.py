"""Imported models answer as the implementations they come from: true dimensions, random weights."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from foveate.errors import WeightsError
from foveate.importers import from_timm
from foveate.importers.check import compare
from foveate.importers.convert import convert
from foveate.importers.importer import Imported, Wishes, import_checkpoint
from foveate.importers.original import open_original
from foveate.importers.source import find_source
from foveate.importers.tensors import Tensors
from foveate.inference.engine import Engine
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate_benchmarks.parity import timm_model
from foveate_cli.main import app

ROOT = Path(__file__).parents[3]


def check(repository: Path, images: Tensor, logits: Tensor) -> Engine:
    """Level 0 of the entry against the original's logits."""
    engine = ReferenceEngine(PreparedLadder.load(repository / "model" / "1"))
    vit = engine.levels[0].vit
    with torch.inference_mode():
        ours = vit(images)
    assert (ours - logits).abs().max() <= 1e-4
    scores = engine.infer(images[:2], [0, 0]).scores
    torch.testing.assert_close(scores, vit.scores(ours)[:2], rtol=0, atol=1e-5)
    return engine


@pytest.mark.parametrize(
    "case",
    [
        "ViT-T/16-224",
        "DeiT-T/16-224 distilled",
        "DINOv2-T/14-224",
        "DINOv2-T/14-224 with registers",
        "CLIP-T/16-224",
        "SigLIP-T/16-224",
    ],
)
def test_transformers(
    checkpoint: Callable[[str], Any], models: Any, tmp_path: Path, case: str
) -> None:
    made = checkpoint(case)
    labels = models.NAMES if models.CASES[case].zero_shot else None
    import_checkpoint(find_source(str(made.folder)), tmp_path, "model", Wishes(labels=labels))
    check(tmp_path, made.images, made.logits)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("deit_tiny_distilled_patch16_224", {}),
        (
            "vit_tiny_patch16_224",
            {"qk_norm": True, "init_values": 0.1, "reg_tokens": 4, "no_embed_class": True},
        ),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "reg_tokens": 2}),
        ("vit_xsmall_patch16_clip_224", {"num_classes": 10}),
        ("vit_base_patch32_siglip_256", {"num_classes": 10, "embed_dim": 192, "num_heads": 3}),
        ("deit:deit_tiny_patch16_224", {}),
        ("torchvision:vit_b_32", {"num_classes": 10}),
    ],
)
def test_timm_and_torchvision(
    save_timm: Callable[..., None], tmp_path: Path, name: str, arguments: dict[str, Any]
) -> None:
    save_timm(name, tmp_path / "checkpoint", arguments)
    source = next((tmp_path / "checkpoint").glob("*.pth"), tmp_path / "checkpoint")
    imported = import_checkpoint(find_source(str(source)), tmp_path / "models", "model")
    assert (imported.recipe.assumed is not None) == (source.suffix == ".pth")
    expected = load_file(tmp_path / "checkpoint" / "expected.safetensors")
    check(tmp_path / "models", expected["images"], expected["logits"])


def test_every_vit_of_timm_is_read_as_timm_builds_it_or_refused() -> None:
    """Heads, epsilon, activation and pooling, which files do not say, against timm's own code."""
    command = [sys.executable, "-m", "foveate_benchmarks.parity.timm_architectures"]
    architectures = json.loads(run_timm(command))
    taken = 0
    for name, facts in architectures.items():
        shapes = {key: tuple(shape) for key, shape in facts["shapes"].items()}
        tensors = Tensors(name, shapes, lambda key, shapes=shapes: torch.zeros(shapes[key]))
        config = {"architecture": name, "pretrained_cfg": facts["pretrained_cfg"]}
        try:
            recipe = from_timm.recipe({**config, "global_pool": facts["pool"]}, tensors)
            patch = shapes.get("patch_embed.proj.weight", (1,))[-1]
            height, width = (edge // patch * patch for edge in recipe.size)  # so400m: 384 / 14
            _, parts = convert(tensors, recipe, (height, width))
            for _ in parts:
                pass
        except WeightsError:
            assert not facts["plain"] or REFUSED.search(name), name
            continue
        taken += 1
        assert facts["plain"], name
        assert (recipe.heads, recipe.eps) == (facts["heads"], facts["eps"]), name
        assert recipe.activation == ACTIVATIONS[facts["activation"]], name
        assert POOLS[facts["pool"]] == recipe.pool.replace("+dist", ""), name
    assert taken > 80


ACTIVATIONS = {"GELU none": "gelu", "GELUTanh": "gelu-tanh", "QuickGELU": "quick-gelu"}
POOLS = {"token": "cls", "avg": "mean", "map": "map"}
# Their blocks are plain; their stem, MLP, attention or last norm is not.
REFUSED = re.compile(
    "giant_.*(dinov2|tipsv2)|intern|radio|dlittle|dwee|_r26|_r50|_r_s16|resnet|mci"
)


NO_TIMM = "timm is not installed: foveate_benchmarks.hierarchical.timm_models"


def run_timm(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No module named 'timm'" in done.stderr:
        pytest.skip(NO_TIMM)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def save_timm() -> Iterator[Callable[..., None]]:
    """``save_timm(name, folder, arguments, edge=None)``, by one process that has imported timm."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:

        def save(
            name: str, folder: Path, arguments: dict[str, Any], edge: int | None = None
        ) -> None:
            try:
                pool.submit(timm_model.main, name, folder, arguments, edge).result()
            except ModuleNotFoundError as error:
                if error.name != "timm":
                    raise
                pytest.skip(NO_TIMM)

        yield save


def test_another_image_size_is_what_the_original_interpolates(models: Any, tmp_path: Path) -> None:
    """Position embeddings for 160 pixels, by transformers' own interpolation."""
    images = models.pixels(160, images=2)
    logits = models.save("ViT-T/16-224", tmp_path / "checkpoint", images)
    source = find_source(str(tmp_path / "checkpoint"))
    imported = import_checkpoint(source, tmp_path / "models", "model", Wishes(size=160))
    assert imported.preprocess.resize == (160, 160)
    check(tmp_path / "models", images, logits)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "torchvision:vit_b_32"])
def test_another_image_size_is_what_timm_and_torchvision_make_of_it(
    save_timm: Callable[..., None], tmp_path: Path, name: str
) -> None:
    save_timm(name, tmp_path / "checkpoint", {"num_classes": 10}, 160)
    source = next((tmp_path / "checkpoint").glob("*.pth"), tmp_path / "checkpoint")
    import_checkpoint(find_source(str(source)), tmp_path / "models", "model", Wishes(size=160))
    expected = load_file(tmp_path / "checkpoint" / "expected.safetensors")
    check(tmp_path / "models", expected["images"], expected["logits"])


@pytest.mark.parametrize("case", ["DINOv2-T/14-224", "SigLIP-T/16-224"])
def test_a_file_is_answered_as_by_the_original_and_its_processor(
    checkpoint: Callable[[str], Any], models: Any, tmp_path: Path, case: str
) -> None:
    """End to end: decoding, resize, crop, normalisation, model, names of classes."""
    pixels = models.pixels(300, images=2).numpy()
    files = [tmp_path / "tall.png", tmp_path / "wide.jpg"]
    Image.fromarray(pixels[0][:, :230]).save(files[0])
    Image.fromarray(pixels[1][:240]).resize((700, 420)).save(files[1])
    source = find_source(str(checkpoint(case).folder))
    labels = models.NAMES if models.CASES[case].zero_shot else None
    imported: Imported = import_checkpoint(source, tmp_path, "model", Wishes(labels=labels))
    original = open_original(source, imported.recipe, imported.labels, ())
    for compared in compare(tmp_path / "model", files, original):
        assert compared.same, compared
        assert compared.difference <= 1e-4


def test_the_command_shows_both_side_by_side(
    checkpoint: Callable[[str], Any], models: Any, tmp_path: Path
) -> None:
    folder, image = checkpoint("ViT-T/16-224").folder, tmp_path / "one.png"
    Image.fromarray(models.pixels(250, images=1).numpy()[0]).save(image)
    command = ["import", str(folder), f"--repository={tmp_path / 'models'}", f"--check={image}"]
    shown = CliRunner().invoke(app, [*command, "--name=one"])
    assert shown.exit_code == 0, shown.output
    assert "transformers vit, 192 x 12 blocks, 196 patches, 1000 classes" in shown.stdout
    assert f"{image}: the same, logits differ by" in shown.stdout
    facts = json.loads(CliRunner().invoke(app, [*command, "--name=two", "--json"]).stdout)
    (checked,) = facts["checked"]
    assert [name for name, _ in checked["ours"]] == [name for name, _ in checked["original"]]
    assert len(checked["ours"]) == 5
    assert checked["difference"] <= 1e-4


def run_import(source: Path, repository: Path, *options: str) -> Any:
    command = ["import", str(source), "--name=own", f"--repository={repository}", *options]
    return CliRunner().invoke(app, command)


@pytest.fixture
def image(tmp_path: Path, models: Any) -> Path:
    path = tmp_path / "one.png"
    Image.fromarray(models.pixels(250, images=1).numpy()[0]).save(path)
    return path


def test_what_cannot_be_checked_is_not_written(
    checkpoint: Callable[[str], Any], tmp_path: Path, image: Path
) -> None:
    """A file that says not what it is, another size, and texts that are missing."""
    bare = tmp_path / "bare.pth"
    torch.save(
        {"patch_embed.proj.weight": torch.zeros(192, 3, 16, 16),
         "cls_token": torch.zeros(1, 1, 192), "pos_embed": torch.zeros(1, 197, 192)},
        bare,
    )  # fmt: skip
    vit, clip = (checkpoint(case).folder for case in ("ViT-T/16-224", "CLIP-T/16-224"))
    for source, options, message in (
        (bare, [], "original implementation is unknown"),
        (vit, ["--image-size=160"], "expected no --image-size"),
        (clip, [], "expected --labels"),
    ):
        done = run_import(source, tmp_path / "models", f"--check={image}", *options)
        assert done.exit_code == 1
        assert message in str(done.exception)
        assert not (tmp_path / "models").exists()


def test_a_difference_is_a_failure(
    checkpoint: Callable[[str], Any], tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an original that answers something else, which no library here does."""
    monkeypatch.setattr(
        "foveate.importers.original.open_original",
        lambda *_: lambda path: torch.randn(1000, generator=torch.Generator().manual_seed(1)),
    )
    folder = checkpoint("ViT-T/16-224").folder
    done = run_import(folder, tmp_path / "models", f"--check={image}")
    assert done.exit_code == 1
    assert "NOT the same" in done.stdout


def test_the_original_is_opened_with_the_configuration_that_was_given(
    checkpoint: Callable[[str], Any], tmp_path: Path, image: Path
) -> None:
    """Of a folder whose own is of another activation."""
    folder = shutil.copytree(checkpoint("ViT-T/16-224").folder, tmp_path / "folder")
    given = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**given, "hidden_act": "quick_gelu"}))
    (tmp_path / "given.json").write_text(json.dumps(given))
    options = f"--check={image}", f"--config={tmp_path / 'given.json'}", "--json"
    done = run_import(folder, tmp_path / "models", *options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["checked"][0]["difference"] <= 1e-4


@pytest.mark.parametrize("case", ["CLIP-T/16-224"])
def test_half_precision_is_checked_in_fp32(
    checkpoint: Callable[[str], Any], models: Any, tmp_path: Path, image: Path, case: str
) -> None:
    """A whole CLIP whose towers are projected to a size that is not theirs by default."""
    folder = shutil.copytree(checkpoint(case).folder, tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    half = {name: tensor.half() for name, tensor in weights.items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    (tmp_path / "labels").write_text("\n".join(models.NAMES))
    options = f"--check={image}", f"--labels={tmp_path / 'labels'}", "--json"
    done = run_import(folder, tmp_path / "models", *options)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["checked"][0]["difference"] <= 1e-4


def test_shards_of_timm_are_checked_together(
    save_timm: Callable[..., None], tmp_path: Path, image: Path
) -> None:
    """In a process of its own, where timm can be imported."""
    folder = tmp_path / "checkpoint"
    save_timm("vit_tiny_patch16_224", folder, {"num_classes": 10})
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {name: f"part-{index % 2}.safetensors" for index, name in enumerate(weights)}
    for part in {*names.values()}:
        save_file({name: weights[name] for name in names if names[name] == part}, folder / part)
    index = json.dumps({"weight_map": names})
    (folder / "model.safetensors.index.json").write_text(index)
    code = (
        "from foveate_benchmarks.hierarchical.timm_models import build\nbuild('test_vit')\n"
        "from foveate_cli.main import app\napp()\n"
    )
    command = [sys.executable, "-c", code, "import", str(folder)]
    options = f"--repository={tmp_path / 'models'}", "--name=own", f"--check={image}", "--json"
    (checked,) = json.loads(run_timm([*command, *options]))["checked"]
    # torchvision rounds an odd margin to an even one, and may cut one pixel beside.
    assert [name for name, _ in checked["ours"]] == [name for name, _ in checked["original"]]

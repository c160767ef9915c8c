"""``foveate bench accuracy`` counts what the levels answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from foveate.accuracy.measure import measure
from foveate.errors import InputError
from foveate.images.cluttered_digits import test_set as held_out
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate_cli.main import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty digits in folders of their classes."""
    path = tmp_path_factory.mktemp("digits")
    pixels, labels = held_out(40)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        (path / str(label)).mkdir(exist_ok=True)
        Image.fromarray(image).save(path / str(label) / f"{index:02}.png")
    return path


def test_shares_are_those_of_the_engine(folder: Path, repository: Path) -> None:
    import torch

    pixels, labels = held_out(40)
    engine = ReferenceEngine(PreparedLadder.load(repository / "digits" / "1"))
    images, truth = torch.from_numpy(pixels), torch.from_numpy(labels)
    told: list[tuple[str, int, int]] = []
    found = measure(repository / "digits", folder, batch=16, progress=lambda *x: told.append(x))
    assert told == [("classify images", done, 40) for done in (16, 32, 40)]
    assert [row.level for row in found] == [*range(len(engine.levels))]
    dense = engine.infer(images, [0] * 40).scores.argmax(1)
    for row in found:
        best = engine.infer(images, [row.level] * 40).scores.topk(5).indices
        assert row.top1 == pytest.approx((best[:, 0] == truth).float().mean().item())
        assert row.top5 == pytest.approx((best == truth[:, None]).any(1).float().mean().item())
        assert row.agreement == pytest.approx((best[:, 0] == dense).float().mean().item())
        assert row.low - 1e-9 <= row.top1 <= row.high + 1e-9  # rounding, at all or none
        assert row.n == 40


def test_the_command_prints_a_table_or_json(folder: Path, repository: Path) -> None:
    command = ["bench", "accuracy", "digits", f"--repository={repository}", f"--data={folder}"]
    table = CliRunner().invoke(app, [*command, "--level=1"])
    assert table.exit_code == 0
    assert "40 images" in table.stdout
    rows = json.loads(CliRunner().invoke(app, [*command, "--level=1", "--json"]).stdout)
    assert [row["level"] for row in rows] == [0, 1]


def test_wordnet_folders_count_in_their_order(tmp_path: Path, repository: Path) -> None:
    """ImageNet's folders are numbers, not names; and as many as classes."""
    pixels, labels = held_out(40)
    folders = [tmp_path / f"n{10_000_000 + 7 * index:08}" for index in range(10)]
    for folder in folders:
        folder.mkdir()
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        Image.fromarray(image).save(folders[label] / f"{index}.png")
    (row,) = measure(repository / "digits", tmp_path, levels=[0])
    assert row.top1 > 0.9
    (tmp_path / "n99999999").mkdir()
    with pytest.raises(InputError, match="labels: 11 sub-folders"):
        measure(repository / "digits", tmp_path)


def test_wordnet_folders_that_are_labels_are_those(tmp_path: Path, repository: Path) -> None:
    """Also where labels.txt has another order, and not all classes have images."""
    own = shutil.copytree(repository, tmp_path / "models") / "digits"
    numbers = [f"n{20_000_000 - 7 * index:08}" for index in range(10)]
    (own / "labels.txt").write_text("\n".join(numbers))
    pixels, labels = held_out(40)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        if label != 9:
            (tmp_path / "data" / numbers[label]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "data" / numbers[label] / f"{index}.png")
    (row,) = measure(own, tmp_path / "data", levels=[0])
    assert row.top1 > 0.9


@pytest.mark.parametrize("level", [-1, 9])
def test_a_level_that_is_none_is_refused(folder: Path, repository: Path, level: int) -> None:
    with pytest.raises(InputError, match=rf"level={level}: expected 0\.\."):
        measure(repository / "digits", folder, levels=[level])
    command = ["bench", "accuracy", "digits", f"--repository={repository}", f"--data={folder}"]
    assert CliRunner().invoke(app, [*command, f"--level={level}"]).exit_code != 0


def test_what_has_no_labels_is_refused(tmp_path: Path, repository: Path) -> None:
    for index in range(16):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{index}.png")
    with pytest.raises(InputError, match="no sub-folders"):
        measure(repository / "digits", tmp_path)
    with pytest.raises(InputError, match=r"level=9: expected 0\.\."):
        measure(repository / "digits", tmp_path, levels=[9])

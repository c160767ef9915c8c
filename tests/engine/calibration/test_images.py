"""What is refused of images and labels, and how a folder is divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.calibration.images import load_images
from foveate.errors import CalibrationError
from foveate.vit import ViTConfig

CONFIG = ViTConfig(height=48, width=48, classes=2)


def write(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), shade, np.uint8)).save(path)


def test_a_folder_is_divided_into_two_disjoint_halves_the_same_each_time(tmp_path: Path) -> None:
    for shade in range(20):
        write(tmp_path / f"{shade}.png", 10 * shade)
    first, second = load_images(tmp_path, CONFIG, None, most=100, seed=3)
    shades = [int(image[0, 0, 0]) for half in (first, second) for image in half.pixels]
    assert sorted(shades) == [10 * shade for shade in range(20)]
    assert len(first) == len(second) == 10
    assert first.labels is None
    again, _ = load_images(tmp_path, CONFIG, None, most=100, seed=3)
    assert again.digest == first.digest
    assert load_images(tmp_path, CONFIG, None, most=100, seed=4)[0].digest != first.digest


def test_sub_folders_are_labels_in_the_order_of_the_head(tmp_path: Path) -> None:
    for index in range(8):
        write(tmp_path / "zebra" / f"{index}.png", 10)
        write(tmp_path / "ape" / f"{index}.jpg", 200)
    for half in load_images(tmp_path, CONFIG, ["zebra", "ape"], most=100):
        assert half.labels is not None
        dark = (half.pixels[:, 0, 0, 0] < 100).long()
        assert half.labels.tolist() == (1 - dark).tolist()


def test_what_cannot_be_used_is_refused_with_its_name(tmp_path: Path) -> None:
    def refused(message: str, classes: list[str] | None = None, at: Path = tmp_path) -> None:
        with pytest.raises(CalibrationError, match=message):
            load_images(at, CONFIG, classes, most=100)

    refused("data=.*nowhere: not a folder", at=tmp_path / "nowhere")
    refused("0 JPEG or PNG files; expected at least 16")
    refused("no sub-folder; expected one a class", ["a", "b"])
    for index in range(16):
        write(tmp_path / "a" / f"{index}.png")
    refused("labels: 3 names for a head of 2 classes", ["a", "b", "c"])
    refused("labels: sub-folder 'a' .* is no class of the model; expected one of x, y", ["x", "y"])
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    refused("0.png: IMAGE: 8 bytes, cannot be decoded", ["a", "b"])
    write(tmp_path / "loose.png")
    refused("loose.png: has no label", ["a", "b"])

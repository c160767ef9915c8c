"""What is refused of images and labels, and how a folder is drawn from and divided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.images.folder import read_folder
from foveate.images.labelled_folder import class_names, list_folder
from foveate.images.pairs import load_pair
from foveate.model.vit import ViTConfig

CONFIG = ViTConfig(height=48, width=48, classes=2)


def write(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), shade, np.uint8)).save(path)


def test_a_folder_is_divided_into_two_disjoint_halves_the_same_each_time(tmp_path: Path) -> None:
    for shade in range(20):
        write(tmp_path / f"{shade}.png", 10 * shade)

    def pair(most: int, seed: int) -> tuple[list[int], ...]:
        model = tmp_path / "model"
        halves = load_pair(model, CONFIG, tmp_path, max_images=most, seed=seed)
        assert all(half.labels is None for half in halves)
        return tuple(half.pixels[:, 0, 0, 0].tolist() for half in halves)

    first, second = pair(100, 3)
    assert len(first) == len(second) == 10
    assert sorted(first + second) == [10 * shade for shade in range(20)]
    assert pair(100, 3) == (first, second)
    assert pair(100, 4) != (first, second)
    assert [len(half) for half in pair(4, 3)] == [4, 4]


def test_sub_folders_are_labels_in_the_order_of_the_head(tmp_path: Path) -> None:
    for index in range(8):
        write(tmp_path / "zebra" / "any depth" / f"{index}.png", 10)
        write(tmp_path / "ape" / f"{index}.jpg", 200)
    (tmp_path / "labels.txt").write_text("zebra\nape\n")
    # Without labels.txt the order is the alphabet's.
    for names, dark in ((class_names(tmp_path), 0), ([], 1)):
        images = read_folder(tmp_path, CONFIG, names, max_images=100)
        assert images.labels is not None
        expected = [dark if shade < 100 else 1 - dark for shade in images.pixels[:, 0, 0, 0]]
        assert images.labels.tolist() == expected


def test_a_name_that_two_classes_share_harms_no_other_folder(tmp_path: Path) -> None:
    for index in range(16):
        write(tmp_path / "hen" / f"{index}.png")
    _, labels = list_folder(tmp_path, 3, ["crane", "hen", "crane"])
    assert labels == [1] * 16


def test_names_are_the_lines_of_the_file_however_they_end(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"zebra\r\nred fox \r\n\r\n")
    assert class_names(tmp_path) == ["zebra", "red fox"]


def test_what_cannot_be_used_is_refused_with_its_name(tmp_path: Path) -> None:
    def refused(message: str, *names: str, at: Path = tmp_path) -> None:
        with pytest.raises(InputError, match=message):
            read_folder(at, CONFIG, names, max_images=100)

    refused("data=.*nowhere: not a folder", at=tmp_path / "nowhere")
    refused("0 JPEG or PNG files; expected at least 16")
    for index in range(16):
        write(tmp_path / "a" / f"{index}.png")
    refused("labels: 3 names in labels.txt for a head of 2 classes; expected 2", "a", "b", "c")
    refused("labels: 1 sub-folders of .* for a head of 2 classes; expected 2")
    refused(
        "labels: sub-folder 'a' of .* is not a class of the model; expected one of x, y",
        "x",
        "y",
    )
    refused("labels: sub-folder 'a' of .*: labels.txt has that name more than once", "a", "a")
    (tmp_path / "a" / "0.png").write_bytes(b"no image")
    refused("0.png: IMAGE: 8 bytes, cannot be decoded", "a", "b")
    write(tmp_path / "loose.png")
    refused("loose.png: has no label", "a", "b")
    with pytest.raises(InputError, match="data: missing; only the demo model 'digits'"):
        load_pair(tmp_path / "other", CONFIG, None, max_images=100, seed=0)

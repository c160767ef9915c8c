"""Files that are complete or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from foveate.atomic_file import replacing


def test_the_old_file_stands_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    with replacing(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_write_changes_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as scratch:
            scratch.write_text("ne")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_others_may_read_what_safetensors_wrote(tmp_path: Path) -> None:
    plain, tensors = tmp_path / "plain", tmp_path / "model.safetensors"
    plain.touch()
    with replacing(tensors) as scratch:
        save_file({"x": torch.zeros(1)}, scratch)
    assert tensors.stat().st_mode == plain.stat().st_mode

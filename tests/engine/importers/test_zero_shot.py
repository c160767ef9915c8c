"""Heads made of texts: every tensor of the text tower is there, known, finite and fp32."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.errors import InputError, WeightsError
from foveate.images.preprocess import read_preprocess
from foveate.importers.importer import Wishes, import_checkpoint
from foveate.importers.source import find_source

Change = Callable[[dict[str, Tensor]], object]
FC1 = "text_model.encoder.layers.1.mlp.fc1.weight"


def bring(folder: Path, repository: Path) -> Tensor:
    """The head of two classes."""
    wishes = Wishes(labels=["hen", "cock"])
    import_checkpoint(find_source(str(folder)), repository, "own", wishes)
    return load_file(repository / "own" / "1" / "model.safetensors")["head.weight"]


def changed(original: Path, folder: Path, change: Change) -> Path:
    shutil.copytree(original, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("case", ["CLIP-T/16-224", "SigLIP-T/16-224"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop(FC1), "text tower: missing keys .*layers.1.mlp.fc1.weight"),
        (lambda w: w.update({"text_model.more": torch.ones(2)}), "unexpected keys .*more"),
        (lambda w: w.update({FC1: w[FC1][:5].clone()}), "mismatched keys .*layers.1.mlp.fc1"),
        (lambda w: w[FC1].fill_(torch.nan), "fc1.weight: holds NaN"),
        (lambda w: w["logit_scale"].fill_(200.0), "head.weight: the conversion gives NaN"),
    ],
)
def test_a_text_tower_that_does_not_fit_is_refused(
    checkpoint: Callable[[str], Any], tmp_path: Path, case: str, change: Change, message: str
) -> None:
    folder = changed(checkpoint(case).folder, tmp_path / "changed", change)
    with pytest.raises(WeightsError, match=message):
        bring(folder, tmp_path / "models")
    assert not [*(tmp_path / "models").iterdir()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_names_are_embedded_in_fp32(
    checkpoint: Callable[[str], Any], tmp_path: Path, dtype: torch.dtype
) -> None:
    """Whatever the precision of the file: its values, widened, give the same head."""

    def narrow(weights: dict[str, Tensor]) -> None:
        weights.update({name: tensor.to(dtype) for name, tensor in weights.items()})

    def widen(weights: dict[str, Tensor]) -> None:
        weights.update({name: tensor.to(dtype).float() for name, tensor in weights.items()})

    original, heads = checkpoint("CLIP-T/16-224").folder, []
    for name, change in (("narrow", narrow), ("wide", widen)):
        folder = changed(original, tmp_path / name, change)
        heads.append(bring(folder, tmp_path / f"models-{name}"))
    assert torch.equal(*heads)


def test_the_processor_of_images_and_texts_is_read(
    checkpoint: Callable[[str], Any], tmp_path: Path
) -> None:
    """As transformers' ``CLIPProcessor`` saves it: one file for both."""
    folder = shutil.copytree(checkpoint("CLIP-T/16-224").folder, tmp_path / "both")
    import transformers  # seconds, and every test process collects this file

    images = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    (folder / "preprocessor_config.json").unlink()
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()
    bring(folder, tmp_path / "models")
    assert read_preprocess(tmp_path / "models" / "own").resize == 224


def test_prompts_are_taken_as_they_stand(checkpoint: Callable[[str], Any], tmp_path: Path) -> None:
    source = find_source(str(checkpoint("CLIP-T/16-224").folder))
    wishes = Wishes(labels=["hen", "cock"], prompts=["a {} {x}"])
    assert import_checkpoint(source, tmp_path, "own", wishes).labels == ["hen", "cock"]


def test_one_class_is_none(checkpoint: Callable[[str], Any], tmp_path: Path) -> None:
    """Whose probability is always 1; a sigmoid's is not."""
    clip, siglip = (
        find_source(str(checkpoint(case).folder)) for case in ("CLIP-T/16-224", "SigLIP-T/16-224")
    )
    with pytest.raises(InputError, match="classes=1: expected two or more"):
        import_checkpoint(clip, tmp_path, "clip", Wishes(labels=["hen"]))
    import_checkpoint(siglip, tmp_path, "siglip", Wishes(labels=["hen"]))


def test_indices_that_old_files_hold_are_left_alone(
    checkpoint: Callable[[str], Any], tmp_path: Path
) -> None:
    indices = {"text_model.embeddings.position_ids": torch.arange(77).unsqueeze(0)}
    original = checkpoint("CLIP-T/16-224").folder
    folder = changed(original, tmp_path / "old", lambda weights: weights.update(indices))
    assert torch.equal(bring(folder, tmp_path / "a"), bring(original, tmp_path / "b"))

"""Imported models against the implementations they come from, at the sizes people use.

    python -m foveate_benchmarks.parity [--only NAME ...] [--resume]

Random weights, true dimensions, 8 random images, fp32: the largest difference of logits at level 0,
and whether the five best classes are the same, in order. Models of transformers are built in this
process; those of timm and torchvision need timm, ``hierarchical/timm_models.py``, and are
reported as missing without it. What is done is kept: ``--resume`` goes on after it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from safetensors.torch import load_file
from torch import Tensor

from foveate.importers.importer import Imported, Wishes, import_checkpoint
from foveate.importers.source import find_source
from foveate.model.vit import load_vit
from foveate_benchmarks.hierarchical.timm_models import FOLDER
from foveate_benchmarks.parity import transformers_models
from foveate_benchmarks.results import bars, save, saved
from foveate_loadtest.environment import environment

# The quickest first.
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "timm vit_tiny_patch16_224": ("vit_tiny_patch16_224", {}),
    "timm deit_small_distilled_patch16_224": ("deit_small_distilled_patch16_224", {}),
    "timm deit3_small_patch16_224": ("deit3_small_patch16_224", {}),
    "timm vit_small_patch16_224 with qk-norm": ("vit_small_patch16_224", {"qk_norm": True}),
    "timm vit_small_patch14_reg4_dinov2": (
        "vit_small_patch14_reg4_dinov2",
        {"num_classes": 1000, "img_size": 224},
    ),
    "DeiT's own deit_small_patch16_224.pth": ("deit:deit_small_patch16_224", {}),
    "timm vit_base_patch32_224": ("vit_base_patch32_224", {}),
    "timm vit_medium_patch16_reg4_gap_256": ("vit_medium_patch16_reg4_gap_256", {}),
    "torchvision vit_b_32": ("torchvision:vit_b_32", {}),
    "timm vit_base_patch16_clip_224": ("vit_base_patch16_clip_224", {"num_classes": 1000}),
    "timm vit_base_patch16_siglip_224": ("vit_base_patch16_siglip_224", {"num_classes": 1000}),
    "timm vit_base_patch16_384": ("vit_base_patch16_384", {}),
    "torchvision vit_b_16": ("torchvision:vit_b_16", {}),
    "timm vit_base_patch8_224": ("vit_base_patch8_224", {}),
    "timm vit_base_patch16_siglip_512": ("vit_base_patch16_siglip_512", {"num_classes": 1000}),
    "timm vit_large_patch16_224": ("vit_large_patch16_224", {}),
    "timm vit_huge_patch14_224": ("vit_huge_patch14_224", {}),
}


def from_transformers(name: str, folder: Path) -> dict[str, Any]:
    case = transformers_models.CASES[name]
    images = transformers_models.pixels(case.edge)
    logits = transformers_models.save(name, folder / "checkpoint", images)
    wishes = Wishes(labels=transformers_models.NAMES if case.zero_shot else None)
    source = find_source(str(folder / "checkpoint"))
    imported = import_checkpoint(source, folder / "models", "model", wishes)
    return judge(folder, imported, images, logits)


def from_timm(name: str, folder: Path) -> dict[str, Any]:
    model, arguments = TIMM[name]
    command = [sys.executable, "-m", "foveate_benchmarks.parity.timm_model", model]
    command += [str(folder / "checkpoint"), json.dumps(arguments)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    source = next((folder / "checkpoint").glob("*.pth"), folder / "checkpoint")
    imported = import_checkpoint(find_source(str(source)), folder / "models", "model")
    expected = load_file(folder / "checkpoint" / "expected.safetensors")
    return judge(folder, imported, expected["images"], expected["logits"])


@torch.inference_mode()
def judge(folder: Path, imported: Imported, images: Tensor, logits: Tensor) -> dict[str, Any]:
    vit = load_vit(folder / "models" / "model" / "1" / "model.safetensors")
    ours = vit(images)
    c = vit.config
    return {
        "family": imported.recipe.family,
        "dims": f"{c.dim} x {c.depth}, {c.heads} heads, {c.height}/{c.patch}",
        "parameters": sum(p.numel() for p in vit.parameters()),
        "max_difference": float((ours - logits).abs().max()),
        "logit_std": float(logits.std()),
        "same_top5": torch.equal(ours.topk(5).indices, logits.topk(5).indices),
    }


def main(only: Annotated[list[str] | None, typer.Option()] = None, resume: bool = False) -> None:
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = saved("parity").get("rows", []) if resume else []
    wanted = only or [*transformers_models.PUBLISHED, *TIMM]
    missing = dict.fromkeys([*transformers_models.PUBLISHED, *TIMM], "not yet")
    for row in rows:
        del missing[row["model"]]
    for name in [name for name in wanted if name in missing]:
        run = from_timm if name in TIMM else from_transformers
        with tempfile.TemporaryDirectory() as folder:
            try:
                rows.append({"model": name, **run(name, Path(folder))})
            except subprocess.CalledProcessError as error:
                missing[name] = error.stderr.strip().splitlines()[-1]
                print(f"{name}: missing: {missing[name]}", flush=True)
                continue
        del missing[name]
        print(f"{name}: {rows[-1]['max_difference']:.1e}", flush=True)
        keep(rows, missing)
    bars(judgement(rows))


def judgement(rows: list[dict[str, Any]]) -> dict[str, bool]:
    return {
        "logits differ by 1e-4 at most": all(row["max_difference"] <= 1e-4 for row in rows),
        "the same five best classes": all(row["same_top5"] for row in rows),
    }


def keep(rows: list[dict[str, Any]], missing: dict[str, str]) -> None:
    timm = [*FOLDER.glob("timm-*.dist-info")]
    versions = {
        "transformers": transformers.__version__,
        "timm": timm[0].name.split("-")[1].removesuffix(".dist") if timm else None,
    }
    about = environment() | versions
    save("parity", environment=about, bars=judgement(rows), rows=rows, missing=missing)


if __name__ == "__main__":
    typer.run(main)

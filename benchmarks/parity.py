"""Imported models against the implementations they come from, at the sizes people use.

    python benchmarks/parity.py [--only NAME ...]

Random weights, true dimensions, 8 random images, fp32: the largest difference of logits at level 0,
and whether the five best classes are the same, in order. Models of transformers are built in this
process; those of timm and torchvision need timm, ``hierarchical_parts/timm_models.py``, and are
reported as missing without it. The import of ViT-L/16-384 runs in a process of its own that tells
the most memory it ever had.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
import transformers
import typer
from safetensors.torch import load_file
from torch import Tensor

from foveate.importers.importer import Imported, Wishes, import_checkpoint
from foveate.importers.source import find_source
from foveate.vit import load_vit
from hierarchical_parts.timm_models import FOLDER
from parity_parts import transformers_models
from results import bars, environment, save

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "timm vit_tiny_patch16_224": ("vit_tiny_patch16_224", {}),
    "timm vit_base_patch8_224": ("vit_base_patch8_224", {}),
    "timm vit_base_patch16_224": ("vit_base_patch16_224", {}),
    "timm vit_base_patch16_384": ("vit_base_patch16_384", {}),
    "timm vit_base_patch32_224": ("vit_base_patch32_224", {}),
    "timm vit_large_patch16_224": ("vit_large_patch16_224", {}),
    "timm deit_small_distilled_patch16_224": ("deit_small_distilled_patch16_224", {}),
    "timm deit3_small_patch16_224": ("deit3_small_patch16_224", {}),
    "timm vit_small_patch14_reg4_dinov2": (
        "vit_small_patch14_reg4_dinov2",
        {"num_classes": 1000, "img_size": 224},
    ),
    "timm vit_medium_patch16_reg4_gap_256": ("vit_medium_patch16_reg4_gap_256", {}),
    "timm vit_base_patch16_siglip_224": ("vit_base_patch16_siglip_224", {"num_classes": 1000}),
    "timm vit_base_patch16_siglip_512": ("vit_base_patch16_siglip_512", {"num_classes": 1000}),
    "timm vit_base_patch16_clip_224": ("vit_base_patch16_clip_224", {"num_classes": 1000}),
    "timm vit_small_patch16_224, qk-norm": ("vit_small_patch16_224", {"qk_norm": True}),
    "DeiT's own deit_small_patch16_224.pth": ("deit:deit_small_patch16_224", {}),
    "torchvision vit_b_16": ("torchvision:vit_b_16", {}),
    "torchvision vit_l_32": ("torchvision:vit_l_32", {}),
}
LARGE = "ViT-L/16-384"  # whose import is weighed
_WEIGH = """\
import json, resource, sys
from pathlib import Path
from foveate.importers.importer import import_checkpoint
from foveate.importers.source import find_source
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = most()
import_checkpoint(find_source(sys.argv[1]), Path(sys.argv[2]), "model")
print(json.dumps({"before": before, "most": most()}))
"""


def from_transformers(name: str, folder: Path) -> dict[str, Any]:
    case = transformers_models.CASES[name]
    images = transformers_models.pixels(case.edge)
    logits = transformers_models.save(name, folder / "checkpoint", images)
    wishes = Wishes(labels=transformers_models.NAMES if case.zero_shot else None)
    weight = {}
    if name == LARGE:
        command = [sys.executable, "-c", _WEIGH, folder / "checkpoint", folder / "weighed"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        size = (folder / "checkpoint" / "model.safetensors").stat().st_size
        weight = {"checkpoint_bytes": size, "memory_bytes": json.loads(done.stdout)}
    source = find_source(str(folder / "checkpoint"))
    imported = import_checkpoint(source, folder / "models", "model", wishes)
    return judge(folder, imported, images, logits) | weight


def from_timm(name: str, folder: Path) -> dict[str, Any]:
    model, arguments = TIMM[name]
    script = Path(__file__).parent / "parity_parts" / "timm_model.py"
    command = [sys.executable, script, model, folder / "checkpoint", json.dumps(arguments)]
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


def main(only: Annotated[list[str] | None, typer.Option()] = None) -> None:
    torch.set_num_threads(1)
    rows, missing = [], {}
    for name in [*transformers_models.CASES, *TIMM]:
        if only and name not in only:
            continue
        run = from_timm if name in TIMM else from_transformers
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = {"model": name, **run(name, Path(folder))}
            except subprocess.CalledProcessError as error:
                missing[name] = error.stderr.strip().splitlines()[-1]
                print(f"{name}: missing: {missing[name]}", flush=True)
                continue
        rows.append(row)
        print(f"{name}: {row['max_difference']:.1e}, top 5 {row['same_top5']}", flush=True)
    checks = {
        "logits differ by 1e-4 at most": all(row["max_difference"] <= 1e-4 for row in rows),
        "the same five best classes": all(row["same_top5"] for row in rows),
    }
    for row in rows:
        if "memory_bytes" in row:
            most = row["memory_bytes"]["most"]
            checks["import under twice the checkpoint"] = most < 2 * row["checkpoint_bytes"]
    if not only:
        versions = {"transformers": transformers.__version__, "timm": timm_version()}
        about = environment() | versions
        save("parity", {"environment": about, "rows": rows, "missing": missing, "bars": checks})
    bars(checks)


def timm_version() -> str | None:
    found = [*FOLDER.glob("timm-*.dist-info")]
    return found[0].name.removeprefix("timm-").removesuffix(".dist-info") if found else None


if __name__ == "__main__":
    typer.run(main)

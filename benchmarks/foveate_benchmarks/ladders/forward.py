"""Our dense forward pass against Hugging Face transformers' ViT with the same weights and SDPA.

    python -m foveate_benchmarks.ladders.forward [NAME] [--repository model_repository]

Batch 8, one thread, process CPU time, interleaved round by round, medians. Both start from the
pixels they are made for: ours from uint8, theirs from normalised floats.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import typer
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification

from foveate.compress.report import times
from foveate.inference.allocator import tune_allocator
from foveate.inference.prepared import PreparedLadder
from foveate.inference.reference import ReferenceEngine
from foveate.model.vit import ViT
from foveate_benchmarks.results import conclude

BLOCK = {
    "layernorm_before": "norm1",
    "attention.o_proj": "attn.proj",
    "layernorm_after": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
REST = {
    "vit.embeddings.cls_token": "cls_token",
    "vit.embeddings.position_embeddings": "pos_embed",
    "vit.embeddings.patch_embeddings.projection": "patch_embed.proj",
    "vit.layernorm": "norm",
    "classifier": "head",
}


def huggingface(vit: ViT) -> Any:
    """The same network, built by transformers."""
    c = vit.config
    sizes: dict[str, Any] = {
        "hidden_size": c.dim,
        "num_hidden_layers": c.depth,
        "num_attention_heads": c.heads,
        "intermediate_size": c.mlp_dim,
        "image_size": c.height,
        "patch_size": c.patch,
        "layer_norm_eps": c.eps,
        "num_labels": c.classes,
        "attn_implementation": "sdpa",
    }
    model = ViTForImageClassification(ViTConfig(**sizes)).eval().requires_grad_(False)
    model.load_state_dict({name: _weight(name, vit.state_dict()) for name in model.state_dict()})
    return model


def _weight(name: str, ours: dict[str, Tensor]) -> Tensor:
    """Our tensor for a name of transformers."""
    if name in REST:
        return ours[REST[name]]
    stem, kind = name.rsplit(".", 1)
    if stem in REST:
        return ours[f"{REST[stem]}.{kind}"]
    block, part = stem.removeprefix("vit.layers.").split(".", 1)
    if part in BLOCK:
        return ours[f"blocks.{block}.{BLOCK[part]}.{kind}"]
    row = ("attention.q_proj", "attention.k_proj", "attention.v_proj").index(part)
    return ours[f"blocks.{block}.attn.qkv.{kind}"].chunk(3)[row]


@torch.inference_mode()
def main(
    name: str = "digits", repository: Path = Path("model_repository"), rounds: int = 60
) -> None:
    tune_allocator()
    torch.set_num_threads(1)
    engine = ReferenceEngine(PreparedLadder.load(repository / name / "1"))
    config = engine.config
    theirs = huggingface(engine.levels[0].vit)
    pixels = torch.randint(0, 256, (8, config.height, config.width, 3), dtype=torch.uint8)
    floats = ((pixels / 255.0 - config.mean) / config.std).permute(0, 3, 1, 2).contiguous()

    def by_us(pixels: Tensor) -> Tensor:
        return engine.infer(pixels, [0] * 8).scores

    def by_them(_: Tensor) -> Tensor:
        scores: Tensor = theirs(floats).logits.softmax(-1)
        return scores

    difference = (by_us(pixels) - by_them(pixels)).abs().max().item()
    seconds = times([by_us, by_them], [pixels] * (rounds + 1))
    middle = {"foveate": 1e3 * seconds[0], "transformers": 1e3 * seconds[1]}
    ratio = middle["foveate"] / middle["transformers"]
    print(f"{middle}  ratio {ratio:.3f}  max difference of scores {difference:.1e}")
    checks = {"no slower than transformers": ratio <= 1.0, "same scores": difference <= 1e-5}
    conclude(
        "forward",
        checks,
        rounds=rounds,
        median_ms=middle,
        ratio=ratio,
        max_score_difference=difference,
    )


if __name__ == "__main__":
    typer.run(main)

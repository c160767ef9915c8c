"""What timm's own code says of every ViT it can build, as JSON: nothing is drawn, nothing is read.

python timm_architectures.py
"""

from __future__ import annotations

import json
from typing import Any

import torch

from foveate_benchmarks.hierarchical.timm_models import build


def describe(name: str) -> dict[str, Any] | None:
    """One block of it, on no device: its choices, and the shapes of its tensors."""
    import timm
    from timm.models.vision_transformer import Block, VisionTransformer

    with torch.device("meta"):
        model: Any = timm.create_model(name, depth=1, num_classes=7)
    if not isinstance(model, VisionTransformer):
        return None
    block = model.blocks[0]
    activation = type(block.mlp.act).__name__ if hasattr(block, "mlp") else ""
    approximate = getattr(getattr(block, "mlp", None), "act", None)
    return {
        "plain": type(block) is Block,
        "heads": getattr(getattr(block, "attn", None), "num_heads", 0),
        "eps": getattr(getattr(block, "norm1", None), "eps", 0),
        "activation": f"{activation} {getattr(approximate, 'approximate', '')}".strip(),
        "pool": model.global_pool,
        "pretrained_cfg": model.pretrained_cfg,
        "shapes": {key: list(tensor.shape) for key, tensor in model.state_dict().items()},
    }


def main() -> None:
    build("test_vit")  # declares what torchvision lacks
    import timm

    names = [n for part in ("vit_*", "deit*", "flexivit*") for n in timm.list_models(part)]
    found = {}
    for name in names:
        try:
            found[name] = describe(name)
        except (TypeError, AttributeError, AssertionError):  # takes no depth: no ViT like the rest
            found[name] = None
    print(json.dumps({name: facts for name, facts in found.items() if facts}))


if __name__ == "__main__":
    main()

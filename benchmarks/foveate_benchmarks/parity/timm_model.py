"""A model of timm or torchvision with random weights, saved as its library saves it.

    python timm_model.py NAME FOLDER [JSON of arguments] [EDGE]

A process of its own, for transformers cannot be imported where this torchvision can. Writes
``config.json`` and ``model.safetensors`` (timm) or ``NAME.pth`` (``torchvision:NAME``, and
``deit:NAME`` as DeiT publishes it), and ``expected.safetensors``: images [8, H, W, 3] (uint8) and
logits, of images of EDGE if given, by the library's own interpolation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from foveate_benchmarks.hierarchical.timm_models import build


@torch.inference_mode()
def main(name: str, folder: Path, arguments: dict[str, Any], other: int | None) -> None:
    kind, _, own = name.rpartition(":")
    if kind == "torchvision":
        build("test_vit")  # declares what torchvision lacks
        import torchvision

        model = getattr(torchvision.models, own)(**arguments).eval()
        mean, std, edge = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), model.image_size
    else:
        model = build(own, **arguments)
        given = model.pretrained_cfg
        mean, std, edge = given["mean"], given["std"], model.patch_embed.img_size[0]
    if kind == "deit":
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    shown = edge if other is None else other
    images = torch.randint(0, 256, (8, shown, shown, 3), dtype=torch.uint8)
    inputs = ((images / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    answering = model if other is None else resized(model, kind, own, arguments, other)
    logits = answering(inputs.contiguous())
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"images": images, "logits": logits}, folder / "expected.safetensors")
    if kind:
        weights = model.state_dict()
        torch.save({"model": weights} if kind == "deit" else weights, folder / f"{own}.pth")
        return
    import timm

    given = {**model.pretrained_cfg, "input_size": [3, edge, edge]}
    timm.models.save_for_hf(
        model, folder, model_config={"pretrained_cfg": given}, model_args=arguments or None,
        safe_serialization=True,
    )  # fmt: skip


def resized(model: Any, kind: str, own: str, arguments: dict[str, Any], edge: int) -> Any:
    """The same weights in a model for images of another size."""
    weights = model.state_dict()
    if kind == "torchvision":
        import torchvision

        weights = torchvision.models.vision_transformer.interpolate_embeddings(
            edge, model.patch_size, weights
        )
        other = getattr(torchvision.models, own)(**arguments, image_size=edge)
    else:
        from timm.models.vision_transformer import checkpoint_filter_fn

        other = build(own, **arguments, img_size=edge)
        weights = checkpoint_filter_fn(weights, other)
    other.load_state_dict(weights)
    return other.eval()


if __name__ == "__main__":
    name, folder, *rest = sys.argv[1:]
    arguments = json.loads(rest[0]) if rest else {}
    main(name, Path(folder), arguments, int(rest[1]) if len(rest) > 1 else None)

"""A model of timm or torchvision with random weights, saved as its library saves it.

    python timm_model.py NAME FOLDER [JSON of arguments]

A process of its own, for transformers cannot be imported where this torchvision can. Writes
``config.json`` and ``model.safetensors`` (timm) or ``NAME.pth`` (``torchvision:NAME``, and
``deit:NAME`` as DeiT publishes it), and ``expected.safetensors``: images [8, H, W, 3] (uint8) and
logits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from safetensors.torch import save_file

from hierarchical_parts.timm_models import build


@torch.inference_mode()
def main(name: str, folder: Path, arguments: dict[str, Any]) -> None:
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
    images = torch.randint(0, 256, (8, edge, edge, 3), dtype=torch.uint8)
    inputs = ((images / 255 - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2)
    logits = model(inputs.contiguous())
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


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), json.loads((sys.argv[3:] or ["{}"])[0]))

"""Models of transformers with random weights, saved by transformers, and what they answer.

Dimensions are those of checkpoints on the hub; every weight and bias is drawn, so that each one
matters.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

__all__ = ["CASES", "NAMES", "PUBLISHED", "Case", "pixels", "save"]

NAMES = ["tench", "goldfish", "great white shark", "tiger shark", "hammerhead", "electric ray",
         "stingray", "cock", "hen", "ostrich", "brambling", "house finch"]  # fmt: skip
_SIZES = {  # hidden size, blocks, heads, MLP
    "T": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
}
_CLASSES: dict[str, Any] = {"num_labels": 1000}


@dataclass(frozen=True)
class Case:
    """A model, the processor that comes with it, and the edge of its images."""

    build: Callable[[], Any]
    processor: Callable[[], Any]
    edge: int
    zero_shot: bool = False


def save(name: str, folder: Path, images: Tensor, change: Callable[[Any], object] = id) -> Tensor:
    """Write the checkpoint of case ``name``; the logits of ``images`` [B, H, W, 3] (uint8)."""
    case = CASES[name]
    torch.manual_seed(0)
    model = case.build().eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim():  # not the scale of CLIP's logits
            parameter.add_(0.02 * torch.randn_like(parameter))
    change(model)
    processor = case.processor()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    mean, std = (torch.tensor(x) for x in (processor.image_mean, processor.image_std))
    inputs = ((images / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    with torch.inference_mode():
        if case.zero_shot:
            return _zero_shot(model, folder, inputs)
        # DINOv2 interpolates its position embeddings unasked, and knows no such argument.
        more = {} if "dinov2" in model.config.model_type else {"interpolate_pos_encoding": True}
        logits: Tensor = model(inputs, **more).logits
    return logits


def pixels(edge: int, images: int = 8) -> Tensor:
    """Random images [n, edge, edge, 3] (uint8)."""
    generator = torch.Generator().manual_seed(7)
    shape = (images, edge, edge, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def _zero_shot(model: Any, folder: Path, inputs: Tensor) -> Tensor:
    """Image and texts through the whole model, as its users call it."""
    siglip = model.config.model_type == "siglip"
    tokenizer = _tokenizer(model.config.text_config)
    tokenizer.save_pretrained(folder)
    prompt = "This is a photo of {}." if siglip else "a photo of a {}."
    texts = tokenizer(
        [prompt.format(name) for name in NAMES],
        padding="max_length" if siglip else True,
        max_length=model.config.text_config.max_position_embeddings,
        return_tensors="pt",
    )
    if siglip:
        texts.pop("attention_mask")
    texts.pop("token_type_ids", None)
    logits: Tensor = model(pixel_values=inputs, **texts).logits_per_image
    return logits


def _tokenizer(config: Any) -> Any:
    """A word for each word: what it is trained on does not matter to a random tower."""
    words = sorted({*" ".join(NAMES).split(), "a", "photo", "of", "This", "is", "."})
    special = {"<pad>": 1, "<start>": config.bos_token_id, "<end>": config.eos_token_id}
    vocabulary = {word: 10 + index for index, word in enumerate(words)} | {"<unk>": 2} | special
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>",
        special_tokens=[("<start>", special["<start>"]), ("<end>", special["<end>"])],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>",
        bos_token="<start>",
    )  # fmt: skip


def _sizes(size: str) -> dict[str, Any]:
    keys = "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"
    return dict(zip(keys, _SIZES[size], strict=True))


def _dinov2_sizes(size: str) -> dict[str, Any]:
    sizes = _sizes(size)
    return {**sizes, "mlp_ratio": sizes.pop("intermediate_size") // sizes["hidden_size"]}


def _vit(size: str, edge: int) -> Case:
    def build() -> Any:
        config = transformers.ViTConfig(**_sizes(size), **_CLASSES, image_size=edge)
        return transformers.ViTForImageClassification(config)

    side = {"height": edge, "width": edge}
    return Case(build, lambda: transformers.ViTImageProcessorPil(size=side), edge)


def _deit(size: str) -> Case:
    def build() -> Any:
        config = transformers.DeiTConfig(**_sizes(size), **_CLASSES)
        return transformers.DeiTForImageClassificationWithTeacher(config)

    return Case(build, transformers.DeiTImageProcessorPil, 224)


def _dinov2(size: str, *, registers: bool) -> Case:
    def build() -> Any:
        kind = "Dinov2WithRegisters" if registers else "Dinov2"
        config = getattr(transformers, f"{kind}Config")(
            **_dinov2_sizes(size), **_CLASSES, image_size=518, patch_size=14
        )
        return getattr(transformers, f"{kind}ForImageClassification")(config)

    def processor() -> Any:
        return transformers.BitImageProcessorPil(
            size={"shortest_edge": 256},
            crop_size={"height": 224, "width": 224},
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )

    return Case(build, processor, 224)


def _clip(size: str, patch: int, projection: int) -> Case:
    def build() -> Any:
        vision = dict(_sizes(size), patch_size=patch, image_size=224)
        text = _sizes("B") if size == "L" else {}
        if size == "T":  # for tests: no published one is so small
            text = {"num_hidden_layers": 2}
        config = transformers.CLIPConfig(
            vision_config=vision, text_config=text, projection_dim=projection
        )
        return transformers.CLIPModel(config)

    return Case(build, transformers.CLIPImageProcessorPil, 224, zero_shot=True)


def _siglip(size: str, patch: int) -> Case:
    def build() -> Any:
        vision = dict(_sizes(size), patch_size=patch, image_size=224)
        text = dict(_sizes(size), vocab_size=32000, bos_token_id=3, eos_token_id=4)
        return transformers.SiglipModel(
            transformers.SiglipConfig(vision_config=vision, text_config=text)
        )

    return Case(build, transformers.SiglipImageProcessorPil, 224, zero_shot=True)


# Of published sizes, the quickest first.
PUBLISHED: dict[str, Case] = {
    "DeiT-T/16-224 distilled": _deit("T"),
    "ViT-S/16-224": _vit("S", 224),
    "DINOv2-S/14-224": _dinov2("S", registers=False),
    "DINOv2-S/14-224 with registers": _dinov2("S", registers=True),
    "CLIP-B/32-224": _clip("B", 32, 512),
    "SigLIP-B/16-224": _siglip("B", 16),
    "ViT-B/16-224": _vit("B", 224),
    "DeiT-B/16-224 distilled": _deit("B"),
    "CLIP-B/16-224": _clip("B", 16, 512),
    "DINOv2-B/14-224": _dinov2("B", registers=False),
    "CLIP-L/14-224": _clip("L", 14, 768),
    "DINOv2-L/14-224 with registers": _dinov2("L", registers=True),
    "ViT-L/16-384": _vit("L", 384),
}

# For tests, of which only DeiT's was published.
CASES: dict[str, Case] = PUBLISHED | {
    "ViT-T/16-224": _vit("T", 224),
    "DINOv2-T/14-224": _dinov2("T", registers=False),
    "DINOv2-T/14-224 with registers": _dinov2("T", registers=True),
    "CLIP-T/16-224": _clip("T", 16, 256),
    "SigLIP-T/16-224": _siglip("T", 16),
}

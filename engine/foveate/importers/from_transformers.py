"""transformers' ViT, DeiT, DINOv2 (with and without registers), CLIP and SigLIP.

Names of tensors are those of the files, which stayed the same while the modules were renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from foveate.errors import WeightsError
from foveate.images.preprocess import Preprocess
from foveate.importers.recipe import Layout, Recipe, Rgb
from foveate.importers.tensors import Tensors
from foveate.model.vit import Activation

__all__ = ["recipe"]

_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu-tanh",
    "quick_gelu": "quick-gelu",
}
_EMBEDDINGS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_ATTENTION = {
    "attn.q": "attention.attention.query",
    "attn.k": "attention.attention.key",
    "attn.v": "attention.attention.value",
    "attn.proj": "attention.output.dense",
}
_VIT_BLOCK = _ATTENTION | {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_DINO_BLOCK = _ATTENTION | {
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
}
_CLIP_BLOCK = {
    "attn.q": "self_attn.q_proj",
    "attn.k": "self_attn.k_proj",
    "attn.v": "self_attn.v_proj",
    "attn.proj": "self_attn.out_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
}
_CLIP_TOWER = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding.weight",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm_pre": "pre_layrnorm",
    "norm": "post_layernorm",
    "attn_pool.latent": "head.probe",
    "attn_pool.in_proj_weight": "head.attention.in_proj_weight",
    "attn_pool.in_proj_bias": "head.attention.in_proj_bias",
    "attn_pool.proj": "head.attention.out_proj",
    "attn_pool.norm": "head.layernorm",
    "attn_pool.mlp.fc1": "head.mlp.fc1",
    "attn_pool.mlp.fc2": "head.mlp.fc2",
}
_SHORTER = ("clip", "siglip", "bit", "dinov2")
_RESAMPLES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def recipe(
    config: Mapping[str, Any], processor: Mapping[str, Any] | None, tensors: Tensors
) -> Recipe:
    """Of a checkpoint with a ``config.json`` of transformers. Raises :class:`WeightsError`."""
    kind = config.get("model_type")
    known = {
        "vit": _vit,
        "deit": _deit,
        "dinov2": _dinov2,
        "dinov2_with_registers": _dinov2,
        "clip": _clip,
        "siglip": _siglip,
    }
    if kind not in known:
        raise WeightsError(
            f"{tensors.where}: model_type={kind!r}: expected one of {', '.join(known)}; "
            "docs/models.md lists supported models"
        )
    if processor is None:
        raise WeightsError(
            f"{tensors.where}: no preprocessor_config.json next to config.json, so its "
            "preprocessing is unknown"
        )
    vision = config.get("vision_config", config)
    if (activation := vision.get("hidden_act", _DEFAULT_ACT[kind])) not in _ACTIVATIONS:
        raise WeightsError(
            f"{tensors.where}: hidden_act={activation!r}: expected {', '.join(_ACTIVATIONS)}"
        )
    image, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    for key, value in (("image_size", image), ("patch_size", patch)):
        if not isinstance(value, int):
            raise WeightsError(
                f"{tensors.where}: {key}={value!r}: expected one number, the edge of a square"
            )
    if (problem := config.get("problem_type")) == "regression":
        raise WeightsError(f"{tensors.where}: problem_type={problem!r}: expected classes")
    size, preprocess = _preprocess(processor, str(kind), int(image), tensors.where)
    mean, std = _normalisation(processor)
    common: dict[str, Any] = {
        "family": f"transformers {kind}",
        "heads": int(vision.get("num_attention_heads", 12)),
        "eps": float(vision.get("layer_norm_eps", _DEFAULT_EPS[kind])),
        "activation": _ACTIVATIONS[activation],
        "size": size,
        "grid": (image // patch, image // patch),
        "antialias": kind == "dinov2_with_registers",
        "unasked": kind in ("dinov2", "dinov2_with_registers"),
        "mean": mean,
        "std": std,
        "preprocess": preprocess,
        "labels": _labels(config, tensors.where),
        "sigmoid": problem == "multi_label_classification",
    }
    return Recipe(**common | known[kind](config, tensors))


_DEFAULT_ACT = dict.fromkeys(("vit", "deit", "dinov2", "dinov2_with_registers"), "gelu") | {
    "clip": "quick_gelu",
    "siglip": "gelu_pytorch_tanh",
}
_DEFAULT_EPS = dict.fromkeys(("dinov2", "dinov2_with_registers", "siglip"), 1e-6) | {
    "vit": 1e-12,
    "deit": 1e-12,
    "clip": 1e-5,
}


def _vit(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    return {
        "layout": Layout(
            block="vit.encoder.layer.{}",
            inside=_VIT_BLOCK,
            outside=_under("vit", _EMBEDDINGS) | {"head": "classifier"},
        ),
        "ignored": ("vit.pooler.", "vit.embeddings.mask_token"),
    }


def _deit(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    """With a teacher's head, the mean of both heads; without one, the CLS token alone."""
    taught = "distillation_classifier.weight" in tensors
    names = _EMBEDDINGS | {"dist_token": "embeddings.distillation_token"}
    heads = {"head": "classifier"}
    if taught:
        heads = {"head": "cls_classifier", "head_dist": "distillation_classifier"}
    return {
        "layout": Layout(
            block="deit.encoder.layer.{}",
            inside=_VIT_BLOCK,
            outside=_under("deit", names) | heads,
        ),
        "pool": "cls+dist" if taught else "cls",
        "ignored": ("deit.pooler.", "deit.embeddings.mask_token"),
    }


def _dinov2(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    if config.get("use_swiglu_ffn"):
        raise WeightsError(
            f"{tensors.where}: use_swiglu_ffn=true (DINOv2 giant): expected an MLP of two layers"
        )
    root = str(config["model_type"])
    names = _EMBEDDINGS | {"reg_token": "embeddings.register_tokens"}
    return {
        "layout": Layout(
            block=f"{root}.encoder.layer.{{}}",
            inside=_DINO_BLOCK,
            outside=_under(root, names) | {"head": "classifier"},
        ),
        "pool": "cls+mean",
        "ignored": (f"{root}.embeddings.mask_token",),
    }


def _clip(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    return {
        "layout": Layout(
            block="vision_model.encoder.layers.{}",
            inside=_CLIP_BLOCK,
            outside=_under("vision_model", _CLIP_TOWER) | {"project": "visual_projection"},
        ),
        "ignored": _INDICES,
        "labels": None,
        "zero_shot": True,
    }


def _siglip(config: Mapping[str, Any], tensors: Tensors) -> dict[str, Any]:
    return {
        "layout": Layout(
            block="vision_model.encoder.layers.{}",
            inside=_CLIP_BLOCK,
            outside=_under("vision_model", _CLIP_TOWER),
        ),
        "pool": "map",
        "ignored": _INDICES,
        "labels": None,
        "zero_shot": True,
        "sigmoid": True,
    }


_INDICES = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")


def _under(root: str, names: Mapping[str, str]) -> dict[str, str]:
    return {ours: f"{root}.{theirs}" for ours, theirs in names.items()}


def _preprocess(
    processor: Mapping[str, Any], kind: str, image: int, where: str
) -> tuple[tuple[int, int], Preprocess]:
    """Height and width of the pixels, and how they come about."""
    for key in ("do_resize", "do_rescale"):
        if not processor.get(key, True):
            raise WeightsError(f"{where}: {key}={processor[key]!r}: expected true")
    if abs(float(processor.get("rescale_factor", 1 / 255)) - 1 / 255) > 1e-6:
        raise WeightsError(f"{where}: rescale_factor={processor['rescale_factor']}: expected 1/255")
    resample = processor.get("resample", 2)
    if resample not in _RESAMPLES:
        raise WeightsError(f"{where}: resample={resample!r}: expected 0, 1, 2 or 3, as Pillow's")
    interpolation = _RESAMPLES[resample]
    # A number alone is the shorter edge to the processors of _SHORTER, a square to the others.
    named = processor.get("image_processor_type", processor.get("feature_extractor_type", kind))
    size = processor.get("size", image)
    shorter = isinstance(size, int) and str(named).lower().startswith(_SHORTER)
    resize = size if shorter else _edges(size, where)
    if processor.get("do_center_crop"):
        crop = _edges(processor.get("crop_size", image), where)
        crop = (crop, crop) if isinstance(crop, int) else crop
        return crop, Preprocess(resize=resize, interpolation=interpolation)
    if isinstance(resize, int):
        raise WeightsError(
            f"{where}: size={size!r} without do_center_crop would give images of different "
            "shapes; expected height and width"
        )
    return resize, Preprocess(resize=resize, interpolation=interpolation)


def _edges(value: Any, where: str) -> int | tuple[int, int]:
    """The shorter edge, or height and width; a number alone is a square."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Mapping):
        if value.keys() == {"shortest_edge"}:
            return int(value["shortest_edge"])
        if value.keys() == {"height", "width"}:
            return int(value["height"]), int(value["width"])
    raise WeightsError(f"{where}: size={value!r}: expected shortest_edge, or height and width")


def _normalisation(processor: Mapping[str, Any]) -> tuple[Rgb, Rgb]:
    if not processor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    r, g, b = map(float, processor.get("image_mean", (0.5, 0.5, 0.5)))
    s, t, u = map(float, processor.get("image_std", (0.5, 0.5, 0.5)))
    return (r, g, b), (s, t, u)


def _labels(config: Mapping[str, Any], where: str) -> list[str] | None:
    names = config.get("id2label")
    if not names:
        return None
    if missing := [index for index in range(len(names)) if str(index) not in names]:
        raise WeightsError(
            f"{where}: id2label: {len(names)} names, none for class {missing[0]}; expected one for "
            f"each class in 0..{len(names) - 1}"
        )
    return [str(names[str(index)]) for index in range(len(names))]

"""timm's ``vit_*``, ``deit*`` and ``flexivit_*``, and checkpoints whose tensors are called alike.

Tensor names do not show heads, activation and epsilon; these follow from the architecture's name
and the arguments in ``config.json``, as timm writes it to the hub.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from foveate.errors import WeightsError
from foveate.images.preprocess import INTERPOLATIONS, Preprocess
from foveate.importers.positions import find_grid
from foveate.importers.recipe import IMAGENET, Layout, Recipe, Rgb
from foveate.importers.tensors import Tensors
from foveate.model.vit import Activation, Pool

__all__ = ["bare_recipe", "recipe"]

_HEADS = {
    64: 2, 96: 3, 192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14,
    1024: 16, 1152: 16, 1280: 16, 1408: 16, 1536: 16, 1664: 16,
}  # fmt: skip
_ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu-tanh",
    "quick_gelu": "quick-gelu",
}
_POOLS: dict[str, Pool] = {"token": "cls", "avg": "mean", "map": "map"}
_GELU_TANH = re.compile(
    r"base_patch32_siglip|large_patch16_siglip_(gap_)?512|so400m_patch16_siglip|giantopt"
)
_NAME = re.compile(r"[A-Za-z0-9_.]+")
_FAMILY = re.compile(r"(vit|deit|deit3|flexivit|test_vit|test_vit2)_")
_HIERARCHICAL = re.compile(r"swin|pit_|efficientformer|levit|pvt|mvit|hiera|coat|twins|maxvit")
# Tensors are called as in a ViT but do other things.
_OTHER = re.compile(r"_rpn_|_xp_|_rope|test_vit3|test_vit4|_radio_")
_ARGUMENTS = {
    "img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "class_token",
    "reg_tokens", "no_embed_class", "global_pool", "fc_norm", "qkv_bias", "qk_norm", "init_values",
    "pre_norm", "act_layer", "num_classes", "dynamic_img_size", "drop_path_rate", "drop_rate",
    "in_chans",
}  # fmt: skip


def recipe(config: Mapping[str, Any], tensors: Tensors) -> Recipe:
    """Of a checkpoint with a ``config.json`` of timm. Raises :class:`WeightsError`."""
    name = str(config["architecture"])
    if _HIERARCHICAL.search(name):
        raise WeightsError(
            f"{tensors.where}: architecture={name!r}: hierarchical models change the number and "
            "width of tokens between stages, which the engine cannot serve; "
            "docs/models.md lists supported models"
        )
    if not _NAME.fullmatch(name) or not _FAMILY.match(name) or _OTHER.search(name):
        raise WeightsError(
            f"{tensors.where}: architecture={name!r}: expected vit_*, deit*_* or flexivit_* with "
            "the blocks of the original ViT"
        )
    arguments = {**config.get("model_args", {})}
    if unknown := sorted(arguments.keys() - _ARGUMENTS):
        raise WeightsError(
            f"{tensors.where}: model_args: {unknown[0]}={arguments[unknown[0]]!r} is not "
            f"supported; expected {', '.join(sorted(_ARGUMENTS))}"
        )
    if "embed_dim" in arguments and "num_heads" not in arguments:  # timm keeps the architecture's
        raise WeightsError(
            f"{tensors.where}: model_args: embed_dim={arguments['embed_dim']!r} without num_heads; "
            "expected both"
        )
    given = {**config, **config.get("pretrained_cfg", {})}
    activation = arguments.get("act_layer", _activation(name))
    if activation not in _ACTIVATIONS:
        raise WeightsError(
            f"{tensors.where}: act_layer={activation!r}: expected {', '.join(_ACTIVATIONS)}"
        )
    pool = arguments.get("global_pool", config.get("global_pool") or _pool(tensors))
    if pool not in _POOLS:
        raise WeightsError(f"{tensors.where}: global_pool={pool!r}: expected {', '.join(_POOLS)}")
    size = _size(given, arguments.get("img_size"), tensors.where)
    mean, std = _normalisation(given)
    return Recipe(
        family=f"timm {name}",
        layout=Layout(),
        heads=arguments.get("num_heads") or _heads(name, tensors),
        eps=1e-5 if "_clip_" in name else 1e-6,
        activation=_ACTIVATIONS[activation],
        pool=_read(_POOLS[pool], tensors),
        size=size,
        unasked=bool(arguments.get("dynamic_img_size")),
        mean=mean,
        std=std,
        preprocess=_preprocess(given, size, tensors.where),
        labels=_labels(given),
    )


def bare_recipe(tensors: Tensors) -> Recipe:
    """Of a file without configuration, as DeiT and MAE publish them: ImageNet's normalisation, and
    the resize of DeiT's evaluation."""
    firsts = [name for name in ("cls_token", "dist_token", "reg_token") if name in tensors]
    prefix = sum(tensors.shape(name)[1] for name in firsts)
    (rows, _), _ = find_grid(tensors.shape("pos_embed")[1], prefix, None, tensors.where)
    edge = rows * tensors.shape("patch_embed.proj.weight")[2]
    resize = int(256 / 224 * edge)
    return Recipe(
        family="timm names, no configuration",
        layout=Layout(),
        heads=_heads("", tensors),
        eps=1e-6,
        pool=_read(_POOLS[_pool(tensors)], tensors),
        size=(edge, edge),
        mean=IMAGENET[0],
        std=IMAGENET[1],
        preprocess=Preprocess(resize=resize, interpolation="bicubic"),
        assumed=f"GELU, epsilon 1e-6, ImageNet's mean and std, bicubic resize to {resize}; "
        "a config.json of timm beside the file, or --config, says otherwise",
    )


def _activation(name: str) -> str:
    if "quickgelu" in name:
        return "quick_gelu"
    return "gelu_tanh" if _GELU_TANH.search(name) else "gelu"


def _pool(tensors: Tensors) -> str:
    if "attn_pool.kv.weight" in tensors:
        return "map"
    return "avg" if "fc_norm.weight" in tensors or "cls_token" not in tensors else "token"


def _read(pool: Pool, tensors: Tensors) -> Pool:
    return "cls+dist" if pool == "cls" and "head_dist.weight" in tensors else pool


def _heads(name: str, tensors: Tensors) -> int:
    dim = tensors.shape("patch_embed.proj.weight")[0]
    if "blocks.0.attn.q_norm.weight" in tensors:
        return dim // tensors.shape("blocks.0.attn.q_norm.weight")[0]
    if name.startswith("vit_base_patch16_gap_224"):
        return 16
    if dim not in _HEADS:
        raise WeightsError(
            f"{tensors.where}: embed_dim={dim}: unknown number of heads; "
            "set model_args.num_heads in config.json"
        )
    return _HEADS[dim]


def _size(given: Mapping[str, Any], argument: Any, where: str) -> tuple[int, int]:
    """The model's own size, if it was built for one; what the checkpoint was trained on else."""
    size = given.get("input_size") or (3, 224, 224)
    if argument is not None and given.get("fixed_input_size"):
        size = (3, argument, argument) if isinstance(argument, int) else (3, *argument)
    if len(size) != 3 or not all(isinstance(edge, int) and edge > 0 for edge in size):
        raise WeightsError(f"{where}: input_size={size!r}: expected channels, height and width")
    return size[1], size[2]


def _normalisation(given: Mapping[str, Any]) -> tuple[Rgb, Rgb]:
    r, g, b = map(float, given.get("mean") or IMAGENET[0])
    s, t, u = map(float, given.get("std") or IMAGENET[1])
    return (r, g, b), (s, t, u)


def _preprocess(given: Mapping[str, Any], size: tuple[int, int], where: str) -> Preprocess:
    """timm's evaluation: resize to size / crop_pct, then cut the centre."""
    share, mode = float(given.get("crop_pct") or 0.875), given.get("crop_mode") or "center"
    interpolation = given.get("interpolation") or "bicubic"
    if not share > 0:
        raise WeightsError(f"{where}: crop_pct={share}: expected more than 0")
    if interpolation not in INTERPOLATIONS:
        raise WeightsError(
            f"{where}: interpolation={interpolation!r}: expected {', '.join(INTERPOLATIONS)}"
        )
    height, width = (math.floor(edge / share) for edge in size)
    if mode == "squash":
        return Preprocess(resize=(height, width), interpolation=interpolation)
    if mode != "center" or height != width:
        raise WeightsError(
            f"{where}: crop_mode={mode!r} with input_size={list(size)}: expected 'center' with a "
            "square, or 'squash'"
        )
    return Preprocess(resize=height, interpolation=interpolation)


def _labels(given: Mapping[str, Any]) -> list[str] | None:
    names = given.get("label_names")
    if names is None:
        return None
    described = given.get("label_descriptions") or {}
    return [str(described.get(name, name)) for name in names]

"""The selectors of a model as one safetensors file next to its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveate.atomic_file import replacing
from foveate.errors import WeightsError
from foveate.model.vit import ViTConfig
from foveate.reduce.selector_network import Selector

__all__ = ["load_selectors", "save_selectors"]


def save_selectors(
    path: Path, selectors: Mapping[int, Selector], counts: Mapping[int, int] | None = None
) -> None:
    """Write weights (float32) and, as metadata, blocks and head sharing; atomically.

    ``counts``, the tokens each selector was trained to keep, are noted for the reader of the file;
    a level has counts of its own.
    """
    first = next(iter(selectors.values()))
    tensors = {
        f"{block}.{name}": tensor.detach().float().contiguous()
        for block, selector in selectors.items()
        for name, tensor in selector.state_dict().items()
    }
    metadata = {"blocks": ",".join(map(str, sorted(selectors))), "shared": str(first.shared)}
    if counts is not None:
        metadata["counts"] = json.dumps({str(block): n for block, n in counts.items()})
    with replacing(path) as scratch:
        save_file(tensors, scratch, metadata=metadata)


def load_selectors(path: Path, config: ViTConfig) -> dict[int, Selector]:
    """Read selectors by block, frozen and in evaluation mode.

    Raises :class:`WeightsError`, naming the file, if it is missing, damaged or of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot read selectors: {error}") from error
    try:
        blocks = [int(block) for block in metadata["blocks"].split(",")]
        shared = {"True": True, "False": False}[metadata["shared"]]
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: metadata: {error!r}; expected blocks, shared") from error
    selectors: dict[int, Selector] = {}
    for block in blocks:
        if not 0 <= block < config.depth:
            raise WeightsError(f"{path}: blocks: {block} is not in 0..{config.depth - 1}")
        with torch.device("meta"):
            selector = Selector(config, shared)
        own = {
            name.removeprefix(f"{block}."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{block}.")
        }
        try:
            selector.load_state_dict(own, assign=True)
        except RuntimeError as error:
            raise WeightsError(f"{path}: selector of block {block}: {error}") from error
        selectors[block] = selector.eval().requires_grad_(False)
    return selectors

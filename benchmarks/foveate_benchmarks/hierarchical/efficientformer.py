"""SNP (arXiv 2404.11630) on EfficientFormer-L1 (arXiv 2206.01191): neurons removed by their index.

Inside blocks only: hidden channels of the MLPs (1 x 1 convolutions in the first stages), pairs of a
query and a key neuron, and value neurons, as many from each head. The published models also narrow
the stream between blocks and were trained for 300 epochs afterwards; neither is done here.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from foveate.compress.criteria import distinctness, query_key_importance
from foveate_benchmarks.hierarchical.salience import strongest

__all__ = ["compress"]


@torch.inference_mode()
def compress(model: Any, images: Tensor, *, hidden: float, pairs: float, values: float) -> Any:
    """A copy of timm's EfficientFormer with these shares of its neurons, rounded to eights.

    Args:
        images: [B, 3, 224, 224], for the queries and keys that the criterion looks at.
        hidden: of the channels between the two layers of an MLP.
        pairs: of the query-key pairs of each head.
        values: of the value neurons of each head.
    """
    model = deepcopy(model)
    blocks = [block for stage in model.stages for block in stage.blocks if hasattr(block, "mlp")]
    mixers = [b.token_mixer for b in blocks if hasattr(b.token_mixer, "qkv")]
    outputs: list[Tensor] = []
    hooks = [m.qkv.register_forward_hook(lambda _, __, out: outputs.append(out)) for m in mixers]
    model(images)
    for hook in hooks:
        hook.remove()
    for mixer, qkv in zip(mixers, outputs, strict=True):
        _narrow_attention(mixer, qkv, pairs, values)
    for block in blocks:
        mlp = block.mlp
        kept = strongest(distinctness(mlp.fc1.weight.flatten(1)), _eights(mlp.fc1, hidden))
        _keep_outputs(mlp.fc1, kept)
        _keep_inputs(mlp.fc2, kept)
        if isinstance(mlp.fc1, nn.Conv2d):
            _keep_channels(mlp.norm1, kept)
    return model


def _narrow_attention(mixer: Any, qkv: Tensor, pairs: float, values: float) -> None:
    """Remove rows of the packed projection, as many from each head, and their columns behind it."""
    heads, d, v = mixer.num_heads, mixer.key_dim, mixer.val_dim
    q, k, _ = qkv.unflatten(-1, (heads, -1)).transpose(1, 2).split([d, d, v], -1)
    weight = mixer.qkv.weight.view(heads, 2 * d + v, -1)[:, 2 * d :]
    pair = strongest(query_key_importance(q, k), max(8, 8 * round(d * pairs / 8)))
    spared = distinctness(weight.flatten(0, 1)).view(heads, v)
    value = strongest(spared, max(8, 8 * round(v * values / 8)))
    start = (torch.arange(heads) * (2 * d + v)).unsqueeze(1)
    rows = torch.cat([start + pair, start + d + pair, start + 2 * d + value], 1)
    _keep_outputs(mixer.qkv, rows.flatten())
    _keep_inputs(mixer.proj, (torch.arange(heads).unsqueeze(1) * v + value).flatten())
    mixer.key_dim, mixer.val_dim = pair.shape[1], value.shape[1]
    mixer.key_attn_dim, mixer.val_attn_dim = heads * mixer.key_dim, heads * mixer.val_dim


def _eights(layer: Any, share: float) -> int:
    return max(8, 8 * round(len(layer.weight) * share / 8))


def _keep_outputs(layer: Any, kept: Tensor) -> None:
    _set(layer, {"weight": layer.weight[kept], "bias": layer.bias[kept]})


def _keep_inputs(layer: Any, kept: Tensor) -> None:
    _set(layer, {"weight": layer.weight[:, kept]})


def _keep_channels(norm: nn.BatchNorm2d, kept: Tensor) -> None:
    _set(norm, {"weight": norm.weight[kept], "bias": norm.bias[kept]})
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean, norm.running_var = norm.running_mean[kept], norm.running_var[kept]


def _set(layer: nn.Module, weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        setattr(layer, name, nn.Parameter(weight.contiguous(), requires_grad=False))

"""A plain Vision Transformer with timm's state-dict names.

This is the dense model: what training uses, what a checkpoint is loaded into, and what level 0
must equal. The packed pass that serves reduced levels is in ``engine.py`` and uses these weights.

A *slim* variant (``foveate.compress``) has the same names but blocks of other sizes; its file says
which in its metadata.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import WeightsError
from foveate.files import replacing

__all__ = [
    "Block",
    "BlockShape",
    "ViT",
    "ViTConfig",
    "attend",
    "load_vit",
    "pad_heads",
    "patchify",
    "save_vit",
]


@dataclass(frozen=True, kw_only=True)
class BlockShape:
    """Sizes of one block; ``qk_dim`` and ``v_dim`` are per head."""

    heads: int
    qk_dim: int
    v_dim: int
    mlp_dim: int

    @property
    def qkv_dim(self) -> int:
        """Outputs of the projection to queries, keys and values."""
        return self.heads * (2 * self.qk_dim + self.v_dim)

    def macs(self, dim: int, attended: int, fed: int) -> int:
        """Multiply-accumulates with ``attended`` tokens in the attention and ``fed`` in the MLP.

        As executed: :func:`pad_heads` pads the shorter of queries and values.
        """
        projections = attended * dim * (self.qkv_dim + self.heads * self.v_dim)
        mixing = 2 * attended**2 * self.heads * max(self.qk_dim, self.v_dim)
        return projections + mixing + 2 * fed * dim * self.mlp_dim


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Shape of a Vision Transformer; stored as safetensors metadata beside its weights.

    In a slim variant ``dim`` is what is left of the residual stream and ``blocks`` holds the sizes
    of every block; ``heads`` and ``mlp_dim`` then say what the dense model had.
    """

    height: int = 96
    width: int = 96
    patch: int = 8
    dim: int = 128
    depth: int = 6
    heads: int = 4
    mlp_dim: int = 512
    classes: int = 10
    eps: float = 1e-6
    mean: float = 0.5  # of pixels scaled to 0..1, all channels
    std: float = 0.5
    blocks: tuple[BlockShape, ...] = ()  # empty: all as ``heads`` and ``mlp_dim`` say

    @property
    def shapes(self) -> tuple[BlockShape, ...]:
        """Sizes of every block."""
        d = self.head_dim
        plain = BlockShape(heads=self.heads, qk_dim=d, v_dim=d, mlp_dim=self.mlp_dim)
        return self.blocks or (plain,) * self.depth

    @property
    def patches(self) -> int:
        """Patches per image; the sequence is one longer (CLS)."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Cut images into rows of raw pixels: [B, H, W, 3] -> [B, N, patch*patch*3], same dtype.

    Raster order of patches; inside a row: y, x, channel.
    """
    b, h, w, c = pixels.shape
    rows = pixels.reshape(b, h // patch, patch, w // patch, patch, c)
    return rows.permute(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


class PatchEmbed(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Conv2d(3, config.dim, config.patch, config.patch)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight [C, patch*patch*3] and bias [C] that act on raw 0..255 pixel rows.

        The normalisation (x/255 - mean)/std is linear, so it is folded into the projection.
        """
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        bias = self.proj.bias
        assert bias is not None
        shift = weight.sum(1) * (self.config.mean / self.config.std)
        return weight / (255.0 * self.config.std), bias - shift


def pad_heads(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zeros behind the shorter of q, k [..., d] and v [..., e]: they change no product.

    Our kernels demand d = e, and without it fused attention takes twice as long on a CPU. The scale
    of the logits remains that of d.
    """
    d, e = q.shape[-1], v.shape[-1]
    if d < e:
        q, k = F.pad(q, (0, e - d)), F.pad(k, (0, e - d))
    elif e < d:
        v = F.pad(v, (0, d - e))
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Softmax attention: q, k [..., n, d] and v [..., n, e] -> [..., n, e].

    ``bias`` is added to the logits; it broadcasts to [..., n, n].
    """
    padded = pad_heads(q, k, v)
    mixed = F.scaled_dot_product_attention(*padded, attn_mask=bias, scale=q.shape[-1] ** -0.5)
    return mixed[..., : v.shape[-1]]


class Attention(nn.Module):
    def __init__(self, dim: int, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        self.heads = shape.heads
        self.qkv = nn.Linear(dim, shape.qkv_dim)
        self.proj = nn.Linear(shape.heads * shape.v_dim, dim)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys [..., H, qk_dim] and values [..., H, v_dim] of rows [..., qkv_dim]."""
        h, d, e = self.heads, self.shape.qk_dim, self.shape.v_dim
        q, k, v = torch.split(qkv, [h * d, h * d, h * e], -1)
        rows = qkv.shape[:-1]
        return q.view(*rows, h, d), k.view(*rows, h, d), v.view(*rows, h, e)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.split(self.qkv(x)))
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, dim: int, shape: BlockShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, shape.mlp_dim)
        self.fc2 = nn.Linear(shape.mlp_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, config: ViTConfig, shape: BlockShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.eps)
        self.attn = Attention(config.dim, shape)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.eps)
        self.mlp = Mlp(config.dim, shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Pre-norm ViT with a CLS token and learned position embeddings."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.patches, config.dim))
        self.blocks = nn.ModuleList(Block(config, shape) for shape in config.shapes)
        self.norm = nn.LayerNorm(config.dim, eps=config.eps)
        self.head = nn.Linear(config.dim, config.classes)

    def embed(self, rows: Tensor, positions: Tensor | None = None) -> Tensor:
        """Tokens of the given patches, CLS first: [B, n, patch*patch*3] -> [B, 1+n, C].

        ``rows`` are raw pixels in 0..255 (float). ``positions`` [B, n] or [n] (int64) are the
        raster indices of the rows; without it all patches are present, in order.
        """
        weight, bias = self.patch_embed.folded()
        patch_pos = self.pos_embed[0, 1:]
        x = F.linear(rows, weight, bias)
        x = x + (patch_pos if positions is None else patch_pos[positions])
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        return torch.cat([cls, x], 1)

    def encode(self, x: Tensor) -> Tensor:
        """All blocks and the final norm: [B, n, C] -> [B, n, C]."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def classify(self, cls: Tensor) -> Tensor:
        """Logits [B, classes] of normalised CLS rows [B, C].

        Padded to four rows: below that BLAS takes kernels that round differently, and an answer
        would depend on how many images share its batch.
        """
        missing = max(0, 4 - cls.shape[0])
        return self.head(F.pad(cls, (0, 0, 0, missing)))[: cls.shape[0]]  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, classes] (float32) of images [B, H, W, 3] (uint8)."""
        rows = patchify(pixels, self.config.patch).float()
        return self.classify(self.encode(self.embed(rows))[:, 0])


def save_vit(model: ViT, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write weights (as ``dtype``) and, as metadata, the config to a safetensors file; at once."""
    tensors = {name: t.detach().to(dtype).contiguous() for name, t in model.state_dict().items()}
    metadata = {key: str(getattr(model.config, key)) for key in _kinds()}
    if model.config.blocks:
        metadata["blocks"] = json.dumps([asdict(shape) for shape in model.config.blocks])
    with replacing(path) as scratch:
        save_file(tensors, scratch, metadata=metadata)


def load_vit(path: Path, dtype: torch.dtype = torch.float32) -> ViT:
    """Read a model written by :func:`save_vit`, frozen and in evaluation mode.

    Raises :class:`WeightsError`, naming the file and the key, if it is missing, damaged or of
    another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot read weights: {error}") from error
    kinds = _kinds()
    try:
        sizes = {key: kind(metadata[key]) for key, kind in kinds.items()}
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: metadata: {error!r}; expected {', '.join(kinds)}") from error
    try:
        blocks = _parse_blocks(metadata.get("blocks", "[]"), sizes["depth"])
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{path}: metadata: blocks: {error}") from error
    with torch.device("meta"):
        model = ViT(ViTConfig(**sizes, blocks=blocks))
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: {error}") from error
    return model.eval().requires_grad_(False)


def _kinds() -> dict[str, Any]:
    """Types of the sizes that are one number."""
    config = ViTConfig()
    kinds = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    return {key: kind for key, kind in kinds.items() if kind is not tuple}


def _parse_blocks(text: str, depth: int) -> tuple[BlockShape, ...]:
    """Sizes of the blocks of a slim variant. Raises :class:`TypeError` or :class:`ValueError`."""
    shapes = tuple(BlockShape(**item) for item in json.loads(text))
    if shapes and len(shapes) != depth:
        raise ValueError(f"{len(shapes)} of them, expected depth={depth}")
    for index, shape in enumerate(shapes):
        for key, size in asdict(shape).items():
            if type(size) is not int or size < 1:
                raise ValueError(f"block {index}: {key}={size!r}, expected an integer from 1 up")
    return shapes

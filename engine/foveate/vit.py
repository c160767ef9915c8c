"""A plain Vision Transformer with timm's state-dict names.

This is the dense model: what training uses, what a checkpoint is loaded into, and what level 0
must equal. The packed pass that serves reduced levels is in ``engine.py`` and uses these weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.errors import WeightsError

__all__ = ["Block", "ViT", "ViTConfig", "load_vit", "patchify", "save_vit"]


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Shape of a Vision Transformer; stored as safetensors metadata beside its weights."""

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


class Attention(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.proj = nn.Linear(config.dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, c))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.dim, config.mlp_dim)
        self.fc2 = nn.Linear(config.mlp_dim, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim, eps=config.eps)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.dim, eps=config.eps)
        self.mlp = Mlp(config)

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
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
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
    """Write weights (as ``dtype``) and the config (as metadata) to a safetensors file."""
    tensors = {name: t.detach().to(dtype).contiguous() for name, t in model.state_dict().items()}
    metadata = {key: str(value) for key, value in asdict(model.config).items()}
    save_file(tensors, path, metadata=metadata)


def load_vit(path: Path, dtype: torch.dtype = torch.float32) -> ViT:
    """Read a model written by :func:`save_vit`, frozen and in evaluation mode.

    Raises :class:`WeightsError`, naming the file, if it is missing, damaged or of another shape.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).to(dtype) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot read weights: {error}") from error
    kinds = {key: type(value) for key, value in asdict(ViTConfig()).items()}
    try:
        config = ViTConfig(**{key: kind(metadata[key]) for key, kind in kinds.items()})
    except (KeyError, ValueError) as error:
        raise WeightsError(f"{path}: metadata: {error!r}; expected {', '.join(kinds)}") from error
    with torch.device("meta"):
        model = ViT(config)
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"{path}: {error}") from error
    return model.eval().requires_grad_(False)

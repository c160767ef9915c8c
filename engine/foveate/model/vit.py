"""A Vision Transformer with timm's state-dict names.

``foveate.importers`` converts other checkpoints to this form; the few differences that remain are
fields of :class:`ViTConfig`. This is the dense model: training uses it, checkpoints are loaded into
it, and level 0 must equal it. The pass that serves reduced levels uses its weights and is in
``foveate.inference.fixed``.

A *slim* variant (``foveate.compress``) has the same names but blocks of other sizes; its file says
which in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.atomic_file import replacing
from foveate.errors import WeightsError
from foveate.model.pooling import AttentionPool, mean_of_rows

__all__ = [
    "Activation",
    "Block",
    "BlockShape",
    "Pool",
    "ViT",
    "ViTConfig",
    "attend",
    "describe",
    "load_vit",
    "pad_heads",
    "patchify",
    "save_vit",
]


Pool = Literal["cls", "cls+dist", "cls+mean", "mean", "map"]
"""What the head reads: CLS; CLS and the distillation token; CLS and the mean of the patches; that
mean alone; what an attention with one learned query makes of the patches (SigLIP)."""

Activation = Literal["gelu", "gelu-tanh", "quick-gelu"]


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
    """Shape of a Vision Transformer; stored as safetensors metadata with its weights.

    In a slim variant, ``dim`` is the remaining width of the residual stream and ``blocks`` holds
    the sizes of every block; ``heads`` and ``mlp_dim`` are then those of the dense model.
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
    prefix: int = 1  # tokens before the patches, which always stay: CLS, distillation, registers
    pool: Pool = "cls"
    norm_last: bool = False  # the final norm comes after the pooling, not before
    norm_first: bool = False  # a norm before the first block (CLIP)
    qk_norm: bool = False  # LayerNorm of queries and keys, by head
    activation: Activation = "gelu"
    embedding: int = 0  # width of a projection before the head (CLIP); 0: there is none
    unit: bool = False  # the head reads vectors of unit length, as zero-shot heads do
    sigmoid: bool = False  # scores are sigmoids of the logits, each class for itself (SigLIP)
    blocks: tuple[BlockShape, ...] = ()  # empty: all as ``heads`` and ``mlp_dim`` say

    @property
    def shapes(self) -> tuple[BlockShape, ...]:
        """Sizes of every block."""
        d = self.head_dim
        plain = BlockShape(heads=self.heads, qk_dim=d, v_dim=d, mlp_dim=self.mlp_dim)
        return self.blocks or (plain,) * self.depth

    @property
    def patches(self) -> int:
        """Patches per image."""
        return (self.height // self.patch) * (self.width // self.patch)

    @property
    def tokens(self) -> int:
        """Rows of an image that nothing was removed from."""
        return self.prefix + self.patches

    @property
    def reads_cls(self) -> bool:
        """Whether the head reads a CLS token, whose attention then says what matters."""
        return self.pool.startswith("cls")

    def require_plain(self, command: str) -> None:
        """Raise :class:`WeightsError` naming the first choice that is not the original ViT's, which
        is all that ``command`` knows."""
        plain = ViTConfig()
        for key in _CHOICES:
            if (own := getattr(self, key)) != (expected := getattr(plain, key)):
                raise WeightsError(
                    f"{command}: the model has {key}={own!r}; {command} supports only {expected!r}"
                )

    @property
    def pooled_dim(self) -> int:
        """Numbers that pooling gives."""
        return self.dim * (2 if "+" in self.pool else 1)

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

    Without them PyTorch's fused attention takes twice as long on a CPU. The scale of the logits
    remains that of d.
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
    def __init__(self, config: ViTConfig, shape: BlockShape) -> None:
        super().__init__()
        self.shape = shape
        self.heads = shape.heads
        self.qkv = nn.Linear(config.dim, shape.qkv_dim)
        self.proj = nn.Linear(shape.heads * shape.v_dim, config.dim)
        self.normed = config.qk_norm
        if config.qk_norm:
            self.q_norm = nn.LayerNorm(shape.qk_dim, eps=config.eps)
            self.k_norm = nn.LayerNorm(shape.qk_dim, eps=config.eps)

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys [..., H, qk_dim] and values [..., H, v_dim] of rows [..., qkv_dim]."""
        h, d, e = self.heads, self.shape.qk_dim, self.shape.v_dim
        q, k, v = torch.split(qkv, [h * d, h * d, h * e], -1)
        rows = qkv.shape[:-1]
        q, k, v = q.view(*rows, h, d), k.view(*rows, h, d), v.view(*rows, h, e)
        return (self.q_norm(q), self.k_norm(k), v) if self.normed else (q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.split(self.qkv(x)))
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, dim: int, mlp_dim: int, activation: Activation) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, mlp_dim)
        self.fc2 = nn.Linear(mlp_dim, dim)
        self.act = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))  # type: ignore[no-any-return]


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


_ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu-tanh": _gelu_tanh,
    "quick-gelu": _quick_gelu,
}


class Block(nn.Module):
    def __init__(self, config: ViTConfig, shape: BlockShape) -> None:
        super().__init__()
        self.norm1 = _norm(config)
        self.attn = Attention(config, shape)
        self.norm2 = _norm(config)
        self.mlp = Mlp(config.dim, shape.mlp_dim, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Pre-norm ViT with learned position embeddings.

    ``cls_token`` [1, prefix, C] holds all tokens that come before the patches; ``pos_embed``
    [1, prefix + N, C] has a position for each of them too, zero where the original has none.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, config.prefix, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.tokens, config.dim))
        self.norm_pre = _norm(config) if config.norm_first else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, shape) for shape in config.shapes)
        self.norm = _norm(config)
        if config.pool == "map":
            self.attn_pool = AttentionPool(config.dim, config.heads)
            self.pool_norm = _norm(config)
            self.pool_mlp = Mlp(config.dim, config.mlp_dim, config.activation)
        if config.embedding:
            self.project = nn.Linear(config.pooled_dim, config.embedding, bias=False)
        self.head = nn.Linear(config.embedding or config.pooled_dim, config.classes)

    @property
    def patch_positions(self) -> Tensor:
        """Position embeddings of the patches: [N, C]."""
        return self.pos_embed[0, self.config.prefix :]

    @property
    def first_tokens(self) -> Tensor:
        """The tokens before the patches, position included: [1, prefix, C]."""
        return self.cls_token + self.pos_embed[:, : self.config.prefix]

    def embed(self, rows: Tensor, positions: Tensor | None = None) -> Tensor:
        """Tokens of the given patches behind the first ones: [B, n, D] -> [B, prefix + n, C].

        ``rows`` are raw pixels in 0..255 (float), D = patch*patch*3. ``positions`` [B, n] or [n]
        (int64) are the raster indices of the rows; without it all patches are present, in order.
        """
        weight, bias = self.patch_embed.folded()
        x = F.linear(rows, weight, bias)
        x = x + (self.patch_positions if positions is None else self.patch_positions[positions])
        first = self.first_tokens.expand(x.shape[0], -1, -1)
        return self.norm_pre(torch.cat([first, x], 1))  # type: ignore[no-any-return]

    def run(self, x: Tensor) -> Tensor:
        """All blocks: [B, n, C] -> [B, n, C]."""
        for block in self.blocks:
            x = block(x)
        return x

    def encode(self, x: Tensor) -> Tensor:
        """All blocks and the final norm: [B, n, C] -> [B, n, C]."""
        return self.norm(self.run(x))  # type: ignore[no-any-return]

    def pool(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """What the head reads of rows after the last block: [B, n, C] -> [B, pooled_dim].

        ``sizes`` [B, n] are the patches that rows stand for, and what they weigh in a mean;
        None: all the same.
        """
        config = self.config
        if config.pool in ("cls", "cls+dist"):
            read = 1 if config.pool == "cls" else 2
            return self.norm(x[:, :read]).flatten(1)  # type: ignore[no-any-return]
        x = x if config.norm_last else self.norm(x)
        patches = x[:, config.prefix :]
        sizes = None if sizes is None else sizes[:, config.prefix :]
        if config.pool == "map":
            return self.attn_pool(patches, sizes)  # type: ignore[no-any-return]
        mean = mean_of_rows(patches, sizes)
        if config.norm_last:
            mean = self.norm(mean)
        return torch.cat([x[:, 0], mean], 1) if config.pool == "cls+mean" else mean

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits [B, classes] of what :meth:`pool` gives, [B, pooled_dim]."""
        x = pooled
        if self.config.pool == "map":
            x = self.attn_pool.proj(x)
            x = x + self.pool_mlp(self.pool_norm(x))
        if self.config.embedding:
            x = self.project(x)
        if self.config.unit:
            x = F.normalize(x, dim=1)
        return self.head(x)  # type: ignore[no-any-return]

    def scores(self, logits: Tensor) -> Tensor:
        """What is answered, float32 in 0..1: probabilities that sum to 1, or one for each class."""
        logits = logits.float()
        return logits.sigmoid() if self.config.sigmoid else logits.softmax(-1)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits [B, classes], in the dtype of the weights, of images [B, H, W, 3] (uint8)."""
        rows = patchify(pixels, self.config.patch).to(self.pos_embed.dtype)
        return self.classify(self.pool(self.run(self.embed(rows))))


def _norm(config: ViTConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.dim, eps=config.eps)


def save_vit(model: ViT, path: Path, dtype: torch.dtype = torch.float16) -> None:
    """Write weights (as ``dtype``) and, as metadata, the config to a safetensors file; at once."""
    tensors = {name: t.detach().to(dtype).contiguous() for name, t in model.state_dict().items()}
    with replacing(path) as scratch:
        save_file(tensors, scratch, metadata=describe(model.config))


def describe(config: ViTConfig) -> dict[str, str]:
    """The config as metadata of a safetensors file."""
    metadata = {key: str(getattr(config, key)) for key in _kinds()}
    if config.blocks:
        metadata["blocks"] = json.dumps([asdict(shape) for shape in config.blocks])
    return metadata


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
        sizes = {key: _parse(key, metadata, kind) for key, kind in kinds.items()}
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


# Fields that older files do not have.
_CHOICES = (
    "prefix",
    "pool",
    "norm_last",
    "norm_first",
    "qk_norm",
    "activation",
    "embedding",
    "unit",
    "sigmoid",
)
_WORDS = {"pool": get_args(Pool), "activation": get_args(Activation)}


def _kinds() -> dict[str, type]:
    """Types of the fields that are one number or word."""
    config = ViTConfig()
    kinds = {field.name: type(getattr(config, field.name)) for field in fields(config)}
    return {key: kind for key, kind in kinds.items() if kind is not tuple}


def _parse(key: str, metadata: Mapping[str, str], kind: type) -> Any:
    """A field of the config. Raises :class:`KeyError` or :class:`ValueError`."""
    if key in _CHOICES and key not in metadata:
        return getattr(ViTConfig(), key)
    text = metadata[key]
    known = ("False", "True") if kind is bool else _WORDS.get(key, (text,))
    if text not in known:
        raise ValueError(f"{key}={text!r}: expected {' or '.join(known)}")
    return text == "True" if kind is bool else kind(text)


def _parse_blocks(text: str, depth: int) -> tuple[BlockShape, ...]:
    """Sizes of the blocks of a slim variant. Raises :class:`TypeError` or :class:`ValueError`."""
    shapes = tuple(BlockShape(**item) for item in json.loads(text))
    if shapes and len(shapes) != depth:
        raise ValueError(f"{len(shapes)} blocks, expected depth={depth}")
    for index, shape in enumerate(shapes):
        for key, size in asdict(shape).items():
            if type(size) is not int or size < 1:
                raise ValueError(f"block {index}: {key}={size!r}, expected a positive integer")
    return shapes

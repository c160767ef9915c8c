"""Who else runs a model: timm, PyTorch's packed FlashAttention, and ToMe by our operators."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from foveate.forward import Forward, Routes
from foveate.schedule import Schedule
from foveate.vit import Block, ViT, ViTConfig
from foveate_kernels.ops import bipartite_match, cls_importance, merge_groups, varlen_attention

__all__ = ["Dense", "FlashForward", "ToMe", "maker", "normalised", "tome_macs"]


def normalised(pixels: Tensor, vit: ViT) -> Tensor:
    """Images as other implementations take them: [B, 3, H, W] in the dtype of the weights."""
    scaled = (pixels.float() / 255 - vit.config.mean) / vit.config.std
    return scaled.permute(0, 3, 1, 2).contiguous().to(vit.cls_token.dtype)


def maker() -> str:
    """Whose dense model :class:`Dense` is."""
    try:
        import timm.models.vision_transformer
    except ImportError as error:
        return f"foveate.vit in plain PyTorch ({error})"
    return f"timm {timm.__version__}"


class Dense(nn.Module):
    """The dense model with the same weights: timm's where it is installed, else of our modules."""

    @torch.inference_mode(False)
    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.model: nn.Module = _Plain(vit)
        if not maker().startswith("timm"):
            return
        from timm.models.vision_transformer import VisionTransformer

        c = vit.config
        model = VisionTransformer(
            img_size=(c.height, c.width),
            patch_size=c.patch,
            embed_dim=c.dim,
            depth=c.depth,
            num_heads=c.heads,
            mlp_ratio=c.mlp_dim / c.dim,
            num_classes=c.classes,
        )
        model.load_state_dict(vit.state_dict())
        self.model = model.eval().requires_grad_(False).to(vit.cls_token)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities [B, classes] float32."""
        logits: Tensor = self.model(images)
        return logits.float().softmax(-1)


class _Plain(nn.Module):
    def __init__(self, vit: ViT) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        vit = self.vit
        x = vit.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([vit.cls_token.expand(len(x), -1, -1), x], 1) + vit.pos_embed
        logits: Tensor = vit.head(vit.encode(x)[:, 0])
        return logits


class FlashForward(Forward):
    """Our pass with PyTorch's packed attention, FlashAttention-2; CUDA only."""

    def _attention(
        self, qkv: Tensor, cu_seqlens: Tensor, n: int, scored: bool
    ) -> tuple[Tensor, Tensor | None]:
        from torch.nn.attention.varlen import varlen_attn

        q, k, v = qkv.unbind(1)
        scores = cls_importance(q, k, v, cu_seqlens, n, value_norm=True) if scored else None
        mixed = cast(Tensor, varlen_attn(q, k, v, cu_seqlens, cu_seqlens, n, n))
        return mixed.flatten(1), scores


class ToMe(Forward):
    """Token Merging (arXiv 2210.09461): every block merges ``removed`` pairs, by our operators."""

    def __init__(self, vit: ViT, batch: int, routes: Routes, removed: int) -> None:
        super().__init__(Schedule(), vit, None, batch, routes)
        self._removed = removed

    def __call__(self, pixels: Tensor, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        config, vit = self.vit.config, self.vit
        present = torch.minimum(self._ordinals, images)
        x, _, _ = self._embed(pixels, present)
        n = len(x) // self.batch
        cu_seqlens = present * n
        sizes = torch.ones(len(x), device=x.device)
        blocks = list(cast(Iterable[Block], vit.blocks))
        h = self._norm(x, None, blocks[0].norm1)[1]
        for index, block in enumerate(blocks):
            q, k, v = block.attn.qkv(h).view(-1, 3, config.heads, config.head_dim).unbind(1)
            mixed = varlen_attention(q, k, v, cu_seqlens, n, key_bias=sizes.log()).out
            x = x + block.attn.proj(mixed.flatten(1))
            plan = bipartite_match(k.mean(1), cu_seqlens, n, r=removable(n, self._removed))
            left = n - removable(n, self._removed)
            capacity = self.batch * left
            x, cu_seqlens, sizes = merge_groups(
                x, plan, cu_seqlens, n, capacity=capacity, sizes=sizes
            )
            n = left
            h = block.mlp.fc2(self._gelu(self._norm(x, None, block.norm2)[1], block))
            after = blocks[index + 1].norm1 if index + 1 < config.depth else vit.norm
            x, h = self._norm(x, h, after)
        h = h[cu_seqlens[:-1].long().clamp(max=len(h) - 1)]
        return vit.head(h).float().softmax(-1), []


def removable(n: int, wanted: int) -> int:
    """Rows that one merge can remove of ``n``, CLS staying."""
    return min(wanted, (n - 1) // 2)


def tome_macs(config: ViTConfig, removed: int) -> int:
    """As :meth:`Schedule.macs` counts; similarities are small and not counted."""
    n, c = config.patches + 1, config.dim
    total = (n - 1) * config.patch**2 * 3 * c + c * config.classes
    for _ in range(config.depth):
        total += 4 * n * c * c + 2 * n * n * c
        n -= removable(n, removed)
        total += 2 * n * c * config.mlp_dim
    return total

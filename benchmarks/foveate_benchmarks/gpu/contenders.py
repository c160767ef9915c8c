"""Who else runs a model: timm, and our pass with PyTorch's packed FlashAttention."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from foveate.inference.fixed import Forward
from foveate.model.vit import ViT
from foveate.reduce.merge import Merge
from foveate.reduce.prune import Prune
from foveate.reduce.rows import Rows

__all__ = ["Dense", "FlashForward", "maker", "normalised"]


def normalised(pixels: Tensor, vit: ViT) -> Tensor:
    """Images as other implementations take them: [B, 3, H, W] in the dtype of the weights."""
    scaled = (pixels.float() / 255 - vit.config.mean) / vit.config.std
    return scaled.permute(0, 3, 1, 2).contiguous().to(vit.cls_token.dtype)


def maker() -> str:
    """Whose dense model :class:`Dense` is."""
    try:
        import timm.models.vision_transformer
    except ImportError as error:
        return f"foveate.model.vit in plain PyTorch ({error})"
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
    """Our pass with PyTorch's packed attention, FlashAttention-2; CUDA only, and without sizes."""

    def _attention(
        self, q: Tensor, k: Tensor, v: Tensor, rows: Rows, reducer: Prune | Merge | None
    ) -> tuple[Tensor, Tensor | None]:
        from torch.nn.attention.varlen import varlen_attn

        ends, n = rows.cu_seqlens, rows.n
        return cast(Tensor, varlen_attn(q, k, v, ends, ends, n, n)).flatten(1), None

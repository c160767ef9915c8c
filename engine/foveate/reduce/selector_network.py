"""The multi-head token selector: how likely each patch token is worth keeping."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.model.vit import ViTConfig

__all__ = ["Selector"]


class Selector(nn.Module):
    """SPViT's multi-head token selector with its attention branch (arXiv 2112.13890, §3.2).

    Each head i of H reads its own slice of d = C/H channels and gives a keep and a prune logit,
    from what the token says (local) and what all say (global mean). The attention branch weighs the
    heads, for each token, by a squeeze-and-excitation of the slices' means: a in (0, 1). The score
    is the a-weighted mean over heads of log-softmax(logits).

    ``shared`` uses one set of weights for all heads, as the authors' release does; otherwise each
    head has its own, as HeatViT (arXiv 2211.08110) describes. For C = 128, H = 4: 1,824 and 7,230
    parameters.

    Deviations: only the log-odds keep minus prune are returned, which is all that a two-way
    Gumbel-softmax and a ranking depend on; the package token weighs tokens with their sigmoid,
    where the release averages the heads' probabilities instead of their logarithms.
    """

    def __init__(self, config: ViTConfig, shared: bool = True) -> None:
        super().__init__()
        self.heads, self.shared = config.heads, shared
        count = 1 if shared else config.heads
        self.scorers = nn.ModuleList(_HeadScorer(config.head_dim) for _ in range(count))
        self.excite = _HeadWeights(config.heads)

    def forward(self, x: Tensor, packages: int = 0, alive: Tensor | None = None) -> Tensor:
        """Log-odds [B, n] (float32) that a token is to be kept; no randomness, in any mode.

        Args:
            x: [B, n, C] patch tokens of the residual stream after a block's attention, without CLS.
            packages: how many of the last tokens are packages. They count in the global mean and
                must stay: their log-odds are infinite.
            alive: [B, n] in 0..1, tokens that the global mean counts; all, if not given. Gradients
                pass through it to earlier decisions.
        """
        split = x.reshape(*x.shape[:2], self.heads, -1)  # [B, n, H, d]
        slices = split.transpose(1, 2)  # [B, H, n, d]
        if self.shared:
            logits = self.scorers[0](slices, None if alive is None else alive[:, None])
        else:
            parts = [scorer(slices[:, i], alive) for i, scorer in enumerate(self.scorers)]
            logits = torch.stack(parts, 1)
        weight = self.excite(split.mean(3)).transpose(1, 2)  # [B, H, n]
        # log-softmax(keep) - log-softmax(prune) is the difference of the logits.
        margin: Tensor = logits[..., 0] - logits[..., 1]
        log_odds: Tensor = ((weight * margin).sum(1) / weight.sum(1)).float()
        if packages:
            certain = torch.full_like(log_odds[:, -packages:], torch.inf)
            log_odds = torch.cat([log_odds[:, :-packages], certain], 1)
        return log_odds

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one token: of all products of matrices."""
        return _weights(self.scorers) * (self.heads if self.shared else 1) + _weights(self.excite)

    @torch.no_grad()
    def shift(self, amount: float) -> None:
        """Add ``amount`` to the log-odds of every token."""
        for scorer in self.scorers:
            scorer.bias[0] += amount  # type: ignore[operator, index]


def _weights(module: nn.Module) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


class _HeadWeights(nn.Module):
    """Squeeze and excitation over heads: how much each counts for a token."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(heads, max(1, heads // 2))
        self.excite = nn.Linear(max(1, heads // 2), heads)

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H] in (0, 1)."""
        return torch.sigmoid(self.excite(F.gelu(self.squeeze(x))))


class _HeadScorer(nn.Module):
    """Keep and prune logits of one head's slice: local and global features through an MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.score = nn.Sequential(
            nn.Linear(dim, dim // 2),
            nn.GELU(),
            nn.Linear(dim // 2, dim // 4),
            nn.GELU(),
            nn.Linear(dim // 4, 2),
        )

    @property
    def bias(self) -> Tensor:
        """Of the two logits."""
        return self.score[-1].bias  # type: ignore[return-value]

    def forward(self, x: Tensor, alive: Tensor | None) -> Tensor:
        """[..., n, d] and [..., n] -> [..., n, 2]."""
        local, shared = self.embed(x).chunk(2, -1)
        if alive is None:
            mean = shared.mean(-2, keepdim=True)
        else:
            mask = alive.unsqueeze(-1)
            mean = (shared * mask).sum(-2, keepdim=True) / mask.sum(-2, keepdim=True).clamp(min=1)
        return self.score(torch.cat([local, mean.expand_as(local)], -1))  # type: ignore[no-any-return]

"""SNP's two criteria (arXiv 2404.11630, §3): which neurons can best be spared."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["distinctness", "query_key_importance"]


def query_key_importance(q: Tensor, k: Tensor) -> Tensor:
    """How much of the attention each pair carries: q, k [B, H, N, d] -> [H, d], mean over images.

    ``sum_j |cos(s_j u_j v_j^T, q_i k_i^T)|`` over the singular triplets of ``Q K^T``, in closed
    form: the cosine is ``(u_j^T q_i)(k_i^T v_j) / (|q_i| |k_i|)``.
    """
    u, _, vh = torch.linalg.svd(q @ k.mT, full_matrices=False)
    rank = min(q.shape[-2:])  # triplets beyond it are noise
    along = (u.mT @ q)[..., :rank, :] * (vh @ k)[..., :rank, :]
    norms = torch.linalg.vector_norm(q, dim=-2) * torch.linalg.vector_norm(k, dim=-2)
    return (along.abs().sum(-2) / norms.clamp(min=1e-12)).mean(0)


def distinctness(rows: Tensor) -> Tensor:
    """How unlike the others each weight row is: ``sum_l (1 - |cos(W_i, W_l)|)``, [n, c] -> [n].

    Of values (rows of all heads together) and of hidden units; the lowest go first.
    """
    unit = normalize(rows, dim=1)
    return (1 - (unit @ unit.T).abs()).sum(1)

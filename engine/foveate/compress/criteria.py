"""Which neurons matter: scores of SNP, and the order in which least squares can spare them.

SNP, Structured Neuron-level Pruning, is arXiv 2404.11630 (§3 there; its ranking service is closed,
this is written from the formulas). The order of elimination is that of the optimal brain surgeon
(Hassibi & Stork 1993) for a linear layer, as CORP (arXiv 2602.05243) compensates it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

__all__ = ["distinctness", "elimination_order", "query_key_importance"]


def query_key_importance(q: Tensor, k: Tensor) -> Tensor:
    """SNP's importance of each query-key neuron: q, k [B, H, n, d] -> [H, d], mean over images.

    The logits of a head are a sum of rank-one parts, Q K' = Σ_i q_i k_i' by neurons and
    Σ_j σ_j u_j v_j' by singular vectors; ω_i = Σ_j |cos(σ_j u_j v_j', q_i k_i')|. Here without any
    n x n product: with Q = A R and K = B S (QR), R S' = U Σ V' gives u_j = A U_j, v_j = B V_j, and
    the cosine is (U_j' R_i) (S_i' V_j) / (|q_i| |k_i|). A neuron that is zero has importance 0.
    """
    r = torch.linalg.qr(q, mode="r").R
    s = torch.linalg.qr(k, mode="r").R
    u, sigma, vh = torch.linalg.svd(r @ s.mT)
    present = sigma > sigma[..., :1] * q.shape[-1] * torch.finfo(q.dtype).eps  # j up to the rank
    size = q.norm(dim=-2) * k.norm(dim=-2)
    products = ((u.mT @ r) * (vh @ s)).abs() * present[..., None]
    scores: Tensor = products.sum(-2) / size.clamp(min=torch.finfo(q.dtype).tiny)
    return scores.mean(0)


def distinctness(rows: Tensor) -> Tensor:
    """How little each weight row resembles the others: Σ_l (1 - |cos(W_i, W_l)|), [n, c] -> [n].

    SNP's score of values (rows of all heads: Σ over heads j and their neurons l) and of hidden
    units; the least distinct go first.
    """
    unit: Tensor = normalize(rows, dim=1)
    return (1 - (unit @ unit.T).abs()).sum(1)


def elimination_order(grams: Tensor, readers: Tensor, *, lanes: int = 1, size: int = 1) -> Tensor:
    """The order in which features can be spared, what to keep longest first.

    One group of features goes at a time, the one whose loss is least after the others have taken
    over in least squares: tr(W_g ([G^-1]_gg)^-1 W_g'), after which W and G^-1 are those of the
    features that are left. With several ``lanes`` each loses a group in turn, so that any number
    can be kept, the same in every lane.

    Args:
        grams: [L, N, N] second moments of the features in each of L layers, positive definite.
        readers: [L, O, N] weights of the layers that read them; losses are summed over layers.
        lanes: equal ranges of consecutive features, such as the heads of an attention.
        size: consecutive features that go together.

    Returns:
        [lanes, N / size / lanes] int64, groups counted within their lane.
    """
    layers, outputs, features = readers.shape
    groups = features // size
    inverse, readers = torch.linalg.inv(grams), readers.clone()
    alive = torch.ones(lanes, groups // lanes, dtype=torch.bool, device=grams.device)
    gone = torch.empty(groups // lanes, lanes, dtype=torch.int64)
    identity = torch.eye(size, dtype=grams.dtype, device=grams.device)
    for step in range(groups):
        lane = step % lanes
        own = inverse.view(layers, groups, size, groups, size).diagonal(dim1=1, dim2=3)
        pivots = torch.linalg.inv(own.permute(0, 3, 1, 2))  # [L, groups, size, size]
        grouped = readers.view(layers, outputs, groups, size)
        loss = ((grouped.transpose(1, 2) @ pivots) * grouped.transpose(1, 2)).sum((0, 2, 3))
        mask = torch.zeros_like(alive)
        mask[lane] = alive[lane]
        group = int(loss.masked_fill(~mask.flatten(), torch.inf).argmin())
        rows = slice(group * size, (group + 1) * size)
        gain = inverse[:, :, rows] @ pivots[:, group]  # [L, N, size]
        readers -= readers[:, :, rows] @ gain.mT
        readers[:, :, rows] = 0
        inverse -= gain @ inverse[:, rows]
        inverse[:, rows], inverse[:, :, rows] = 0, 0
        inverse[:, rows, rows] = identity
        alive[lane, group % alive.shape[1]] = False
        gone[step // lanes, lane] = group % alive.shape[1]
    return gone.flip(0).T

"""Which tokens merge, by PiToMe (arXiv 2405.16148): those of high energy, so the rare are safe.

With c the cosine of keys averaged over heads and m = 0.9 (1 - l/L) a margin that shrinks with depth
(§3.2), a token has the energy

    E_i = mean over j of f(c_ij),   f(c) = c where c >= m, else exp(c - m) - 1.

High energy: many are like it. The 2 ``remove`` tokens of highest energy are dealt out in that order
to two sets, and each of the first merges into its most similar of the second. Tokens that
always stay take no part.

Deviations: a fixed count where the paper has a ratio, every block alike where its DeiT code begins
with ToMe's matching, and proportional attention, which that code leaves out. The order of rows is
kept.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.reduce.rows import Rows
from foveate_kernels.packed import Plan

__all__ = ["energy", "pitome"]


def energy(cosine: Tensor, margin: float) -> Tensor:
    """Mean of f over the last dimension of [..., n, n]: [..., n]."""
    return torch.where(cosine >= margin, cosine, (cosine - margin).exp() - 1).mean(-1)


def pitome(rows: Rows, k: Tensor, remove: int, *, margin: float) -> Plan:
    """Where each row goes; ``k`` are the keys, [T, H, d]."""
    wide = torch.promote_types(k.dtype, torch.float32)
    keys = F.normalize(k.to(wide).mean(1), dim=1).view(-1, rows.n, k.shape[2])
    keys = keys[:, rows.prefix :]
    cosine = keys @ keys.transpose(1, 2)
    order = energy(cosine, margin).argsort(dim=1, descending=True, stable=True)
    first, second = order[:, 0 : 2 * remove : 2], order[:, 1 : 2 * remove : 2]
    similarity = cosine.gather(1, first.unsqueeze(2).expand(-1, -1, rows.n - rows.prefix))
    similarity = similarity.gather(2, second.unsqueeze(1).expand(-1, remove, -1))
    mate = second.gather(1, similarity.max(2).indices)

    first, mate = first + rows.prefix, mate + rows.prefix
    merged = torch.zeros_like(keys[:, :1, 0], dtype=torch.int64).expand(-1, rows.n)
    place = (1 - merged.scatter(1, first, 1)).cumsum(1) - 1
    dest = place.scatter(1, first, place.gather(1, mate))
    lengths = rows.cu_seqlens.diff().clamp(max=rows.n - remove)
    return Plan(
        dest=dest.view(-1).to(torch.int32),
        lengths=lengths,
        packaged=torch.zeros_like(lengths),
        weight=None,
    )

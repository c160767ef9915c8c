"""Closed-form compensation: the remaining weights take over the work of the removed ones.

CORP (arXiv 2602.05243): units that were removed are predicted from those that are left by ridge
regression on a few unlabelled images, and the prediction is folded into the next weights. Only the
abstract was available; the equations here are the standard ones. All sums are in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RIDGE", "logit_mixing", "moments", "refit"]

RIDGE = 1e-3  # of the mean variance of the inputs


def moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean [c], centred second moments with the ridge [c, c], and centred rows [T, c].

    Args:
        x: [T, c] inputs.
        weight: [T] of each row, summing to 1.
    """
    mean = weight @ x
    centred = (x - mean) * weight.sqrt()[:, None]
    gram = (centred.T @ centred).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=torch.finfo(x.dtype).tiny))
    return mean, gram, centred


def refit(linear: nn.Linear, x: Tensor, target: Tensor, weight: Tensor) -> None:
    """Move ``linear`` to the least-squares map from inputs to targets, in place.

    The ridge draws towards the weights it has, so that a layer with nothing to make up for stays
    as it is; the bias is free.

    Args:
        linear: c -> o.
        x: [T, c] inputs it will get.
        target: [T, o] outputs it should give.
        weight: [T] of each row, summing to 1.
    """
    error = target - linear(x)
    mean, gram, centred = moments(x, weight)
    mean_error = weight @ error
    rest = (error - mean_error) * weight.sqrt()[:, None]
    change = torch.linalg.solve(gram, (centred.T @ rest).double()).T.to(x.dtype)
    linear.weight.add_(change)
    linear.bias.add_(mean_error - change @ mean)


def logit_mixing(q: Tensor, k: Tensor, kept: Tensor, weight: Tensor) -> Tensor:
    """The mixing M [s, s] of kept query neurons with which Q_S M K_S' is nearest to Q K'.

    Least squares over all pairs of tokens of all images, closed form:
    Σ_b (K_S'K_S ⊗ Q_S'Q_S) vec(M - I) = Σ_b vec(Q_S'Q_R K_R'K_S) with R what is removed. Keys
    enter less their mean over an image's tokens, since softmax ignores what all keys share.

    Args:
        q, k: [B, n, d] queries and keys of one head.
        kept: [s] int64 neurons that stay (S).
        weight: [n] of each token as a query.
    """
    removed = torch.ones(q.shape[-1], dtype=torch.bool)
    removed[kept] = False
    q, k = (q * weight.sqrt()[:, None]).double(), (k - k.mean(1, keepdim=True)).double()
    q_kept, q_gone = q[..., kept], q[..., removed]
    k_kept, k_gone = k[..., kept], k[..., removed]
    s = len(kept)
    squares = torch.einsum("bij,bkl->ikjl", q_kept.mT @ q_kept, k_kept.mT @ k_kept)
    squares = squares.reshape(s * s, s * s)
    ridge = RIDGE * squares.diagonal().mean().clamp(min=torch.finfo(squares.dtype).tiny)
    squares.diagonal().add_(ridge)
    right = ((q_kept.mT @ q_gone) @ (k_gone.mT @ k_kept)).sum(0).flatten()
    change: Tensor = torch.linalg.solve(squares, right)
    return (torch.eye(s, dtype=squares.dtype) + change.view(s, s)).float()

"""Visual words across images: patches that match the same word become one token.

VWT inter-image (arXiv 2411.15397 §3.2): words are k-means centres of training patches, matched by
cosine distance. The paper merges under a distance threshold, which gives every image its own
length (:func:`group_under_threshold`, for reports); to serve fixed counts, patches are merged in
the order of their distance until exactly ``count`` tokens remain. Either way a token is the plain
mean of the embeddings of its patches, position included, and :func:`unmerge` gives each patch its
token back, as dense outputs need.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.model.vit import ViTConfig
from foveate.reduce.check import check_count
from foveate_kernels.ops import vwt_assign
from foveate_kernels.packed import Plan

__all__ = ["VwtInter", "group_by_word", "group_under_threshold", "learn_words", "unmerge"]


@dataclass(frozen=True, kw_only=True)
class VwtInter:
    """Merge patches of the same word until ``count`` tokens remain."""

    count: int

    @property
    def packages(self) -> bool:
        return False

    def check(self, config: ViTConfig) -> None:
        check_count("count", self.count, 4, config.patches, "at the input")

    def tokens(self) -> int:
        return self.count

    def plan(self, rows: Tensor, words: Tensor, cu_seqlens: Tensor, patches: int) -> Plan:
        """Where each patch goes: the patches of a group become its mean.

        Args:
            rows: [B * N, D] normalised pixels of each patch.
            words: [K, D] visual words, in the dtype of ``rows``.
            cu_seqlens: [B + 1] int32; an image may be empty, and then its patches are spare.
            patches: N, patches of an image.
        """
        word, distance = vwt_assign(rows, words)
        groups = group_by_word(
            word.view(-1, patches).long(), distance.view(-1, patches), self.count, len(words)
        )
        lengths = cu_seqlens.diff().clamp(max=self.count)
        return Plan(
            dest=groups.view(-1).to(torch.int32),
            lengths=lengths,
            packaged=torch.zeros_like(lengths),
            weight=None,
        )


def group_by_word(word: Tensor, distance: Tensor, count: int, words: int) -> Tensor:
    """Merge patches, nearest to their word first, until ``count`` groups remain.

    The patch of a word that comes first leads its group. When every word is one group and still too
    many remain, the groups nearest to their words are joined.

    Args:
        word, distance: [B, N], 0 <= word < words.
        count: 1 <= count <= N.
        words: size of the vocabulary.

    Returns:
        [B, N] int64 groups 0..count-1, numbered by the raster position of their leaders.
    """
    b, n = word.shape
    position = torch.arange(n, device=word.device).expand(b, n)
    order = distance.argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, position)
    # The leader of a word: its patch of lowest rank.
    leader_rank = rank.new_full((b, words), n).scatter_reduce_(1, word, rank, "amin")
    leader_rank = leader_rank.gather(1, word)
    repeat = rank > leader_rank
    # Repeats merge in order of rank until enough are gone.
    repeats_so_far = repeat.gather(1, order).cumsum(1).gather(1, rank)
    merged = repeat & (repeats_so_far <= n - count)
    target = torch.where(merged, leader_rank, rank)  # by rank
    # Surplus groups, when all repeats are merged: the nearest leaders join the very nearest.
    is_leader = ~merged
    leaders_so_far = is_leader.gather(1, order).cumsum(1).gather(1, target)
    surplus = is_leader.sum(1, keepdim=True) - count
    target = torch.where(leaders_so_far <= surplus + 1, order.new_zeros(()), target)
    # Number the groups by the raster position of their leaders.
    lead_position = order.gather(1, target)
    leads = torch.zeros_like(word).scatter_(1, lead_position, 1)
    return (leads.cumsum(1) - 1).gather(1, lead_position)


def group_under_threshold(
    word: Tensor, distance: Tensor, threshold: float = 0.1
) -> tuple[Tensor, Tensor]:
    """The paper's rule: a patch farther than ``threshold`` from its word is a group of its own.

    Args:
        word: [B, N] int64 nearest word of each patch.
        distance: [B, N] cosine distance to it.

    Returns:
        groups: [B, N] int64, words in their order and then the patches alone in raster order.
        count: [B] int64 groups of each image.
    """
    n = word.shape[1]
    position = torch.arange(n, device=word.device)
    label = torch.where(distance > threshold, word.max() + 1 + position, word)
    ranked, order = label.sort(dim=1, stable=True)
    rank = (ranked[:, 1:] != ranked[:, :-1]).cumsum(1)
    rank = torch.cat([rank.new_zeros(len(rank), 1), rank], 1)
    return torch.empty_like(word).scatter_(1, order, rank), rank[:, -1] + 1


def unmerge(tokens: Tensor, groups: Tensor) -> Tensor:
    """The token of each patch: [B, M, C] by groups [B, N] in 0..M-1 -> [B, N, C]."""
    return tokens.gather(1, groups.unsqueeze(2).expand(-1, -1, tokens.shape[2]))


def learn_words(patches: Tensor, count: int, seed: int = 0) -> Tensor:
    """k-means centres of normalised patches, scaled to unit length: [M, D] -> [count, D]."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(count, random_state=seed, n_init=3, batch_size=4096)
    centres = torch.from_numpy(model.fit(patches.numpy()).cluster_centers_).float()
    return torch.nn.functional.normalize(centres, dim=1)

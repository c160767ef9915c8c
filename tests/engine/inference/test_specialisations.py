"""How many kernels a model compiles at load: levels and batch sizes share them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from foveate.inference.embed import Embedding
from foveate.inference.engine import batch_sizes
from foveate.inference.fixed import Forward, Routes
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViT, ViTConfig
from foveate_kernels.compile_only import distinct

# DeiT-S, and a level of every kind.
CONFIG = ViTConfig(height=224, width=224, patch=16, dim=384, depth=12, heads=6, mlp_dim=1536)
KEEPS = ((3, 98), (6, 49), (9, 24))
LEVELS: dict[str, list[dict[str, Any]]] = {
    "dense": [],
    "package": [{"kind": "prune", "block": b, "keep": k, "fate": "package"} for b, k in KEEPS],
    "drop": [{"kind": "prune", "block": b, "keep": k, "fate": "drop"} for b, k in KEEPS],
    "merge": [{"kind": "prune", "block": b, "keep": k, "fate": "merge"} for b, k in KEEPS],
    "intra": [{"kind": "vwt-intra", "keep": 97}],
    "inter": [{"kind": "vwt-inter", "count": 120}],
    "tome": [{"kind": "merge", "block": b, "remove": 13} for b in range(12)],
}
# More than one where tiles, dtypes or optional arguments ask for it, never for a count.
KERNELS = {
    "add_layernorm_kernel": 2,
    "best_split_kernel": 1,
    "bipartite_match_kernel": 1,
    "bipartite_rank_kernel": 1,
    "compact_tokens_kernel": 2,
    "inverse_norm_kernel": 2,
    "match_kept_kernel": 1,
    "match_kept_list_kernel": 2,
    "merge_groups_kernel": 3,
    "patch_variance_kernel": 1,
    "patchify_u8_kernel": 1,
    "select_tokens_kernel": 3,
    "varlen_attention_kernel": 8,
    "vwt_assign_kernel": 2,
    "word_norms_kernel": 1,
}


@torch.inference_mode()
def test_levels_and_batch_sizes_share_their_kernels() -> None:
    vit = ViT(CONFIG).half().to("meta")
    words = torch.empty(1000, 768, dtype=torch.float16, device="meta")
    embed = Embedding(vit)
    with distinct("sm_90") as kernels:
        for reducers in LEVELS.values():
            schedule = Schedule.parse(reducers, CONFIG)
            forward = Forward(schedule, vit, words, Routes(), embed=embed)
            for batch in batch_sizes(32):
                pixels = torch.empty(batch, 224, 224, 3, dtype=torch.uint8, device="meta")
                forward(pixels, torch.empty(batch + 1, dtype=torch.int32, device="meta"))
    assert Counter(name for name, _ in kernels) == KERNELS

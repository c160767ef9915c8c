"""Operators of token reduction. Importing this module needs torch and triton, and no GPU."""

from foveate_kernels.ops.add_layernorm import add_layernorm
from foveate_kernels.ops.add_layernorm_fp8 import add_layernorm_fp8
from foveate_kernels.ops.bipartite_match import bipartite_match
from foveate_kernels.ops.cls_importance import cls_importance
from foveate_kernels.ops.compact_tokens import compact_tokens
from foveate_kernels.ops.match_kept import match_kept
from foveate_kernels.ops.merge_groups import merge_groups
from foveate_kernels.ops.packed_linear import packed_linear
from foveate_kernels.ops.patch_variance import patch_variance
from foveate_kernels.ops.patchify_u8 import fold_patch_embed, patchify_u8
from foveate_kernels.ops.quantize_rows import quantize_rows
from foveate_kernels.ops.select_tokens import select_tokens
from foveate_kernels.ops.varlen_attention import varlen_attention
from foveate_kernels.ops.vwt_assign import vwt_assign

__all__ = [
    "add_layernorm",
    "add_layernorm_fp8",
    "bipartite_match",
    "cls_importance",
    "compact_tokens",
    "fold_patch_embed",
    "match_kept",
    "merge_groups",
    "packed_linear",
    "patch_variance",
    "patchify_u8",
    "quantize_rows",
    "select_tokens",
    "varlen_attention",
    "vwt_assign",
]

"""Operators of token reduction. Importing this module needs torch and no GPU."""

from foveate_kernels.ops.cls_importance import cls_importance
from foveate_kernels.ops.compact_tokens import compact_tokens
from foveate_kernels.ops.merge_groups import merge_groups
from foveate_kernels.ops.select_tokens import select_tokens
from foveate_kernels.ops.vwt_assign import vwt_assign

__all__ = ["cls_importance", "compact_tokens", "merge_groups", "select_tokens", "vwt_assign"]

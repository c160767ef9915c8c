"""Operators of token reduction, one per file in :mod:`foveate_kernels.ops`."""

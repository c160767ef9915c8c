"""Operators of token reduction, one per file in :mod:`foveate_kernels.ops`."""

__version__ = "0.1.0"

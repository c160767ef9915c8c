"""Training of SPViT's learned token selector (ECCV 2022, arXiv 2112.13890).

The selector itself and its file are in :mod:`foveate.reduce`. Reading order: :mod:`decision` (keep,
drop, package), :mod:`masked` (what training runs), :mod:`pruned` (what serving does, in plain
PyTorch), :mod:`objectives` (what training minimises), :mod:`train` (the loop), :mod:`job` (all of
``foveate train-selector``).
"""

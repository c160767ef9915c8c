"""Training of SPViT's learned token selector (ECCV 2022, arXiv 2112.13890).

The selector itself and its file are in :mod:`foveate.reduce`. Reading order: :mod:`decision` (keep,
drop, package), :mod:`masked` (the forward pass of training), :mod:`pruned` (that of serving, in
plain PyTorch), :mod:`objectives` (the losses), :mod:`train` (the loop), :mod:`job` (the whole of
``foveate train-selector``).
"""

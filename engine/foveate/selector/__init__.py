"""SPViT's learned token selector (ECCV 2022, arXiv 2112.13890): what it is, its training, its file.

Reading order: :mod:`module` (the selector), :mod:`decision` (keep, drop, package), :mod:`masked`
(what training runs), :mod:`pruned` (what serving does, in plain PyTorch), :mod:`objectives` (what
training minimises), :mod:`train` (the loop), :mod:`job` (all of ``foveate train-selector``).
"""

from __future__ import annotations

from foveate.selector.files import load_selectors, save_selectors
from foveate.selector.module import Selector

__all__ = ["Selector", "load_selectors", "save_selectors"]

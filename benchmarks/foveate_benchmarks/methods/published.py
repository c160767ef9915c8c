"""What the papers report for the families of the catalogue, where a number could be had.

On ImageNet, DeiT-S unless said: multiply-accumulates kept, and points of top-1 lost against the
dense model (79.8 %, 4.6 G). "trained" means the model was fine-tuned with the method.
"""

from __future__ import annotations

__all__ = ["PUBLISHED"]

PUBLISHED = {
    "random tokens, dropped": "ToMe ablation (MAE-L, same count): 79.2 random, 84.3 merged",
    "CLS attention, dropped": "DynamicViT's learned score instead, 63 %: −0.5, trained",
    "CLS attention × value norm, dropped": "PPT, pruned or pooled, 64 %: −0.3",
    "MLP shift, dropped": "Representation Shift, 65 %: −2.0",
    "EViT": "65 %: −0.3, 50 %: −1.3, trained",
    "CLS attention × value norm, package": "SPViT with its learned selector, 58 %: −0.5, trained",
    "CLS attention × value norm, merged": "DiffRate, learned counts, 63 %: −0.3, 54 %: −0.7",
    "ToMe, every block": "63 %: −2.1; 59 %: −0.4, trained",
    "PiToMe, every block": "63 %: −0.7",
    "VWT intra, dropped": "CLIP-B: energy −47 % at most, runtime up to +20 %",
    "resolution": "SuperViT, 12 × 12 for 14 × 14 patches: −0.8, trained",
    "SNP": "44 %: −1.3; DeiT-T 46 %: −1.9; DeiT-B 36 %: −2.2, all retrained for 300 epochs",
}

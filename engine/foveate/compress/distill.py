"""Optional training of a slim model against the dense one it came from. No labels."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.atomic_file import replacing
from foveate.images.folder import Progress
from foveate.model.vit import ViT, patchify

__all__ = ["distill"]

_BATCH = 32
_LR = 3e-4
_TEMPERATURE = 2.0
_WARM_UP = 0.05  # of the steps


def distill(
    slim: ViT,
    dense: ViT,
    pixels: Tensor,
    *,
    epochs: int,
    seed: int,
    checkpoint: Path,
    progress: Progress = lambda *_: None,
) -> None:
    """Train ``slim`` in place so that its answers come near those of ``dense``.

    The loss is the divergence of the answers at temperature 2, scaled by its square (Hinton et al.
    2015), and, where the residual stream is as wide as it was, the relative squared error of the
    tokens after each block: what a few passes over a few images can learn from answers alone is
    little. AdamW, cosine schedule. SNP itself trains for 300 epochs on ImageNet's labels.
    Deterministic: the same arguments give the same weights on one machine and thread count, whether
    or not the training was interrupted.

    Args:
        pixels: [B, H, W, 3] uint8 images to train on.
        epochs: passes over them.
        seed: of the order of the images.
        checkpoint: file that holds the state after each epoch, taken up again if it is of the same
            training; removed at the end.
        progress: called with stage and loss, steps done and total steps.
    """
    parameters = [parameter.requires_grad_(True) for parameter in slim.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=_LR, weight_decay=0.0)
    key = _fingerprint(slim, pixels, epochs, seed)
    begin = _resume(checkpoint, key, slim, optimiser)
    per_epoch = math.ceil(len(pixels) / _BATCH)
    steps = epochs * per_epoch
    for epoch in range(begin, epochs):
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        order = torch.split(torch.randperm(len(pixels), generator=generator), _BATCH)
        for step, images in enumerate(order, epoch * per_epoch):
            optimiser.param_groups[0]["lr"] = _LR * _schedule(step / steps)
            loss = _loss(slim, dense, pixels[images])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            progress(f"distil: loss {loss.item():.4f}", step + 1, steps)
        _save(checkpoint, key, epoch + 1, slim, optimiser)
    checkpoint.unlink(missing_ok=True)
    slim.requires_grad_(False)


def _loss(slim: ViT, dense: ViT, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        expected, target = _streams(dense, pixels)
    found, logits = _streams(slim, pixels)
    loss = _TEMPERATURE**2 * F.kl_div(
        (logits / _TEMPERATURE).log_softmax(1),
        (target / _TEMPERATURE).log_softmax(1),
        log_target=True,
        reduction="batchmean",
    )
    if slim.config.dim != dense.config.dim:
        return loss
    errors = [_error(x, y) for x, y in zip(found, expected, strict=True)]
    return loss + torch.stack(errors).mean()


def _streams(vit: ViT, pixels: Tensor) -> tuple[list[Tensor], Tensor]:
    """Tokens [B, n, C] after each block, and logits [B, classes]."""
    x, streams = vit.embed(patchify(pixels, vit.config.patch).float()), []
    for block in vit.blocks:
        x = block(x)
        streams.append(x)
    return streams, vit.classify(vit.pool(x))


def _error(found: Tensor, expected: Tensor) -> Tensor:
    """Relative squared error of the CLS token, and of the patches together."""
    parts = (slice(0, 1), slice(1, None))
    return torch.stack(
        [F.mse_loss(found[:, part], expected[:, part]) / expected[:, part].var() for part in parts]
    ).sum()


def _schedule(progress: float) -> float:
    """Linear warm-up, then a cosine to zero."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def _fingerprint(slim: ViT, pixels: Tensor, epochs: int, seed: int) -> str:
    """Of everything the result depends on."""
    sha = hashlib.sha256(json.dumps([asdict(slim.config), epochs, seed]).encode())
    for tensor in (pixels, *slim.state_dict().values()):
        sha.update(tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


def _resume(path: Path, key: str, slim: ViT, optimiser: torch.optim.Optimizer) -> int:
    """Take up an interrupted training, if the file is of this one; how many epochs it had done."""
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError):  # missing or damaged: start over
        return 0
    if state.get("key") != key:
        return 0
    slim.load_state_dict(state["slim"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["epochs"])


def _save(path: Path, key: str, epochs: int, slim: ViT, optimiser: torch.optim.Optimizer) -> None:
    state = {
        "key": key,
        "epochs": epochs,
        "slim": slim.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with replacing(path) as scratch:
        torch.save(state, scratch)

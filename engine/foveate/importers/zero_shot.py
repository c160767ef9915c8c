"""A head made of class names: their text embeddings, computed once by the checkpoint's own tower.

CLIP (arXiv 2103.00020 §3.1.4): each class is the mean of its prompts' embeddings, all of unit
length, and a logit is exp(t) · cos(image, class). SigLIP (arXiv 2303.15343): the same plus a bias,
of which the sigmoid is the score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import InputError
from foveate.importers.convert import Head
from foveate.importers.tensors import Tensors

__all__ = ["PROMPTS", "text_head"]

PROMPTS = {"clip": "a photo of a {}.", "siglip": "This is a photo of {}."}
_AT_ONCE = 64  # texts


def text_head(
    folder: Path,
    kind: str,
    tensors: Tensors,
    names: Sequence[str],
    prompts: Sequence[str] = (),
    tell: Callable[[int, int], None] = lambda *_: None,
) -> Head:
    """Weight [classes, E] and bias [classes], float32.

    Args:
        folder: of the checkpoint, with its tokenizer.
        kind: ``clip`` or ``siglip``.
        tensors: of the checkpoint; scale and bias of the logits are among them.
        names: of the classes.
        prompts: texts in which ``{}`` stands for the name; by default the one of ``PROMPTS``.
        tell: hears how many classes are done, and of how many.

    Raises :class:`InputError` if a prompt has no place for the name, or without transformers.
    """
    prompts = prompts or (PROMPTS[kind],)
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise InputError(f"prompt={prompt!r}: expected one {{}}, where the name goes")
    embed = _text_tower(folder, kind)
    rows: list[Tensor] = []
    at_once = max(1, _AT_ONCE // len(prompts))
    for start in range(0, len(names), at_once):
        some = names[start : start + at_once]
        texts = [prompt.format(name) for name in some for prompt in prompts]
        embedded = F.normalize(embed(texts).float(), dim=1).view(len(some), len(prompts), -1)
        rows.append(F.normalize(embedded.mean(1), dim=1))
        tell(start + len(some), len(names))
    scale = tensors.take("logit_scale").exp()
    bias = tensors.take("logit_bias") if "logit_bias" in tensors else torch.zeros(1)
    return torch.cat(rows) * scale, bias.expand(len(names)).contiguous()


def _text_tower(folder: Path, kind: str) -> Callable[[list[str]], Tensor]:
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"{folder}: text embeddings need transformers; pip install 'foveate[import]'"
        ) from error
    # What it says of tensors that the text tower leaves alone would bury what we say.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"{folder}: cannot read its tokenizer: {error}") from error
    if kind == "clip":
        tower: Any = transformers.CLIPTextModelWithProjection.from_pretrained(folder).eval()
    else:
        tower = transformers.SiglipTextModel.from_pretrained(folder).eval()
    length = tower.config.max_position_embeddings

    @torch.inference_mode()
    def embed(texts: list[str]) -> Tensor:
        # SigLIP was trained on padded texts and has no mask for them.
        padding = "max_length" if kind == "siglip" else True
        tokens = tokenizer(
            texts, padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        if kind == "siglip":
            out: Tensor = tower(input_ids=tokens["input_ids"]).pooler_output
        else:
            given = {key: tokens[key] for key in ("input_ids", "attention_mask")}
            out = tower(**given).text_embeds
        return out.clone()

    return embed

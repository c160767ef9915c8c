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

from foveate.errors import InputError, WeightsError
from foveate.images.folder import Progress
from foveate.importers.convert import Head
from foveate.importers.source import Source
from foveate.importers.tensors import Tensors

__all__ = ["PROMPTS", "fill", "read_config", "text_head"]

PROMPTS = {"clip": "a photo of a {}.", "siglip": "This is a photo of {}."}
_TEXT_BATCH = 64  # texts


def text_head(
    source: Source,
    folder: Path,
    tensors: Tensors,
    names: Sequence[str],
    prompts: Sequence[str] = (),
    progress: Progress = lambda *_: None,
) -> Head:
    """Weight [classes, E] and bias [classes], float32.

    Args:
        source: the checkpoint.
        folder: of its tokenizer.
        tensors: of the checkpoint; the text tower, and scale and bias of the logits, are among
            them.
        names: of the classes.
        prompts: texts in which ``{}`` stands for the name; by default the one of ``PROMPTS``.
        progress: called with stage, classes done and total classes.

    Raises :class:`InputError` if a prompt has no place for the name, or without transformers;
    :class:`WeightsError` naming tensors that the text tower lacks, or does not know.
    """
    assert source.config is not None
    prompts = prompts or (PROMPTS[source.config["model_type"]],)
    fill(prompts, "")  # before anything takes long
    embed = _text_tower(source, folder, tensors)
    rows: list[Tensor] = []
    at_once = max(1, _TEXT_BATCH // len(prompts))
    for start in range(0, len(names), at_once):
        some = names[start : start + at_once]
        texts = [text for name in some for text in fill(prompts, name)]
        embedded = F.normalize(embed(texts).float(), dim=1).view(len(some), len(prompts), -1)
        rows.append(F.normalize(embedded.mean(1), dim=1))
        progress("embed class names", start + len(some), len(names))
    scale = tensors.take("logit_scale").exp()
    bias = tensors.take("logit_bias") if "logit_bias" in tensors else torch.zeros(1)
    return torch.cat(rows) * scale, bias.expand(len(names)).contiguous()


def fill(prompts: Sequence[str], name: str) -> list[str]:
    """The prompts with ``name`` in the place of ``{}``. Raises :class:`InputError` without one."""
    for prompt in prompts:
        if prompt.count("{}") != 1:
            raise InputError(f"prompt={prompt!r}: expected one {{}} in place of the class name")
    return [prompt.replace("{}", name) for prompt in prompts]


def read_config(source: Source) -> Any:
    """The configuration as transformers reads it. Raises :class:`WeightsError` if it does not."""
    import transformers

    assert source.config is not None
    try:
        default: Any = transformers.AutoConfig.for_model(source.config["model_type"])
        return type(default).from_dict(dict(source.config))
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{source.name}: transformers cannot read its config: {error}"
        ) from error


def _text_tower(source: Source, folder: Path, tensors: Tensors) -> Callable[[list[str]], Tensor]:
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
    config = read_config(source)
    siglip = config.model_type == "siglip"
    kind: Any = transformers.CLIPTextModelWithProjection
    if siglip:
        kind = transformers.SiglipTextModel
    else:  # CLIPModel goes by the projection of the whole, and so do its weights
        config.text_config.projection_dim = config.projection_dim
    tower = _load(kind, config.text_config, tensors)
    length = tower.config.max_position_embeddings

    @torch.inference_mode()
    def embed(texts: list[str]) -> Tensor:
        # SigLIP was trained on padded texts and has no mask for them.
        padding = "max_length" if siglip else True
        tokens = tokenizer(
            texts, padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        if siglip:
            out: Tensor = tower(input_ids=tokens["input_ids"]).pooler_output
        else:
            given = {key: tokens[key] for key in ("input_ids", "attention_mask")}
            out = tower(**given).text_embeds
        return out.clone()

    return embed


def _load(kind: Any, config: Any, tensors: Tensors) -> Any:
    """The tower in fp32. What its library would draw at random, or leave out, is refused."""
    names = [name for name in tensors if name.startswith(_TEXT) and not name.endswith(_INDICES)]
    weights = {name: tensors.take(name) for name in names}
    try:
        tower, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported, which the exception does not do
            output_loading_info=True,
        )
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{tensors.where}: text tower: {error}") from error
    for fault in ("missing", "unexpected", "mismatched"):
        if keys := report[f"{fault}_keys"]:
            first = ", ".join(map(str, sorted(keys, key=str)[:5]))
            raise WeightsError(f"{tensors.where}: text tower: {fault} keys ({len(keys)}): {first}")
    return tower.eval()


_TEXT = ("text_model.", "text_projection.")
_INDICES = ".position_ids"  # 0, 1, 2, ... in files of old

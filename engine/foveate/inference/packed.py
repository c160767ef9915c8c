"""The packed forward pass: images of one batch, each at its own level, in one pass.

The rows of all images are concatenated, so every linear layer is one product whatever the lengths;
attention runs per level, where lengths are equal. The level fixes all counts, so no shape has to be
read back from the device.

No image sees another, but a product of matrices may round a row differently by how many rows there
are. So among any batch mates an image is answered as if alone, up to rounding: the same tokens, the
same class, scores within 1e-5 in float32. Only where two tokens, or classes, score so nearly the
same that rounding decides, either may come first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from foveate.errors import LadderError, WeightsError
from foveate.inference.embed import Embedding
from foveate.inference.token_map import trace
from foveate.levels.ladder import Ladder, Level
from foveate.levels.schedule import Schedule
from foveate.model.vit import Block, ViT, ViTConfig, attend, load_vit
from foveate.reduce.adaptive import Adaptive
from foveate.reduce.rows import After, Rows, Seen, reduce
from foveate.reduce.selector_file import load_selectors
from foveate.reduce.selector_network import Selector
from foveate.reduce.vwt_inter import VwtInter
from foveate_kernels.packed import uniform

__all__ = ["Answers", "Engine", "Prepared", "choose"]


_Heads = tuple[Tensor, Tensor, Tensor]  # queries, keys and values of packed rows, [T, H, d]


@dataclass(frozen=True)
class Answers:
    """One row per image, in request order."""

    scores: Tensor  # [B, classes] float32 probabilities
    token_map: Tensor | None  # [B, patches] int16: destination token, -1 dropped, -2 packaged


@dataclass(frozen=True)
class Prepared:
    """A level bound to its tensors."""

    schedule: Schedule
    vit: ViT
    words: Tensor | None
    selectors: Mapping[int, Selector] = field(default_factory=dict)  # by block

    @property
    def variants(self) -> tuple[Prepared, ...]:
        """One for each variant of the schedule."""
        return tuple(replace(self, schedule=variant) for variant in self.schedule.variants)


def choose(
    levels: Sequence[Prepared], wanted: Sequence[int], pixels: Tensor
) -> list[tuple[int, int]]:
    """The level and the variant of each image; the variant is 0 unless the level is adaptive."""
    chosen = [(level, 0) for level in wanted]
    for level in {*wanted}:
        adaptive = levels[level].schedule.input
        if isinstance(adaptive, Adaptive):
            images = [i for i, own in enumerate(wanted) if own == level]
            variants = adaptive.choose(pixels[images], levels[level].vit.config.patch)
            for i, variant in zip(images, variants.tolist(), strict=True):
                chosen[i] = level, variant
    return chosen


@dataclass
class _Group:
    """Images of one level and variant, contiguous in the packed rows."""

    level: Prepared
    images: list[int]  # positions in the request order
    tokens: int  # rows of each image now
    packaged: bool  # whether the last row of each image is a package
    sizes: Tensor | None  # [rows] float32 patches each row stands for, if it matters
    dests: list[Tensor]  # where each reducer so far sent its rows, [b * n] int32

    @property
    def rows(self) -> int:
        return len(self.images) * self.tokens


class Engine:
    """A model and its ladder, ready to answer. It computes in the dtype of its weights."""

    def __init__(self, ladder: Ladder, levels: Sequence[Prepared]) -> None:
        self.ladder = ladder
        self.levels = tuple(levels)
        self.config: ViTConfig = levels[0].vit.config
        self.device = torch.device("cpu")
        self.batches = (1, 2, 4, 8)  # sizes worth a measurement
        self._variants = [level.variants for level in self.levels]
        self._embeddings = {id(p.vit): Embedding(p.vit) for p in levels}

    @staticmethod
    def load(folder: Path) -> Engine:
        """Read ``ladder.json`` and the tensors it names from a model's version folder.

        Raises :class:`LadderError` or :class:`WeightsError`, naming the file and the reason.
        """
        ladder = Ladder.load(folder / "ladder.json")
        vits = {
            name: load_vit(folder / name) for name in {level.weights for level in ladder.levels}
        }
        words = {
            name: _load_words(folder / name)
            for name in {level.vocabulary for level in ladder.levels}
            if name is not None
        }
        dense = vits[ladder.levels[0].weights].config
        for name, vit in vits.items():
            for key in ("height", "width", "patch", "depth", "classes", "mean", "std", "prefix"):
                own, expected = getattr(vit.config, key), getattr(dense, key)
                if own != expected:
                    raise WeightsError(f"{folder / name}: {key}={own}, level 0 has {expected}")
        prepared = []
        for level in ladder.levels:
            try:
                prepared.append(_prepare(folder, level, vits[level.weights], words))
            except LadderError as error:
                raise LadderError(
                    f"{folder / 'ladder.json'}: level {level.name!r}: {error}"
                ) from error
        if (
            vits[ladder.levels[0].weights].config.height,
            prepared[0].vit.config.width,
        ) != ladder.image_size:
            raise LadderError(f"{folder / 'ladder.json'}: image_size={list(ladder.image_size)}")
        return Engine(ladder, prepared)

    @torch.inference_mode()
    def infer(self, pixels: Tensor, levels: Sequence[int], *, token_map: bool = False) -> Answers:
        """Classify images [B, H, W, 3] (uint8), each at its own level index.

        ``token_map`` asks for the destination of every patch, which costs a little.
        """
        chosen = choose(self.levels, levels, pixels)
        order = sorted(
            range(len(levels)), key=lambda i: (id(self.levels[levels[i]].vit), chosen[i])
        )
        probabilities = torch.empty(len(levels), self.config.classes)
        maps = (
            torch.empty(len(levels), self.config.patches, dtype=torch.int16) if token_map else None
        )
        for _, same_weights in groupby(order, key=lambda i: id(self.levels[levels[i]].vit)):
            groups, embedded = [], []
            for (level, variant), images in groupby(same_weights, key=lambda i: chosen[i]):
                prepared = self._variants[level][variant]
                group, x = self._embed(prepared, list(images), pixels)
                groups.append(group)
                embedded.append(x)
            positions = [i for group in groups for i in group.images]
            probabilities[positions] = self._encode(groups, _cat(embedded))
            if maps is not None:
                for group in groups:
                    schedule, count = group.level.schedule, len(group.images)
                    maps[group.images] = trace(schedule, self.config, group.dests, count)
        return Answers(probabilities, maps)

    def _embed(self, level: Prepared, images: list[int], pixels: Tensor) -> tuple[_Group, Tensor]:
        """First tokens of the images of one level, as packed rows [b * n, C]."""
        b = len(images)
        chosen = pixels if b == len(pixels) and images == list(range(b)) else pixels[images]
        present = torch.arange(b + 1, dtype=torch.int32)
        embed = self._embeddings[id(level.vit)]
        rows, dests = embed(level.schedule, level.words, chosen.contiguous(), present)
        return _Group(level, images, rows.n, rows.packaged, rows.sizes, dests), rows.x

    def _encode(self, groups: Sequence[_Group], x: Tensor) -> Tensor:
        """All blocks over packed rows [T, C] -> probabilities [images, classes]."""
        vit = groups[0].level.vit
        for index, block in enumerate(cast(Iterable[Block], vit.blocks)):
            parts = torch.split(block.attn.qkv(block.norm1(x)), [g.rows for g in groups])
            qkv = [block.attn.split(p) for p in parts]
            x = x + block.attn.proj(_cat([_attention(*a) for a in zip(groups, qkv, strict=True)]))
            x = _reduce(groups, x, index, "attention", qkv)
            update = block.mlp(block.norm2(x))
            x = _reduce(groups, x + update, index, "mlp", qkv, update)
        parts = torch.split(x, [g.rows for g in groups])
        pooled = [_pool(vit, group, part) for group, part in zip(groups, parts, strict=True)]
        return vit.scores(vit.classify(_cat(pooled)))


def _pool(vit: ViT, group: _Group, x: Tensor) -> Tensor:
    """What the head reads of the images of a group: rows [b * n, C] -> [b, pooled_dim]."""
    shape = len(group.images), group.tokens
    return vit.pool(x.view(*shape, -1), None if group.sizes is None else group.sizes.view(shape))


def _attention(group: _Group, qkv: _Heads) -> Tensor:
    """Attention of the images of a group: rows [b * n, H, d] -> [b * n, H * d]."""
    b, n = len(group.images), group.tokens
    q, k, v = (rows.view(b, n, *rows.shape[1:]).transpose(1, 2) for rows in qkv)
    bias = None if group.sizes is None else group.sizes.log().to(q.dtype).view(b, 1, 1, n)
    return attend(q, k, v, bias).transpose(1, 2).flatten(0, 1).flatten(1)


def _reduce(
    groups: Sequence[_Group],
    x: Tensor,
    block: int,
    after: After,
    qkv: Sequence[_Heads],
    update: Tensor | None = None,
) -> Tensor:
    """Apply to packed rows what the groups' reducers of this block do after attention or MLP."""
    if not any(_acts(group, block, after) for group in groups):
        return x
    rows = [group.rows for group in groups]
    parts = torch.split(x, rows)
    updates: Sequence[Tensor | None] = [None] * len(groups)
    if update is not None:
        updates = torch.split(update, rows)
    return _cat(
        [
            _reduce_group(group, part, block, heads, own) if _acts(group, block, after) else part
            for group, part, heads, own in zip(groups, parts, qkv, updates, strict=True)
        ]
    )


def _acts(group: _Group, block: int, after: After) -> bool:
    reducer = group.level.schedule.blocks.get(block)
    return reducer is not None and reducer.after == after


def _reduce_group(
    group: _Group, x: Tensor, block: int, qkv: _Heads, update: Tensor | None
) -> Tensor:
    """Apply the group's reducer of this block to its packed rows."""
    level, b, n = group.level, len(group.images), group.tokens
    q, k, v = qkv
    rows, dest = reduce(
        level.schedule.blocks[block],
        Rows(x, uniform(b, n), n, group.packaged, group.sizes, level.vit.config.prefix),
        Seen(
            q=q,
            k=k,
            v=v,
            depth=level.vit.config.depth,
            update=update,
            selector=level.selectors.get(block),
        ),
        sized=level.schedule.sized,
    )
    group.tokens, group.packaged, group.sizes = rows.n, rows.packaged, rows.sizes
    group.dests.append(dest)
    return rows.x


def _cat(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate; returns a single part as it is, which saves a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _prepare(folder: Path, level: Level, vit: ViT, words: Mapping[str, Tensor]) -> Prepared:
    """Bind a level to its tensors. Raises :class:`LadderError` naming key and value."""
    config = vit.config
    schedule = Schedule.parse(level.reducers, config)
    if isinstance(schedule.input, VwtInter):
        if level.vocabulary is None:
            raise LadderError("vocabulary=null: vwt-inter needs one")
        width, expected = words[level.vocabulary].shape[1], 3 * config.patch**2
        if width != expected:
            raise LadderError(
                f"vocabulary={level.vocabulary!r}: words of {width} numbers, expected {expected}: "
                f"3 channels of {config.patch}x{config.patch} pixels"
            )
    counts = schedule.tokens(config)[1]
    if tuple(counts) != level.tokens:
        raise LadderError(f"tokens={list(level.tokens)}: its reducers give {counts}")
    selectors: Mapping[int, Selector] = {}
    if schedule.selectors:
        if level.selector is None:
            raise LadderError("selector=null: score 'selector' needs one")
        selectors = load_selectors(folder / level.selector, config)
        if missing := [block for block in schedule.selectors if block not in selectors]:
            raise LadderError(
                f"selector={level.selector!r}: no selector for block {missing[0]}, "
                f"only for {', '.join(map(str, selectors)) or 'none'}"
            )
    return Prepared(schedule, vit, words.get(level.vocabulary or ""), selectors)


def _load_words(path: Path) -> Tensor:
    """Unit-length visual words [K, D], stored as one tensor named ``words``."""
    try:
        return F.normalize(load_file(path)["words"].float(), dim=1)
    except (OSError, SafetensorError, KeyError) as error:
        raise WeightsError(f"{path}: cannot read visual words: {error}") from error

"""Convert the tensors of any family to our form, with everything linear folded into weights.

* Mean and std of each channel go into the patch embedding: pixels are normalised with 0.5 and 0.5.
* LayerScale goes into the projections before it; a missing bias becomes zero.
* CLS, distillation and register tokens become one tensor; missing position embeddings become zero.
* DeiT's two heads, whose mean is the answer, become one head over both tokens.
* The query of an attention pooling is projected in advance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from foveate.errors import InputError, WeightsError
from foveate.importers.positions import find_grid, interpolate
from foveate.importers.recipe import Recipe
from foveate.importers.tensors import Tensors
from foveate.model.vit import ViTConfig

__all__ = ["Head", "convert"]

Head = tuple[Tensor, Tensor]  # weight [classes, C], bias [classes]

_MEAN = _STD = 0.5


def convert(
    tensors: Tensors,
    recipe: Recipe,
    size: tuple[int, int],
    make_head: Callable[[], Head] | None = None,
    *,
    interpolate_positions: bool = False,
) -> tuple[ViTConfig, Iterator[tuple[str, Tensor]]]:
    """The shape of the model, and its tensors, float32, one by one.

    Args:
        tensors: of the checkpoint.
        recipe: how to read them.
        size: height and width of the images to serve.
        make_head: makes the head if classes are texts.
        interpolate_positions: whether to interpolate position embeddings if ``size`` needs it.

    Raises :class:`~foveate.errors.WeightsError` or :class:`InputError` naming key and value; so may
    the iterator.
    """
    reader = _Reader(tensors, recipe, size, interpolate_positions or recipe.unasked)
    head = None if make_head is None else make_head()
    return reader.config(head), reader.tensors(head)


@dataclass
class _Reader:
    source: Tensors
    recipe: Recipe
    size: tuple[int, int]
    may_interpolate: bool

    def config(self, head: Head | None) -> ViTConfig:
        recipe = self.recipe
        dim, _, patch, _ = self._shape("patch_embed.proj.weight")
        for name, edge in zip(("height", "width"), self.size, strict=True):
            if edge % patch or edge < patch:
                fits = max(edge // patch, 1) * patch
                limit = f"expected a multiple of patch={patch}, such as {fits}"
                raise InputError(f"image size: {name}={edge}: {limit}")
        depth = 0
        while self._has("norm1.weight", depth):
            depth += 1
        if dim % recipe.heads or not depth:
            raise WeightsError(
                f"{self.source.where}: dim={dim}, heads={recipe.heads}, depth={depth}: expected a "
                "multiple of heads, and a block"
            )
        if head is None and not self._has("head.weight"):
            name = recipe.layout.name("head.weight")
            raise WeightsError(
                f"{self.source.where}: key {name!r} is missing: a model without a classifier has "
                "no classes to serve"
            )
        classes = self._shape("head.weight")[0] if head is None else len(head[1])
        if classes < 2 and not recipe.sigmoid:
            raise InputError(
                f"{self.source.where}: classes={classes}: expected two or more, as the "
                "probability of a single class is always 1"
            )
        return ViTConfig(
            height=self.size[0],
            width=self.size[1],
            patch=patch,
            dim=dim,
            depth=depth,
            heads=recipe.heads,
            mlp_dim=self._shape("mlp.fc1.weight", 0)[0],
            classes=classes,
            eps=recipe.eps,
            mean=_MEAN,
            std=_STD,
            prefix=self._prefix(),
            pool=recipe.pool,
            norm_last=recipe.pool == "mean" and self._has("fc_norm.weight"),
            norm_first=self._has("norm_pre.weight"),
            qk_norm=self._has("attn.q_norm.weight", 0),
            activation=recipe.activation,
            embedding=self._shape("project.weight")[0] if self._has("project.weight") else 0,
            unit=recipe.zero_shot,
            sigmoid=recipe.sigmoid,
        )

    def tensors(self, head: Head | None) -> Iterator[tuple[str, Tensor]]:
        """Raises :class:`~foveate.errors.WeightsError` at the end if tensors are left over, because
        then this is another model than assumed."""
        c = self.config(head)
        yield from self._embedding(c)
        if c.norm_first:
            yield from self._both("norm_pre", "norm_pre", None, c.dim)
        for block in range(c.depth):
            for name, tensor in self._block(block, c):
                yield f"blocks.{block}.{name}", tensor
        norm = "fc_norm" if self._has("fc_norm.weight") else "norm"
        yield from self._both("norm", norm, None, c.dim)
        if c.pool == "map":
            yield from self._attention_pool(c)
        if c.embedding:
            yield "project.weight", self._take("project.weight", None, c.embedding, c.pooled_dim)
        weight, bias = self._head(c) if head is None else head
        yield "head.weight", weight
        yield "head.bias", bias
        self.source.ignore(*self.recipe.ignored)
        self.source.finish()

    def _embedding(self, c: ViTConfig) -> Iterator[tuple[str, Tensor]]:
        weight = self._take("patch_embed.proj.weight", None, c.dim, 3, c.patch, c.patch)
        bias = self._bias("patch_embed.proj.bias", None, c.dim)
        mean, std = (
            torch.tensor(x, dtype=torch.float64) for x in (self.recipe.mean, self.recipe.std)
        )
        wide = weight.double()
        shift = (wide.sum((2, 3)) * ((_MEAN - mean) / std)).sum(1)
        yield "patch_embed.proj.weight", (wide * (_STD / std)[:, None, None]).float()
        yield "patch_embed.proj.bias", (bias.double() + shift).float()

        first = [self._take(name, None).view(-1, c.dim) for name in self._first_tokens()]
        yield "cls_token", torch.cat([*first, torch.zeros(0, c.dim)]).unsqueeze(0)
        name = "pos_embed"
        positions = self._take(name, None).view(-1, c.dim)
        grid, positioned = find_grid(len(positions), c.prefix, self.recipe.grid, self.source.where)
        new = c.height // c.patch, c.width // c.patch
        if grid != new and not self.may_interpolate:
            raise WeightsError(
                f"{self.source.where}: position embeddings of {grid[0]}x{grid[1]} patches for "
                f"images of {c.height}x{c.width}, which are {new[0]}x{new[1]}; set --image-size, "
                f"for example to {grid[0] * c.patch}"
            )
        patches = interpolate(
            positions[positioned:],
            grid,
            new,
            antialias=self.recipe.antialias,
            align_corners=self.recipe.align_corners,
        )
        none = torch.zeros(c.prefix - positioned, c.dim)
        yield name, torch.cat([positions[:positioned], none, patches]).unsqueeze(0)

    def _block(self, block: int, c: ViTConfig) -> Iterator[tuple[str, Tensor]]:
        yield from self._both("norm1", "norm1", block, c.dim)
        yield "attn.qkv.weight", self._qkv("weight", block, c.dim, c.dim)
        yield "attn.qkv.bias", self._qkv("bias", block, c.dim)
        if c.qk_norm:
            yield from self._both("attn.q_norm", "attn.q_norm", block, c.head_dim)
            yield from self._both("attn.k_norm", "attn.k_norm", block, c.head_dim)
        yield from self._scaled("attn.proj", "ls1.gamma", block, c.dim, c.dim)
        yield from self._both("norm2", "norm2", block, c.dim)
        yield "mlp.fc1.weight", self._take("mlp.fc1.weight", block, c.mlp_dim, c.dim)
        yield "mlp.fc1.bias", self._bias("mlp.fc1.bias", block, c.mlp_dim)
        yield from self._scaled("mlp.fc2", "ls2.gamma", block, c.dim, c.mlp_dim)

    def _qkv(self, kind: str, block: int, *shape: int) -> Tensor:
        """Of one projection to all three, or of three."""
        rows, *columns = shape
        if self._has(f"attn.qkv.{kind}", block):
            return self._take(f"attn.qkv.{kind}", block, 3 * rows, *columns)
        if self._has("attn.qkv.weight", block):  # one without a bias
            return torch.zeros(3 * rows)
        take = self._take if kind == "weight" else self._bias
        return torch.cat([take(f"attn.{part}.{kind}", block, *shape) for part in "qkv"])

    def _scaled(
        self, name: str, scale: str, block: int, *shape: int
    ) -> Iterator[tuple[str, Tensor]]:
        """A projection and the LayerScale behind it."""
        weight = self._take(f"{name}.weight", block, *shape)
        bias = self._bias(f"{name}.bias", block, shape[0])
        if self._has(scale, block):
            gamma = self._take(scale, block, shape[0])
            weight, bias = gamma.unsqueeze(1) * weight, gamma * bias
        yield f"{name}.weight", weight
        yield f"{name}.bias", bias

    def _attention_pool(self, c: ViTConfig) -> Iterator[tuple[str, Tensor]]:
        pool = "attn_pool"
        if self._has(f"{pool}.in_proj_weight"):
            weights = self._take(f"{pool}.in_proj_weight", None, 3 * c.dim, c.dim)
            biases = self._take(f"{pool}.in_proj_bias", None, 3 * c.dim)
            weight, kv_weight = weights[: c.dim], weights[c.dim :]
            bias, kv_bias = biases[: c.dim], biases[c.dim :]
        else:
            weight = self._take(f"{pool}.q.weight", None, c.dim, c.dim)
            bias = self._bias(f"{pool}.q.bias", None, c.dim)
            kv_weight = self._take(f"{pool}.kv.weight", None, 2 * c.dim, c.dim)
            kv_bias = self._bias(f"{pool}.kv.bias", None, 2 * c.dim)
        latent = self._take(f"{pool}.latent", None, 1, 1, c.dim)
        yield f"{pool}.query", weight @ latent.view(-1) + bias
        yield f"{pool}.kv.weight", kv_weight
        yield f"{pool}.kv.bias", kv_bias
        for ours, theirs, shape in (
            (f"{pool}.proj", f"{pool}.proj", (c.dim, c.dim)),
            ("pool_norm", f"{pool}.norm", (c.dim,)),
            ("pool_mlp.fc1", f"{pool}.mlp.fc1", (c.mlp_dim, c.dim)),
            ("pool_mlp.fc2", f"{pool}.mlp.fc2", (c.dim, c.mlp_dim)),
        ):
            yield from self._both(ours, theirs, None, *shape)

    def _head(self, c: ViTConfig) -> Head:
        if c.pool != "cls+dist":
            weight = self._take("head.weight", None, c.classes, c.pooled_dim)
            return weight, self._bias("head.bias", None, c.classes)
        weights = [self._take(f"{name}.weight", None, c.classes, c.dim) for name in _TAUGHT]
        biases = [self._take(f"{name}.bias", None, c.classes) for name in _TAUGHT]
        return torch.cat(weights, 1) / 2, torch.stack(biases).mean(0)

    def _both(
        self, ours: str, theirs: str, block: int | None, *shape: int
    ) -> Iterator[tuple[str, Tensor]]:
        """Weight and bias."""
        yield f"{ours}.weight", self._take(f"{theirs}.weight", block, *shape)
        yield f"{ours}.bias", self._take(f"{theirs}.bias", block, shape[0])

    def _prefix(self) -> int:
        return sum(
            self._shape(name)[-2] if len(self._shape(name)) > 1 else 1
            for name in self._first_tokens()
        )

    def _first_tokens(self) -> list[str]:
        return [name for name in ("cls_token", "dist_token", "reg_token") if self._has(name)]

    def _bias(self, name: str, block: int | None, size: int, *_: int) -> Tensor:
        """Zeros where there is none."""
        return self._take(name, block, size) if self._has(name, block) else torch.zeros(size)

    def _take(self, name: str, block: int | None, *shape: int) -> Tensor:
        return self.source.take(self.recipe.layout.name(name, block), *shape)

    def _shape(self, name: str, block: int | None = None) -> tuple[int, ...]:
        return self.source.shape(self.recipe.layout.name(name, block))

    def _has(self, name: str, block: int | None = None) -> bool:
        return self.recipe.layout.name(name, block) in self.source


_TAUGHT = ("head", "head_dist")

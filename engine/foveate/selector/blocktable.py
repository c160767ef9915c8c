"""Time of one block by number of tokens: measured here, or read from another device's CSV.

This is SPViT's latency-sparsity table. For a phone or an FPGA, pass a CSV file with the columns
``tokens,ms``.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor

from foveate.errors import InputError
from foveate.inference.block_times import measure_blocks
from foveate.inference.runtime import Runtime
from foveate.model.vit import ViT

__all__ = ["BlockTable", "measure_block", "read_block_table"]

_ATTENTION_SHARE = 1 / 3  # of a block's products of matrices at MLP ratio 4: 4 C^2 of 12 C^2


@dataclass(frozen=True)
class BlockTable:
    """Milliseconds of one block for one batch, by the tokens of an image (CLS included)."""

    tokens: tuple[int, ...]  # ascending
    ms: tuple[float, ...]

    def at(self, tokens: float | Tensor) -> float | Tensor:
        """Linear between rows, constant beyond them; differentiable in a tensor."""
        points = list(zip(self.tokens, self.ms, strict=True))
        total: float | Tensor = self.ms[0]
        for (left, low), (right, high) in pairwise(points):
            slope = (high - low) / (right - left)
            inside = (
                tokens.clamp(left, right)
                if isinstance(tokens, Tensor)
                else min(max(tokens, left), right)
            )
            total = total + slope * (inside - left)
        return total

    def model_ms(
        self, counts: Mapping[int, float | Tensor], depth: int, patches: int
    ) -> float | Tensor:
        """All ``depth`` blocks when ``counts[block]`` patch tokens are left after that block's
        attention, of ``patches`` at first. Embedding, head and the selectors are not in it.

        A block whose count changes half way counts a third at the tokens before and two thirds at
        those after: its attention and its MLP.
        """
        total: float | Tensor = 0.0
        before: float | Tensor = 1.0 + patches
        for block in range(depth):
            after = 1.0 + counts[block] if block in counts else before
            total = total + _ATTENTION_SHARE * self.at(before)
            total = total + (1 - _ATTENTION_SHARE) * self.at(after)
            before = after
        return total


def measure_block(vit: ViT, batch: int, runtime: Runtime) -> BlockTable:
    """Mean over the blocks of ``vit``, on the device of ``runtime``."""
    times = measure_blocks(vit, batch, runtime, clock=runtime.clock)
    seconds = np.add(times.attention, times.mlp).mean(0)
    return BlockTable(tuple(times.tokens), tuple((1e3 * seconds).tolist()))


def read_block_table(path: Path, tokens: int) -> BlockTable:
    """Read a table of any device from CSV with the header ``tokens,ms``.

    Args:
        path: one row per count, ascending; ms of one block for one batch.
        tokens: the dense model's tokens, CLS included, which the table must cover.

    Raises :class:`InputError`, naming file, row and column.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot read the table: {error}") from error
    header = [cell.strip() for cell in rows[0]] if rows else []
    if header != ["tokens", "ms"]:
        raise InputError(f"{path}: row 1: header={','.join(header)!r}, expected 'tokens,ms'")
    counts: list[int] = []
    times: list[float] = []
    for number, row in enumerate(rows[1:], 2):
        if len(row) != 2:
            raise InputError(f"{path}: row {number}: {len(row)} columns, expected 2: tokens,ms")
        counts.append(int(_number(path, number, "tokens", row[0], whole=True)))
        times.append(_number(path, number, "ms", row[1], whole=False))
        if len(counts) > 1 and counts[-1] <= counts[-2]:
            raise InputError(
                f"{path}: row {number}: tokens={counts[-1]}: expected more than {counts[-2]}, "
                "as rows must ascend"
            )
    _check_range(path, counts, tokens)
    return BlockTable(tuple(counts), tuple(times))


def _number(path: Path, row: int, column: str, text: str, *, whole: bool) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        kind = "a whole number" if whole else "a number"
        raise InputError(f"{path}: row {row}: {column}={text!r}: expected {kind} above 0")
    return value


def _check_range(path: Path, counts: Sequence[int], tokens: int) -> None:
    if len(counts) < 2:
        raise InputError(f"{path}: {len(counts)} rows of tokens,ms: expected at least 2")
    if counts[-1] < tokens:
        raise InputError(
            f"{path}: row {len(counts) + 1}: tokens={counts[-1]}: the last row must reach the "
            f"model's {tokens}"
        )

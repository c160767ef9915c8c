"""The options of a training run, and what it measured before its first step.

Measured times vary a little, and so may the counts that fit a budget. They are stored, so that an
interrupted run resumes with the same ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from foveate.atomic_file import replacing
from foveate.errors import InputError
from foveate.selector.blocktable import BlockTable
from foveate.selector.checkpoint import check_same

__all__ = ["Problem", "load_or_pose"]


@dataclass(frozen=True)
class Problem:
    """The table of block times, and the ratios (block -> share) whose proportion counts have."""

    times: BlockTable
    shape: Mapping[int, float]


def load_or_pose(path: Path, asked: Mapping[str, Any], pose: Callable[[], Problem]) -> Problem:
    """The problem in ``path``; posed and written there if there is no such file.

    Raises :class:`InputError`, naming file and option, if it is damaged or was asked otherwise.
    """
    if not path.exists():
        problem = pose()
        shape = {str(block): ratio for block, ratio in problem.shape.items()}
        data = {"asked": asked, "times": asdict(problem.times), "shape": shape}
        text = json.dumps(data, indent=1)
        with replacing(path) as scratch:
            scratch.write_text(text + "\n")
        return problem
    try:
        data = json.loads(path.read_text())
        before: dict[str, Any] = data["asked"]
        times = BlockTable(tuple(data["times"]["tokens"]), tuple(data["times"]["ms"]))
        problem = Problem(times, {int(b): float(ratio) for b, ratio in data["shape"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot resume: {error!r}; start over with --restart") from error
    check_same(path, before, asked)
    return problem

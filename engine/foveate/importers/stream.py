"""Write a safetensors file tensor by tensor. The library's own writer needs all of them at once,
which would hold a large checkpoint in memory twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from foveate.errors import WeightsError
from foveate.images.folder import Progress

__all__ = ["write_safetensors"]

_ALIGNMENT = 64  # bytes; of the first tensor, and thereby of all whose sizes are multiples


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, Tensor]],
    metadata: Mapping[str, str],
    progress: Progress = lambda *_: None,
) -> None:
    """Write float32 ``tensors``, which are those of ``shapes`` in any order.

    ``progress`` is called with stage, tensors written and total tensors. Raises
    :class:`WeightsError` naming a tensor that is missing, unknown, of another shape or not finite.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    starts, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for edge in shape:
            size *= edge
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        starts[name] = end
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    left = dict(starts)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        data = file.tell()
        file.truncate(data + end)
        for name, tensor in tensors:
            if shapes.get(name) != tuple(tensor.shape):
                raise WeightsError(
                    f"{name}: shape {list(tensor.shape)}, expected {shapes.get(name)}"
                )
            if not tensor.isfinite().all():  # by a division by zero, or beyond the range of fp32
                raise WeightsError(f"{name}: the conversion gives NaN or infinity")
            file.seek(data + left.pop(name))
            tensor.detach().contiguous().numpy().tofile(file)
            progress("convert tensors", len(shapes) - len(left), len(shapes))
        file.flush()
        os.fsync(file.fileno())  # or a rename could come through without what was written
    if left:
        raise WeightsError(f"{path}: nothing to write for {', '.join(left)}")

"""The tensors of a checkpoint by name, read on demand and checked when read.

safetensors files and zipped pickles are memory-mapped, so that a checkpoint is in memory at most
once. Reading a pickle can run code, so we read only what ``torch.load(weights_only=True)`` accepts.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from foveate.errors import WeightsError

__all__ = ["Tensors", "open_tensors"]

_WRAPPERS = ("model", "state_dict")  # keys that training scripts put weights under


class Tensors:
    """Names and shapes at once, tensors on demand; remembers which were not asked for."""

    def __init__(
        self,
        where: str,
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[str], Tensor],
    ) -> None:
        self.where = where  # for messages
        self._shapes = shapes
        self._read = read
        self._left = dict.fromkeys(shapes)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises :class:`WeightsError` if there is no such tensor."""
        if name not in self._shapes:
            raise WeightsError(f"{self.where}: key {name!r} is missing{self._hint()}")
        return self._shapes[name]

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor, float32. ``shape`` is what it must have, if given.

        Raises :class:`WeightsError` naming the key, if it is missing, of another shape, no float or
        not finite.
        """
        own = self.shape(name)
        if shape and own != shape:
            raise WeightsError(f"{self.where}: {name}: shape {list(own)}, expected {list(shape)}")
        self._left.pop(name, None)
        tensor = self._read(name)
        if not tensor.is_floating_point():
            raise WeightsError(f"{self.where}: {name}: {tensor.dtype}, expected a float")
        tensor = tensor.float()
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"{self.where}: {name}: holds NaN or infinity")
        return tensor

    def ignore(self, *beginnings: str) -> None:
        """Tensors whose names begin so are not needed."""
        for name in [name for name in self._left if name.startswith(beginnings)]:
            del self._left[name]

    def finish(self) -> None:
        """Raise :class:`WeightsError` naming tensors that were not used."""
        if self._left:
            raise WeightsError(
                f"{self.where}: unexpected keys, so the model does not match its configuration: "
                f"{_few([*self._left])}"
            )

    def _hint(self) -> str:
        return f"; not used so far: {_few([*self._left])}" if self._left else ""


def open_tensors(files: Sequence[Path], stack: ExitStack) -> Tensors:
    """Tensors of all ``files``, which stay open as long as ``stack``.

    Raises :class:`WeightsError` naming the file if it cannot be read, or only as a pickle that
    could run code.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    readers: dict[str, Callable[[str], Tensor]] = {}
    for path in files:
        if path.suffix == ".safetensors":
            names, read = _open_safetensors(path, stack)
        else:
            names, read = _open_pickle(path)
        shapes |= names
        readers |= dict.fromkeys(names, read)
    where = str(files[0] if len(files) == 1 else files[0].parent)
    return Tensors(where, shapes, lambda name: readers[name](name))


_Opened = tuple[dict[str, tuple[int, ...]], Callable[[str], Tensor]]


def _open_safetensors(path: Path, stack: ExitStack) -> _Opened:
    try:
        file = stack.enter_context(safe_open(path, framework="pt"))
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot read weights: {error}") from error
    return shapes, file.get_tensor


def _open_pickle(path: Path) -> _Opened:
    try:
        data: Any = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path}: a pickle that holds more than weights, refused because reading it could run "
            "code. If you trust it, save its state dict as safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(f"{path}: cannot read weights: {error}") from error
    wrapper = next((key for key in _WRAPPERS if isinstance(_get(data, key), Mapping)), None)
    weights = data if wrapper is None else data[wrapper]
    if not isinstance(weights, Mapping) or not weights:
        raise WeightsError(f"{path}: {type(weights).__name__}, expected a state dict")
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            raise WeightsError(f"{path}: {name}: {type(value).__name__}, expected a tensor")
    return {name: tuple(t.shape) for name, t in weights.items()}, weights.__getitem__


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, Mapping) else None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

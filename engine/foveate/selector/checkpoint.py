"""Training state on disk, so that an interrupted run resumes bit-exactly."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from foveate.atomic_file import replacing
from foveate.errors import InputError

__all__ = ["check_same", "load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (tensors, numbers, strings, and dicts and lists of them) atomically."""
    with replacing(path) as scratch:
        torch.save(state, scratch)


def load_checkpoint(path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """State of a run with the same ``settings``; None if there is no file.

    Raises :class:`InputError`, naming file and setting, if it is damaged or of another run.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        before: dict[str, Any] = state["settings"]
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise InputError(f"{path}: cannot resume: {error!r}; start over with --restart") from error
    check_same(path, before, settings)
    return state


def check_same(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise :class:`InputError`, naming ``path`` and key, if its run had other settings."""
    for key, value in now.items():
        if before.get(key) != value:
            raise InputError(
                f"{path}: cannot resume: it was started with {key}={before.get(key)!r}, not "
                f"{key}={value!r}; start over with --restart"
            )

"""Where a checkpoint comes from: a file, a folder, or a repository of the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.errors import InputError, WeightsError

__all__ = ["HUB", "Source", "find_source"]

HUB = "hf-hub:"

_FILES = (".safetensors", ".bin", ".pth", ".pt")
_CONFIGS = ("*.json", "*.txt", "*.model")  # of tokenizers, too
_WHOLE = ("model.safetensors", "pytorch_model.bin")  # in the order of preference


@dataclass(frozen=True)
class Source:
    """Files of a checkpoint. Without a configuration, the names of its tensors must tell."""

    name: str  # as it was asked for
    weights: tuple[Path, ...]
    config: Mapping[str, Any] | None
    preprocessor: Mapping[str, Any] | None  # of transformers
    folder: Path | None  # of all its files, if it has one of its own


def find_source(text: str, config: Path | None = None) -> Source:
    """Files of ``text``: a path, or ``hf-hub:OWNER/NAME``, with ``@REVISION`` if wanted.

    ``config`` takes the place of the ``config.json`` beside the weights.

    Raises :class:`InputError` or :class:`WeightsError` naming what is missing.
    """
    if text.startswith(HUB):
        folder = _download(text)
    elif (path := Path(text)).is_dir():
        folder = path
    elif path.is_file():
        if path.suffix not in _FILES:
            raise InputError(f"{path}: expected a file ending in {', '.join(_FILES)}")
        beside = config or path.with_name("config.json")
        given = _read_json(beside) if beside.exists() or config else None
        processor = _preprocessor(path.parent)
        own = path.parent if given is not None and config is None else None
        return Source(text, (path,), given, processor, own)
    else:
        raise InputError(f"{text}: no such file or folder; name a hub model {HUB}OWNER/NAME")
    return Source(
        text,
        _weights(folder),
        _read_json(config or folder / "config.json"),
        _preprocessor(folder),
        folder,
    )


def _preprocessor(folder: Path) -> Mapping[str, Any] | None:
    """Of images: a file of its own or, of models of images and texts, a part of another."""
    if (path := folder / "preprocessor_config.json").exists():
        return _read_json(path)
    if (path := folder / "processor_config.json").exists():
        return _read_json(path).get("image_processor")
    return None


def _weights(folder: Path) -> tuple[Path, ...]:
    """The weights of a folder: one file, or the shards that an index names."""
    for name in _WHOLE:
        if (folder / name).exists():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.exists():
            shards = sorted({*_read_json(index)["weight_map"].values()})
            return tuple(folder / shard for shard in shards)
    raise WeightsError(f"{folder}: no weights; expected {' or '.join(_WHOLE)}, or their index")


def _download(text: str) -> Path:
    """The snapshot of a hub's repository in the local cache, fetched if it is not there."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise InputError(f"{text}: needs huggingface_hub; pip install 'foveate[import]'") from error
    name, _, revision = text.removeprefix(HUB).partition("@")
    try:
        for weights in ("model*.safetensors", "pytorch_model*.bin"):
            folder = Path(
                snapshot_download(
                    name, revision=revision or None, allow_patterns=[*_CONFIGS, weights]
                )
            )
            if [*folder.glob(weights)]:
                return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{text}: cannot fetch it from the hub: {reason}") from error
    raise WeightsError(f"{text}: no weights; expected model*.safetensors or pytorch_model*.bin")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise WeightsError(f"{path}: expected an object, found {type(data).__name__}")
    return data

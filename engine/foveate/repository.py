"""Is a model repository fit to be served? Asked before the server starts, which answers less well.

A *classifier* is a folder NAME whose configuration says ``backend: "foveate"`` and which is not the
``_decode`` step of another; its ladder, its weights and its labels must be usable.
"""

from __future__ import annotations

import re
from pathlib import Path

from foveate.errors import ServerError, WeightsError
from foveate.ladder import Ladder

__all__ = ["check_repository"]

_BACKEND = re.compile(r'^\s*backend\s*:\s*"foveate"', re.MULTILINE)
_LABELS = re.compile(r'\blabel_filename\s*:\s*"([^"]+)"')
_DECODE = "_decode"


def check_repository(repository: Path) -> tuple[str, ...]:
    """Names of the models Triton will run on the ``foveate`` backend, classifiers and decoders.

    Creates version folders that are missing because they hold no file. Raises the
    :class:`~foveate.errors.FoveateError` of the first file that cannot be used.
    """
    configs = {path.parent.name: path for path in sorted(repository.glob("*/config.pbtxt"))}
    texts = {name: path.read_text() for name, path in configs.items()}
    ours = tuple(name for name, text in texts.items() if _BACKEND.search(text))
    classifiers = [name for name in ours if name.removesuffix(_DECODE) not in set(ours) - {name}]
    if not classifiers:
        raise ServerError(f'{repository}: no folder with a config.pbtxt of backend: "foveate"')
    for name in classifiers:
        _check_ladder(repository / name / "1")
    for name, text in texts.items():
        for labels in _LABELS.findall(text):
            _check_labels(repository / name / labels)
        if not any(path.name.isdecimal() for path in (repository / name).iterdir()):
            _make_version(repository / name / "1")
    return ours


def _check_ladder(folder: Path) -> None:
    levels = Ladder.load(folder / "ladder.json").levels
    files = {level.weights for level in levels}
    files |= {level.vocabulary for level in levels if level.vocabulary is not None}
    for file in sorted(files):
        _check_weights(folder / file)


def _check_weights(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            if not file.keys():
                raise WeightsError(f"{path}: holds no tensor")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: {error}") from error


def _check_labels(path: Path) -> None:
    try:
        if not path.read_text().strip():
            raise ServerError(f"{path}: label_filename names an empty file")
    except (OSError, UnicodeDecodeError) as error:
        raise ServerError(f"{path}: label_filename names it: {error}") from error


def _make_version(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise ServerError(f"{folder}: Triton needs this folder, even empty: {error}") from error

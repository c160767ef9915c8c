"""Check a model repository before the server starts, with clearer errors than the server's.

Every model on the ``foveate`` backend must name its component; the ladder, the weights and the
labels of a classifier must be usable. The ``control`` models, which let remote adapters in, are not
part of a repository: they are generated in another folder for a server started with ``--control``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from foveate.atomic_file import replacing
from foveate.errors import ServerError, WeightsError
from foveate.levels.ladder import Ladder
from foveate.settings import ModelSettings, Precision

__all__ = [
    "CONTROL_SUFFIX",
    "MAX_BATCH",
    "SUFFIXES",
    "check_repository",
    "choose_model",
    "classifiers",
    "device_of",
    "gpus_named",
    "model_names",
    "precision_of",
    "read_max_batch",
    "set_max_batch",
    "write_control_models",
]

SUFFIXES = ("", "_decode", "_pixels", "_classify", "_explain")  # of the models of an entry
CONTROL_SUFFIX = "_control"
MAX_BATCH = 16  # images, until a calibration chooses

_BACKEND = re.compile(r'^\s*backend\s*:\s*"foveate"', re.MULTILINE)
_LABELS = re.compile(r'\blabel_filename\s*:\s*"([^"]+)"')
_STEP = re.compile(r'\bmodel_name\s*:\s*"([^"]+)"')
_COMPONENT = re.compile(
    r'"component"[\s,]*value\s*:?\s*\{\s*string_value\s*:\s*"(classify|decode|control)"'
)
_PRECISION = re.compile(r'"precision"[\s,]*value\s*:?\s*\{\s*string_value\s*:\s*"([^"]*)"')
_COMMENT = re.compile(r"#.*")
_GPUS = re.compile(r"\bgpus[\s:]*\[?([\d,\s]+)")
_MAX_BATCH = re.compile(rb"^[ \t]*max_batch_size[ \t]*:[ \t]*(\d+)\b", re.MULTILINE)
_CONTROL = """\
# POLICY: a message as JSON, or nothing to ask for the number of the last one. MAC: its seal.
backend: "foveate"
max_batch_size: 0
input [
  { name: "POLICY" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "MAC" data_type: TYPE_STRING dims: [ 1 ] }
]
output [
  { name: "SEQUENCE" data_type: TYPE_INT64 dims: [ 1 ] },
  { name: "LATENCY" data_type: TYPE_STRING dims: [ 1 ] }
]
instance_group [ { kind: KIND_CPU count: 1 } ]
parameters { key: "component" value { string_value: "control" } }
"""


def check_repository(repository: Path) -> tuple[str, ...]:
    """Names of the models Triton will run on the ``foveate`` backend.

    Creates missing version folders of models without files. Raises the
    :class:`~foveate.errors.FoveateError` of the first file that cannot be used.
    """
    _check_complete(repository)
    components = _components(repository)
    for name in _classifiers(repository, components):
        _check_ladder(repository / name / "1")
    for config in sorted(repository.glob("*/config.pbtxt")):
        for labels in _LABELS.findall(config.read_text()):
            _check_labels(config.with_name(labels))
        if not any(path.name.isdecimal() for path in config.parent.iterdir()):
            _make_version(config.with_name("1"))
    return tuple(components)


def model_names(repository: Path) -> tuple[str, ...]:
    """Names of the models Triton will run on the ``foveate`` backend, unchecked.

    Raises :class:`ServerError` if there is no classifier among them.
    """
    components = _components(repository)
    _classifiers(repository, components)
    return tuple(components)


def write_control_models(repository: Path, folder: Path) -> tuple[str, ...]:
    """Make ``folder`` a repository with a ``NAME_control`` for each classifier; return the names.

    Raises :class:`ServerError` if it cannot be written.
    """
    names = classifiers(repository)
    controls = tuple(f"{name}{CONTROL_SUFFIX}" for name in names)
    for name in controls:
        try:
            (folder / name / "1").mkdir(parents=True, exist_ok=True)
            (folder / name / "config.pbtxt").write_text(_CONTROL)
        except OSError as error:
            raise ServerError(f"{folder}: cannot write the control models: {error}") from error
    return controls


def classifiers(repository: Path) -> list[str]:
    """Names of the classifiers. Raises :class:`ServerError` if there is none."""
    return _classifiers(repository, _components(repository))


def choose_model(repository: Path, name: str | None) -> str:
    """``name``, or the only classifier. Raises :class:`ServerError` listing the classifiers."""
    models = classifiers(repository)
    if name is None and len(models) == 1:
        return models[0]
    if name in models:
        return name
    problem = "several models" if name is None else f"no model {name!r}"
    raise ServerError(f"{repository}: {problem}; choose one of {', '.join(models)}")


def precision_of(repository: Path, name: str, given: str | None = None) -> Precision:
    """What the products of a model are asked to be computed in: ``given``, else what its
    ``config.pbtxt`` states, else ``FOVEATE_PRECISION``.

    Raises :class:`~foveate.errors.FoveateError` naming key and value.
    """
    text = _COMMENT.sub("", (repository / name / "config.pbtxt").read_text())
    stated = _PRECISION.search(text)
    own = given or (stated and stated[1])
    variables = {"FOVEATE_RUN_DIR": "/"}
    if (variable := os.environ.get("FOVEATE_PRECISION")) is not None:
        variables["FOVEATE_PRECISION"] = variable
    return ModelSettings.read(variables, precision=own).precision


def device_of(repository: Path, name: str, given: str | None = None) -> str:
    """What a model runs on: ``given``, else the GPU its ``config.pbtxt`` names, else ``cpu``."""
    numbers = gpus_named(repository).get(name)
    served = "cpu" if numbers is None else f"cuda:{numbers[0] if numbers else 0}"
    return given or served


def gpus_named(repository: Path) -> dict[str, tuple[int, ...]]:
    """Numbers of the GPUs that models on our backend are to run on, by model; those on the CPU are
    left out. Triton would take every GPU it sees for a model that names none: (), here.
    """
    gpus = {}
    for name in _components(repository):
        text = _COMMENT.sub("", (repository / name / "config.pbtxt").read_text())
        if "KIND_GPU" in text:
            numbers = " ".join(_GPUS.findall(text)).replace(",", " ").split()
            gpus[name] = tuple(map(int, numbers))
    return gpus


def read_max_batch(repository: Path, name: str) -> int:
    """Largest batch of a model. Raises :class:`ServerError` as :func:`set_max_batch` does."""
    return int(next(iter(_max_batches(repository, name).values()))[1])


def set_max_batch(repository: Path, name: str, images: int) -> None:
    """Set ``max_batch_size`` of a model and of those around it; every other byte stays.

    Raises :class:`ServerError` before anything is written if one of them does not state it on
    exactly one line of its own, and if one cannot be written.
    """
    for config, line in _max_batches(repository, name).items():
        text = line.string[: line.start(1)] + b"%d" % images + line.string[line.end(1) :]
        if text != line.string:
            try:
                with replacing(config) as scratch:
                    scratch.write_bytes(text)
            except OSError as error:
                raise ServerError(f"{config}: cannot write max_batch_size: {error}") from error


def _max_batches(repository: Path, name: str) -> dict[Path, re.Match[bytes]]:
    """Where each ``config.pbtxt`` of an entry states ``max_batch_size``, the classifier first."""
    lines = {}
    for suffix in SUFFIXES:
        config = repository / f"{name}{suffix}" / "config.pbtxt"
        if suffix and not config.exists():
            continue
        found = [*_MAX_BATCH.finditer(config.read_bytes())]
        if len(found) != 1:
            raise ServerError(
                f'{config}: {len(found)} lines "max_batch_size: N"; expected exactly one'
            )
        lines[config] = found[0]
    return lines


def _components(repository: Path) -> dict[str, str]:
    """Component of every model on our backend, by model name."""
    components = {}
    for config in sorted(repository.glob("*/config.pbtxt")):
        text = config.read_text()
        if not _BACKEND.search(text):
            continue
        match = _COMPONENT.search(text)
        if match is None:
            raise ServerError(
                f'{config}: parameter "component" must be "classify", "decode" or "control"'
            )
        components[config.parent.name] = match[1]
    return components


def _classifiers(repository: Path, components: Mapping[str, str]) -> list[str]:
    models = [name for name, component in components.items() if component == "classify"]
    if not models:
        raise ServerError(f'{repository}: no model with backend: "foveate", component: "classify"')
    return models


def _check_complete(repository: Path) -> None:
    """Raise :class:`ServerError` naming leftovers of an interrupted import."""
    for folder in sorted(path for path in repository.glob(".*") if path.is_dir()):
        raise ServerError(
            f"{folder}: Triton would take this folder for a model. Wait if an import is running; "
            "delete it if an import was interrupted"
        )
    for config in sorted(repository.glob("*/config.pbtxt")):
        for model in _STEP.findall(config.read_text()):
            if not (repository / model).is_dir():
                raise ServerError(
                    f"{config}: its model {model!r} is missing; delete {config.parent} if an "
                    "import was interrupted"
                )


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
        raise ServerError(f"{path}: label_filename cannot be read: {error}") from error


def _make_version(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise ServerError(f"{folder}: Triton needs this folder, even empty: {error}") from error

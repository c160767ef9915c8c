"""An entry of a model repository: five folders, added completely or not at all.

They are built in a folder next to the repository, where no server looks, and renamed into it at the
end, the classifier last. A failure between two renames is rolled back. A kill at that moment leaves
ensembles without their classifier, which :func:`foveate.repository.check_repository` reports.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from foveate.errors import InputError
from foveate.images.preprocess import Preprocess
from foveate.levels.ladder import Ladder, Level, Quality
from foveate.levels.schedule import Schedule
from foveate.model.vit import ViTConfig
from foveate.repository import MAX_BATCH, SUFFIXES, set_max_batch

__all__ = ["Entry", "Placement", "check_name", "new_entry"]

WEIGHTS = "model.safetensors"

# Whatever waits when an instance is free is a batch: nothing waits for more to come.
_WAITING = """\
# No queue policy: on servers before 26.08 any policy starves the batcher.
dynamic_batching { }
"""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What an entry runs on, and in which batches."""

    gpu: int | None = None  # number of the GPU; None: the CPU
    max_batch: int = MAX_BATCH  # images
    decoders: int = 1  # processes that decode files

    def __post_init__(self) -> None:
        """Raises :class:`InputError` naming key and value."""
        limits = {
            "gpu": (self.gpu is None or self.gpu >= 0, "0 or more"),
            "max_batch": (1 <= self.max_batch <= 128, "1..128"),
            "decoders": (1 <= self.decoders <= 256, "1..256"),
        }
        for key, (right, expected) in limits.items():
            if not right:
                raise InputError(f"{key}={getattr(self, key)}: expected {expected}")


def check_name(repository: Path, name: str) -> None:
    """Raise :class:`InputError` if an entry cannot be called ``name``, or one already is."""
    if not name.replace("_", "").replace("-", "").isalnum() or name.startswith("-"):
        raise InputError(f"name={name!r}: expected letters, digits, - and _")
    for suffix in (*SUFFIXES[1:], "_control"):
        if name.endswith(suffix):
            raise InputError(f"name={name!r}: the ending {suffix!r} is reserved")
    for suffix in SUFFIXES:
        if (path := repository / f"{name}{suffix}").exists():
            raise InputError(f"name={name!r}: already taken by {path}")


class Entry:
    """The folders while they are being made."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        for suffix in SUFFIXES:
            (folder / f"{name}{suffix}" / "1").mkdir(parents=True)

    @property
    def version(self) -> Path:
        """Where weights and ladder go."""
        return self._folder / self._name / "1"

    def describe(
        self,
        config: ViTConfig,
        labels: Sequence[str],
        preprocess: Preprocess,
        facts: Mapping[str, str],
        placement: Placement = Placement(),
    ) -> None:
        """Write configurations, labels, and a ladder of level 0 alone.

        ``facts`` are stated as parameters of the classifier, for whoever sends pixels; the largest
        batch of ``placement`` is stated by all five.

        Raises :class:`InputError` naming a label that is not a line.
        """
        name = self._name
        for label in labels:
            if "".join(label.splitlines()) != label:
                raise InputError(f"labels: {label!r}: expected no line break")
        (self._folder / name / "labels.txt").write_text("".join(f"{x}\n" for x in labels))
        _ladder(name, config).save(self.version / "ladder.json")
        texts = _configs(name, config, preprocess, facts, placement)
        for suffix, text in texts.items():
            (self._folder / f"{name}{suffix}" / "config.pbtxt").write_text(text)
        set_max_batch(self._folder, name, placement.max_batch)

    def move_to(self, repository: Path) -> None:
        check_name(repository, self._name)
        moved: list[str] = []
        try:
            for suffix in reversed(SUFFIXES):
                folder = f"{self._name}{suffix}"
                (self._folder / folder).rename(repository / folder)
                moved.append(folder)
        except BaseException:
            for folder in moved:
                (repository / folder).rename(self._folder / folder)
            raise


@contextmanager
def new_entry(repository: Path, name: str) -> Iterator[Entry]:
    """Folders that are moved into the repository if all goes well, and removed otherwise.

    Raises :class:`InputError` as :func:`check_name` does, and if nothing can be written.
    """
    repository = repository.resolve()
    check_name(repository, name)
    try:
        repository.mkdir(parents=True, exist_ok=True)
        scratch = _scratch(repository, name)
    except OSError as error:
        raise InputError(f"{repository}: cannot write: {error}") from error
    try:
        entry = Entry(scratch, name)
        yield entry
        try:
            entry.move_to(repository)
        except OSError as error:
            raise InputError(f"{repository}: cannot write: {error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _scratch(repository: Path, name: str) -> Path:
    """A folder from which files can be renamed into the repository.

    Next to it, because a starting server looks into every folder inside, hidden or not; but inside
    if the repository is a separate file system, such as a container volume.
    """
    prefix = f".{repository.name}-{name}-"
    try:
        scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=repository.parent))
    except OSError:
        return Path(tempfile.mkdtemp(prefix=prefix, dir=repository))
    probe = repository / f"{scratch.name}.probe"
    try:
        (scratch / "probe").touch()
        (scratch / "probe").rename(probe)
        probe.unlink()
    except OSError:
        shutil.rmtree(scratch)
        return Path(tempfile.mkdtemp(prefix=prefix, dir=repository))
    return scratch


def _ladder(name: str, config: ViTConfig) -> Ladder:
    schedule = Schedule()
    dense = Level(
        name="dense",
        reducers=(),
        weights=WEIGHTS,
        vocabulary=None,
        tokens=tuple(schedule.tokens(config)[1]),
        macs=schedule.macs(config),
        quality=Quality(top1=None, agreement=1.0, n=0),  # it agrees with itself: nothing measured
    )
    size = config.height, config.width
    return Ladder(model=name, image_size=size, tokens=config.tokens, levels=(dense,))


def _configs(
    name: str,
    config: ViTConfig,
    preprocess: Preprocess,
    facts: Mapping[str, str],
    placement: Placement,
) -> dict[str, str]:
    """The text of each ``config.pbtxt``, by suffix."""
    size = f"{config.height}, {config.width}, 3"
    image = 'name: "IMAGE" data_type: TYPE_STRING dims: [ 1 ]'
    pixels = f'name: "PIXELS" data_type: TYPE_UINT8 format: FORMAT_NHWC dims: [ {size} ]'
    scores = f'name: "SCORES" data_type: TYPE_FP32 dims: [ {config.classes} ]'
    level = 'name: "LEVEL" data_type: TYPE_INT32 dims: [ 1 ]'
    token_map = f'name: "TOKEN_MAP" data_type: TYPE_INT16 dims: [ {config.patches} ]'
    labelled = f'{scores} label_filename: "labels.txt"'
    decode = _step(f"{name}_decode", {"IMAGE": "IMAGE"}, {"PIXELS": "pixels"})

    def classify(source: str, *outputs: str) -> str:
        return _step(name, {"PIXELS": source}, {output: output for output in outputs})

    return {
        "": _runs(
            "classify",
            [pixels],
            [labelled, level, token_map],
            _WAITING + _classifies_on(placement.gpu),
            facts,
        ),
        "_decode": _runs(
            "decode",
            [image],
            [f'name: "PIXELS" data_type: TYPE_UINT8 dims: [ {size} ]'],
            _decodes_in(placement.decoders),
            preprocess.parameters,
        ),
        "_pixels": _joins([pixels], [scores], [classify("PIXELS", "SCORES")]),
        "_classify": _joins(
            [image], [scores, level], [decode, classify("pixels", "SCORES", "LEVEL")]
        ),
        "_explain": _joins(
            [image],
            [scores, level, token_map],
            [decode, classify("pixels", "SCORES", "LEVEL", "TOKEN_MAP")],
        ),
    }


def _classifies_on(gpu: int | None) -> str:
    if gpu is None:
        return "instance_group [ { kind: KIND_CPU count: 1 } ]\n"
    return f"instance_group [ {{ kind: KIND_GPU count: 1 gpus: [ {gpu} ] }} ]\n"


def _decodes_in(processes: int) -> str:
    group = f"instance_group [ {{ kind: KIND_CPU count: {processes} }} ]\n"
    if processes == 1:
        return _WAITING + group
    return (
        "# No batches: files that one process takes at once would wait, others be idle.\n" + group
    )


def _runs(
    component: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    scheduling: str,
    parameters: Mapping[str, str],
) -> str:
    """Of a model that our backend runs."""
    stated = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{_escape(value)}" }} }}\n'
        for key, value in {"component": component, **parameters}.items()
    )
    return f'backend: "foveate"\n{_interface(inputs, outputs)}{scheduling}{stated}'


def _escape(text: str) -> str:
    """For the text format of protocol buffers, on one line."""
    text = "".join(c if c.isprintable() else "_" for c in text)
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _joins(inputs: Sequence[str], outputs: Sequence[str], steps: Sequence[str]) -> str:
    """Of an ensemble."""
    joined = ",\n".join(steps)
    return (
        f'platform: "ensemble"\n{_interface(inputs, outputs)}'
        f"ensemble_scheduling {{\n  step [\n{joined}\n  ]\n}}\n"
    )


def _interface(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    text = f"max_batch_size: {MAX_BATCH}\n"
    for kind, tensors in (("input", inputs), ("output", outputs)):
        lines = ",\n".join(f"  {{ {tensor} }}" for tensor in tensors)
        text += f"{kind} [\n{lines}\n]\n"
    return text


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> str:
    maps = "".join(
        f'      {kind}_map {{ key: "{key}" value: "{value}" }}\n'
        for kind, pairs in (("input", inputs), ("output", outputs))
        for key, value in pairs.items()
    )
    return f'    {{\n      model_name: "{model}"\n      model_version: -1\n{maps}    }}'

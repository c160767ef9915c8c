"""``max_batch_size`` of an entry is one number in up to five files that people also edit; GPUs are
named, and precisions stated, in one of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.errors import FoveateError, ServerError
from foveate.repository import (
    SUFFIXES,
    device_of,
    gpus_named,
    precision_of,
    read_max_batch,
    set_max_batch,
)

CLASSIFIER = b"""\
# max_batch_size: 4 was too few \xe9\r
backend: "foveate"\r
  max_batch_size :8  # images\r
dynamic_batching { max_queue_delay_microseconds: 100 }"""


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Its ``config.pbtxt``; the four models around it have ``max_batch_size: 8``."""
    for suffix in SUFFIXES:
        (tmp_path / f"own{suffix}").mkdir()
        (tmp_path / f"own{suffix}" / "config.pbtxt").write_bytes(b"max_batch_size: 8\n")
    config = tmp_path / "own" / "config.pbtxt"
    config.write_bytes(CLASSIFIER)
    return config


def test_it_is_set_in_all_five_and_nothing_else_changes(tmp_path: Path, classifier: Path) -> None:
    assert read_max_batch(tmp_path, "own") == 8
    set_max_batch(tmp_path, "own", 128)
    assert read_max_batch(tmp_path, "own") == 128
    assert classifier.read_bytes() == CLASSIFIER.replace(b":8", b":128")
    for suffix in SUFFIXES[1:]:
        config = tmp_path / f"own{suffix}" / "config.pbtxt"
        assert config.read_bytes() == b"max_batch_size: 128\n"


def test_a_model_without_others_around_it_will_do(tmp_path: Path, classifier: Path) -> None:
    classifier.parent.rename(tmp_path / "alone")
    set_max_batch(tmp_path, "alone", 2)
    assert read_max_batch(tmp_path, "alone") == 2


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", 0),
        ("# max_batch_size: 8\n", 0),
        ("max_batch_size: -8\n", 0),
        ('name: "own" max_batch_size: 8\n', 0),
        ("max_batch_size: 8\nmax_batch_size: 8\n", 2),
    ],
)
def test_what_is_not_one_line_is_refused_and_nothing_is_written(
    tmp_path: Path, classifier: Path, text: str, lines: int
) -> None:
    config = tmp_path / "own_explain" / "config.pbtxt"
    config.write_text(text)
    with pytest.raises(ServerError, match=f"own_explain/config.pbtxt: {lines} lines"):
        set_max_batch(tmp_path, "own", 16)
    assert config.read_text() == text
    assert classifier.read_bytes() == CLASSIFIER


@pytest.mark.parametrize(
    ("group", "found", "device"),
    [
        ("instance_group [ { kind: KIND_CPU count: 1 } ]  # not KIND_GPU gpus: [ 1 ]", {}, "cpu"),
        ("instance_group [ { kind: KIND_GPU count: 1 gpus: [ 2 ] } ]", {"own": (2,)}, "cuda:2"),
        ("instance_group {\n kind : KIND_GPU\n gpus : 0\n}", {"own": (0,)}, "cuda:0"),
        ("instance_group [ { kind: KIND_GPU gpus: [ 0, 1 ] } ]", {"own": (0, 1)}, "cuda:0"),
        ("instance_group [ { kind: KIND_GPU } ]", {"own": ()}, "cuda:0"),
    ],
)
def test_gpus_are_read_from_the_instance_group(
    tmp_path: Path, group: str, found: dict[str, tuple[int, ...]], device: str
) -> None:
    (tmp_path / "own").mkdir()
    component = 'parameters { key: "component" value { string_value: "classify" } }'
    text = f'backend: "foveate"\n{group}\n{component}\n'
    (tmp_path / "own" / "config.pbtxt").write_text(text)
    assert gpus_named(tmp_path) == found
    assert device_of(tmp_path, "own") == device
    assert device_of(tmp_path, "own", "cuda:7") == "cuda:7"


def test_a_precision_is_the_given_one_or_the_models_own_or_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "own" / "config.pbtxt"
    config.parent.mkdir()
    config.write_text('# parameters { key: "precision" value { string_value: "fp16" } }\n')
    monkeypatch.delenv("FOVEATE_PRECISION", raising=False)
    monkeypatch.setenv("FOVEATE_THREADS", "9999")  # none of its business
    assert precision_of(tmp_path, "own") == "auto"
    monkeypatch.setenv("FOVEATE_PRECISION", "bf16")
    assert precision_of(tmp_path, "own") == "bf16"
    config.write_text('parameters: { key: "precision", value: { string_value: "fp32" } }\n')
    assert precision_of(tmp_path, "own") == "fp32"
    assert precision_of(tmp_path, "own", "auto") == "auto"


def test_a_precision_that_there_is_not_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "own" / "config.pbtxt"
    config.parent.mkdir()
    config.write_text("")
    monkeypatch.setenv("FOVEATE_PRECISION", "half")
    with pytest.raises(FoveateError, match="FOVEATE_PRECISION='half'"):
        precision_of(tmp_path, "own")
    config.write_text('parameters { key: "precision" value { string_value: "int4" } }\n')
    with pytest.raises(FoveateError, match="parameter precision='int4'"):
        precision_of(tmp_path, "own")

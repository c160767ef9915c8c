"""A classifier with two batches under way: what each is told, and what is learnt of it.

Its GPU is emulated: passes take time and answer the first byte of an image.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import foveate.backend.classifier as module
from foveate.backend.classifier import Answer, Classifier, Failure, Request
from foveate.backend.telemetry import Telemetry
from foveate.control.governor import PLAIN, Observation, Wish
from foveate.inference.engine import Engine
from foveate.inference.prepared import PreparedLadder
from foveate.settings import ModelSettings
from foveate_benchmarks.gpu.entry import write_entry
from foveate_benchmarks.serving.emulated_gpu import EmulatedEngine
from foveate_benchmarks.serving.gpu_host_path import NAME, SHAPE

PASS_S = 0.02


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedLadder:
    repository = tmp_path_factory.mktemp("classifier") / "models"
    repository.mkdir()
    write_entry(repository, NAME, SHAPE, 64)
    return PreparedLadder.load(repository / NAME / "1")


class Metric:
    def __init__(self, values: Counter[str], name: str) -> None:
        self._values, self._name = values, name

    def increment(self, value: float) -> None:
        self._values[self._name] += value

    def set(self, value: float) -> None:
        self._values[self._name] = value


@pytest.fixture
def values() -> Counter[str]:
    """Metrics by name, their series added up."""
    return Counter()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Observation]:
    """What the governor is shown."""
    decide, shown = module.governor.decide, []

    def watched(config: Any, state: Any, observation: Observation) -> Any:
        shown.append(observation)
        return decide(config, state, observation)

    monkeypatch.setattr(module.governor, "decide", watched)
    return shown


@pytest.fixture
def classifier(
    prepared: PreparedLadder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: Counter[str],
) -> Iterator[Classifier]:
    def start(folder: Path, max_batch: int, **_: Any) -> Engine:
        return EmulatedEngine(prepared, max_batch, lambda level, size: PASS_S, looks=True)

    def create(name: str, labels: Mapping[str, str]) -> Metric:
        return Metric(values, name)

    monkeypatch.setattr(module, "start_engine", start)
    settings = ModelSettings(run_dir=tmp_path, state_dir=tmp_path / "state", slo_ms=60_000)
    telemetry = Telemetry(create, NAME, f"{NAME}_0", period_s=0.01)
    own = Classifier(NAME, tmp_path, 4, settings, telemetry, torch.device("cpu"))
    yield own
    with contextlib.suppress(AttributeError):  # closed before
        own.close()


def request(*first: int, wish: Wish = PLAIN) -> Request:
    pixels = torch.zeros(len(first), SHAPE.config.height, SHAPE.config.width, 3, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.tensor(first, dtype=torch.uint8)
    return Request(pixels, wish)


def classes(outcome: Any) -> list[int]:
    assert isinstance(outcome, Answer)
    return outcome.scores.argmax(1).tolist()


def test_a_batch_begins_for_the_governor_when_the_one_before_is_expected_to_end(
    classifier: Classifier, seen: list[Observation], values: Counter[str]
) -> None:
    first = classifier.launch([request(1, 2, wish=Wish(images=2))])
    second = classifier.launch([request(3), request(4)])
    assert seen[0].begins_ns is None
    assert seen[1].begins_ns - seen[0].now_ns >= 0.9e9 * PASS_S
    assert classes(first()[0]) == [1, 2]
    assert [classes(outcome) for outcome in second()] == [[3], [4]]
    third = classifier.launch([request(5)])
    assert classes(third()[0]) == [5]
    classifier.close()
    assert values["foveate_batches_total"] == 3
    assert values["foveate_answers_total"] == 4
    # Each batch counts for the time it had the GPU to itself, so the sum is that of three passes.
    assert values["foveate_batch_seconds_total"] >= 2.9 * PASS_S
    assert values["foveate_failures_total"] == 0


def test_what_was_expected_wrongly_does_not_add_up(
    classifier: Classifier, seen: list[Observation]
) -> None:
    waits = deque([classifier.launch([request(0)])])
    for number in range(1, 12):
        classifier._state = classifier._state._replace(correction=3.0)  # passes take a third of it
        waits.append(classifier.launch([request(number)]))
        observation = seen[-1]
        ahead_s = (observation.begins_ns - observation.now_ns) / 1e9
        assert 0 < ahead_s < 3.5 * PASS_S  # that of the one batch under way
        assert classes(waits.popleft()()[0]) == [number - 1]
    waits.popleft()()
    moments = [observation.now_ns for observation in seen]
    assert moments == sorted(moments)


def test_scores_that_are_no_numbers_fail_their_request_alone(
    classifier: Classifier, values: Counter[str]
) -> None:
    good, bad = classifier.answer([request(1), request(2, 255, wish=Wish(images=2))])
    assert classes(good) == [1]
    assert bad == Failure("scores are not finite")
    classifier.close()
    assert values["foveate_failures_total"] == 1
    assert values["foveate_answers_total"] == 1


def test_a_batch_that_fails_counts_and_leaves_the_others(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch, values: Counter[str]
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("an illegal memory access was encountered")

    first = classifier.launch([request(1)])
    with monkeypatch.context() as patch:
        patch.setattr(classifier._engine, "launch", broken)
        with pytest.raises(RuntimeError, match="illegal"):
            classifier.launch([request(2), request(3)])
    second = classifier.launch([request(4)])
    assert classes(first()[0]) == [1]
    assert classes(second()[0]) == [4]
    classifier.close()
    assert values["foveate_failures_total"] == 2
    assert values["foveate_answers_total"] == 2

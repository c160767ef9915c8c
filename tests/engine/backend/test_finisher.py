"""The thread that answers batches while the next ones begin."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest

from foveate.backend.finisher import Finisher


class Images:
    """Stands for the memory of a request."""


@pytest.fixture
def finisher() -> Iterator[Finisher]:
    own = Finisher()
    yield own
    own.close()


def test_a_step_that_fails_costs_no_later_one(finisher: Finisher) -> None:
    done = []
    for step in (lambda: done.append(1), lambda: 1 / 0, lambda: done.append(2)):
        finisher.add(step)
    finisher.drain()
    assert done == [1, 2]


def test_nothing_of_a_finished_batch_is_held(finisher: Finisher) -> None:
    images = Images()
    held = weakref.ref(images)

    def step(own: Images = images) -> None:
        assert isinstance(own, Images)

    finisher.add(step)
    del images, step
    finisher.drain()
    assert held() is None


def test_what_was_added_is_finished_before_the_end() -> None:
    finisher, done = Finisher(), []
    for number in range(3):
        finisher.add(lambda number=number: done.append(number))
    finisher.close()
    assert done == [0, 1, 2]

"""Choosing levels from measured times and scores."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from foveate.calibration.front import climb, front

points = st.lists(st.tuples(st.floats(0.1, 10), st.floats(0, 1)), min_size=1, max_size=20)


@given(points)
def test_every_point_is_on_the_front_or_dominated_by_one_of_it(
    points: list[tuple[float, float]],
) -> None:
    seconds, scores = [p[0] for p in points], [p[1] for p in points]
    best = front(seconds, scores)
    for a, b in pairwise(best):
        assert seconds[a] < seconds[b]
        assert scores[a] < scores[b]
    for i in set(range(len(points))) - set(best):
        assert any(seconds[k] <= seconds[i] and scores[k] >= scores[i] for k in best)


def test_climb_keeps_the_fastest_allowed_and_steps_from_there() -> None:
    seconds = [10.0, 9.9, 5.0, 6.0, 4.5, 2.0, 1.0]
    scores = [0.97, 0.97, 0.97, 0.96, 0.965, 0.95, 0.80]
    losses = [0.97 - score for score in scores]
    assert climb(seconds, scores, losses, max_loss=0.025, step=1.25) == [0, 4, 5]


@given(points, st.data())
def test_a_ladder_gets_cheaper_and_never_loses_more_than_allowed(
    points: list[tuple[float, float]], data: st.DataObject
) -> None:
    seconds, scores = [p[0] for p in points], [p[1] for p in points]
    share = st.floats(0, 1)
    losses = data.draw(st.lists(share, min_size=len(points), max_size=len(points)))
    ladder = climb(seconds, scores, losses, max_loss=0.1, step=1.25)
    assert ladder[0] == 0
    for dearer, cheaper in pairwise(ladder):
        assert seconds[cheaper] * 1.25 <= seconds[dearer]
    allowed = [i for i in range(1, len(points)) if losses[i] <= 0.1]
    for level in ladder[1:]:
        assert level in allowed
        assert not any(seconds[i] < seconds[level] and scores[i] >= scores[level] for i in allowed)
    if any(seconds[i] * 1.25 <= seconds[0] for i in allowed):
        assert seconds[ladder[-1]] == min(seconds[i] for i in allowed)

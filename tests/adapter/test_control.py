"""The control law, one decision at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.levels.latency_table import LatencyTable
from foveate_adapter.control import Config, Decision, Reason, State, decide
from foveate_adapter.observe import Observation

TABLE = LatencyTable(
    device="cpu",
    ladder="",
    batches=(1, 8),
    # Level 2 is slower than level 1 on this device: not worth serving.
    seconds=((0.0077, 0.0482), (0.0057, 0.0259), (0.006, 0.027), (0.0044, 0.0145), (0.004, 0.0122)),
)
CONFIG = Config(slo_s=0.2, objective=0.99, table=TABLE, floor=4)


def tick(at: float, *, load: float = 0.0, **seen: object) -> Observation:
    """A twentieth of a second at ``load`` requests per second, all answered in time."""
    facts: dict[str, object] = {
        "queue_depth": 0,
        "arrivals": load / 20,
        "answers": {0: load / 20},
        "missed": 0.0,
        "rejected": 0.0,
    }
    return Observation(at=at, interval_s=0.05, **{**facts, **seen})  # type: ignore[arg-type]


def run(config: Config, *observations: Observation, state: State | None = None) -> list[Decision]:
    decisions = []
    state = state or State()
    for observation in observations:
        state, decision = decide(config, state, observation)
        decisions.append(decision)
    return decisions


def ticks(seconds: float, start: float = 0.0, **seen: object) -> list[Observation]:
    return [tick(start + i / 20, **seen) for i in range(round(seconds * 20))]  # type: ignore[arg-type]


def test_a_calm_server_is_left_alone():
    decisions = run(CONFIG, *ticks(4, load=50))
    assert {(d.dearest, d.cheapest) for d in decisions} == {(0, 4)}
    assert {d.reason for d in decisions} == {Reason.HOLD, Reason.RECOVERING}
    assert decisions[-1].margin == CONFIG.max_margin


@pytest.mark.parametrize(
    ("load", "dearest"),
    [(140, 0), (250, 0), (520, 1), (600, 3), (1000, 3)],
    ids=["level 0 fits", "1 fits", "3 fits, 2 is masked", "4 fits", "none fits"],
)
def test_the_range_starts_one_level_dearer_than_the_load_needs(load, dearest):
    assert run(CONFIG, *ticks(1, load=load))[-1].dearest == dearest


def test_a_request_may_hold_many_images():
    assert run(CONFIG, *ticks(2, load=600 / 8, images=8.0))[-1].dearest == 3
    assert run(CONFIG, *ticks(2, load=600 / 8))[-1].dearest == 0


def test_overload_says_so():
    assert run(CONFIG, *ticks(1, load=1000))[-1].reason == Reason.AT_LIMIT


def test_the_governors_correction_scales_the_table():
    assert run(CONFIG, *ticks(1, load=300, correction=2.0))[-1].dearest == 3


def test_cheaper_at_once_dearer_one_level_per_hold():
    up, down = ticks(1, load=600), ticks(5, start=1, load=20)
    decisions = run(CONFIG, *up, *down)
    moves = [b for a, b in pairwise(decisions) if a.dearest != b.dearest]
    assert decisions[0].dearest == 3
    assert decisions[0].reason == Reason.LOAD_RISING
    assert [move.dearest for move in moves] == [1, 0]
    assert {move.reason for move in moves} == {Reason.RECOVERING}
    assert moves[1].at - moves[0].at >= CONFIG.hold_s


def test_a_long_queue_narrows_the_range_by_itself():
    (decision,) = run(CONFIG, tick(0.0, load=10, queue_depth=80))
    assert decision.dearest == 1
    assert decision.reason == Reason.QUEUE_GROWING


def test_a_miss_within_the_budget_costs_little_margin_one_in_debt_half():
    with_credit, in_debt = State(at=0.0, credit=5.0), State(at=0.0)
    miss = tick(0.05, load=100, missed=1.0)
    assert decide(CONFIG, with_credit, miss)[1].margin == pytest.approx(0.45)
    assert decide(CONFIG, in_debt, miss)[1].margin == pytest.approx(0.25)
    assert decide(CONFIG, in_debt, miss)[1].reason == Reason.SLO_MISSED


def test_a_rejection_is_a_miss():
    assert run(CONFIG, tick(0.0, load=100, rejected=1.0))[0].margin == pytest.approx(0.25)


def test_exact_requests_over_their_share_cost_no_margin():
    assert run(CONFIG, tick(0.0, load=100, capped=5.0))[0].margin == 0.5


def test_misses_within_one_slo_cut_the_margin_once():
    decisions = run(CONFIG, *ticks(0.2, load=100, missed=1.0))
    assert {decision.margin for decision in decisions} == {0.25}


def test_the_margin_returns_sooner_when_the_dense_model_could_carry_the_load():
    cut = State(margin=0.1, cut_at=0.0, at=0.0)
    calm = run(CONFIG, *ticks(5, load=50), state=cut)
    busy = run(CONFIG, *ticks(5, load=250), state=cut)
    assert calm[-1].margin == CONFIG.max_margin
    assert 0.1 < busy[-1].margin < 0.4


def test_blindness_means_caution_and_an_open_range():
    blind = [Observation(at=1 + i / 20) for i in range(60)]
    decisions = run(CONFIG, *ticks(1, load=600), *blind)
    held, gave_up = decisions[-50], decisions[-1]
    assert held.dearest == 3, "two seconds of nothing change nothing"
    assert (gave_up.reason, gave_up.margin, gave_up.dearest) == (Reason.NO_SIGNAL, 0.25, 0)
    assert gave_up.cheapest == 4


def test_nothing_moves_when_the_counters_start_over():
    before = State(margin=0.3, dearest=3, load=500.0, at=0.0, seen_at=0.0)
    state, decision = decide(CONFIG, before, Observation(at=0.05, reset=True, queue_depth=90))
    assert decision.reason == Reason.REBASELINED
    assert (state.margin, state.dearest, state.load) == (0.3, 3, 500.0)


def test_a_pin_is_the_whole_range():
    (decision,) = run(replace(CONFIG, pin=2), tick(0.0, load=1000))
    assert (decision.dearest, decision.cheapest, decision.reason) == (2, 2, Reason.PINNED)


def test_energy_means_the_cheapest_level_that_is_good_enough():
    saving = replace(CONFIG, goal="energy", floor=3)
    (decision,) = run(saving, tick(0.0, load=10))
    assert (decision.dearest, decision.cheapest, decision.reason) == (3, 3, Reason.SAVING)


def test_quality_spends_the_whole_error_budget():
    bursty = [tick(i / 20, load=375 if i % 8 < 4 else 125) for i in range(800)]
    usual, better = (
        run(replace(CONFIG, goal=goal), *bursty)[-1] for goal in ("latency", "quality")
    )
    assert usual.margin < better.margin


def test_the_margin_is_less_where_load_comes_in_clumps():
    even = run(CONFIG, *ticks(20, load=400))
    clumps = run(CONFIG, *(tick(i / 20, load=3200 * (i % 8 == 0)) for i in range(400)))
    assert even[-1].margin == CONFIG.max_margin
    assert clumps[-1].margin < 0.5


def test_a_higher_floor_takes_effect_at_once():
    state = State(dearest=4, at=0.0)
    _, decision = decide(replace(CONFIG, floor=1), state, tick(0.05, load=1000))
    assert (decision.dearest, decision.cheapest) == (0, 1)


amount = st.none() | st.floats(0, 500)
observations = st.lists(
    st.builds(
        Observation,
        at=st.just(0.0),
        interval_s=st.none() | st.floats(0.01, 5),
        reset=st.booleans(),
        queue_depth=st.none() | st.integers(0, 500),
        arrivals=st.none() | st.floats(-8, 500),
        answers=st.none() | st.dictionaries(st.integers(0, 4), st.floats(0, 100)),
        missed=amount,
        rejected=amount,
        capped=amount,
        correction=st.none() | st.floats(0.1, 10),
        gap_s=st.none() | st.floats(0, 1),
        images=st.none() | st.floats(0, 64),
    ),
    max_size=40,
).map(lambda seen: [replace(one, at=i / 20) for i, one in enumerate(seen)])


@given(seen=observations, floor=st.integers(0, 4))
def test_whatever_is_seen_the_decision_is_valid(seen, floor):
    config = replace(CONFIG, floor=floor)
    for decision in run(config, *seen):
        assert decision.dearest in config.levels
        assert decision.dearest <= decision.cheapest == config.levels[-1] <= floor
        assert config.min_margin <= decision.margin <= config.max_margin


@given(seen=observations)
def test_the_same_history_gives_the_same_decisions(seen):
    assert run(CONFIG, *seen) == run(CONFIG, *seen)

"""The law of the inner loop, on hand-made situations."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from foveate.control.governor import (
    PLAIN,
    Config,
    Observation,
    Reason,
    Rejection,
    State,
    Wish,
    decide,
    settle,
)
from foveate.control.policy import Policy
from foveate.control.queue_ages import Curve
from foveate.levels.latency_table import LatencyTable

MS = 1_000_000
# Three levels: 40, 20 and 10 ms for a full batch of 8, a fifth of that for one image.
TABLE = LatencyTable(
    device="test",
    ladder="test",
    batches=(1, 8),
    seconds=((0.008, 0.040), (0.004, 0.020), (0.002, 0.010)),
)
QUALITY = (0.98, 0.96, 0.93)  # a second at level 1 buys three times what it buys at level 0
CONFIG = Config(latency=TABLE, quality=QUALITY, max_batch=8, slo_ns=200 * MS)
NOW = 10_000 * MS
ONE = (Wish(),)
FULL = (Wish(),) * 8


def policy(**changes: object) -> Policy:
    base = Policy(
        epoch=1,
        sequence=1,
        lease_expires_ns=NOW + 1000 * MS,
        slo_ns=200 * MS,
        quality_floor_level=2,
        margin=0.5,
        dearest=0,
        cheapest=2,
        queue_depth=0,
        queue_depth_at_ns=NOW - 20 * MS,
    )
    return replace(base, **changes)


def look(wishes: tuple[Wish, ...], word: Policy | None = None, now: int = NOW) -> Observation:
    return Observation(now_ns=now, wishes=wishes, policy=word)


def curve(age_ms: int, queue: int = 0) -> State:
    """A state in which the next request arrived ``age_ms`` ago; ``queue`` follow it."""
    return State(
        curve=Curve(
            taken=100,
            points=(
                (NOW - (age_ms + 50) * MS, 100),
                (NOW - age_ms * MS, 101),
                (NOW - min(10, age_ms) * MS, 101 + queue),
            ),
            batches=((NOW - 5 * MS, 92),),
        )
    )


def test_calm_serves_the_dense_model() -> None:
    _, decision = decide(CONFIG, State(), look(ONE, policy()))
    assert (decision.level, decision.reason) == (0, Reason.CALM)
    assert decision.levels == (0,)


def test_a_queue_brings_a_cheaper_level() -> None:
    _, calm = decide(CONFIG, State(), look(FULL, policy(queue_depth=8)))
    _, busy = decide(CONFIG, State(), look(FULL, policy(queue_depth=8 + 24)))
    _, worse = decide(CONFIG, State(), look(FULL, policy(queue_depth=8 + 200)))
    assert (calm.level, busy.level, worse.level) == (0, 1, 2)
    assert (busy.reason, worse.reason) == (Reason.PRESSURE, Reason.OVERLOAD)


def test_calm_lasts_while_level_0_carries_the_load() -> None:
    """Batches of up to six every 40 ms, when level 0 takes 5 ms an image: no chance ends it."""
    state = State()
    for step in range(100):
        wishes = (Wish(),) * (1 + 5 * (step % 2))
        state, decision = decide(CONFIG, state, look(wishes, None, NOW + step * 40 * MS))
        assert (decision.level, decision.reason) == (0, Reason.CALM)


def test_calm_ends_when_level_0_does_not_and_comes_back() -> None:
    """Full batches every 30 ms take level 0 40 ms each."""
    config = replace(CONFIG, quality=(0.96, 0.96, 0.93))
    state, levels = State(), []
    for step in range(10):
        word = policy(queue_depth_at_ns=NOW + step * 30 * MS - 1, lease_expires_ns=2 * NOW)
        state, decision = decide(config, state, look(FULL, word, NOW + step * 30 * MS))
        levels.append(decision.level)
    assert levels[0] == 0
    assert levels == sorted(levels)
    assert levels[-1] == 1
    _, decision = decide(config, state, look(ONE, None, NOW + 600 * MS))
    assert (decision.level, decision.reason) == (0, Reason.CALM)


def test_a_second_goes_where_it_buys_most() -> None:
    """Level 1 buys three times as much as level 0: pressure leaves level 0 at a third of it."""
    levels = {}
    for queue in range(0, 81, 8):
        _, decision = decide(CONFIG, State(), look(FULL, policy(queue_depth=8 + queue)))
        levels[queue] = decision.level
    assert [levels[queue] for queue in (0, 8, 16, 24, 56, 72)] == [0, 0, 0, 1, 1, 2]


def test_a_level_that_buys_nothing_is_for_calm_alone() -> None:
    config = replace(CONFIG, quality=(0.96, 0.96, 0.93))
    _, calm = decide(config, State(), look(ONE, policy()))
    _, busy = decide(config, State(), look(FULL, policy(queue_depth=32)))
    assert (calm.level, busy.level) == (0, 1)


def test_a_level_under_the_hull_is_skipped() -> None:
    config = replace(CONFIG, quality=(0.98, 0.931, 0.93))
    levels = set()
    for queue in range(0, 100, 4):
        _, decision = decide(config, State(), look(FULL, policy(queue_depth=8 + queue)))
        levels.add(decision.level)
    assert levels == {0, 2}


def test_who_does_not_see_the_queue_plans_for_no_more_than_the_default() -> None:
    word = policy(margin=0.95, queue_depth=-1)
    state = State(curve=Curve(full_batches=9))
    _, blind = decide(CONFIG, state, look(FULL, word))
    _, seen = decide(CONFIG, state, look(FULL, policy(margin=0.95, queue_depth=80)))
    assert (blind.level, seen.level) == (2, 1)


def test_the_batch_itself_must_fit() -> None:
    _, decision = decide(CONFIG, State(), look(FULL, policy(slo_ns=60 * MS)))
    assert decision.level == 1  # 40 ms are more than half of 60, 20 are not


def test_the_age_of_the_oldest_counts() -> None:
    levels = [decide(CONFIG, curve(age), look(ONE, policy()))[1].level for age in (30, 60, 94, 150)]
    assert levels == [0, 0, 1, 2]


def test_ages_invert_the_curve_of_arrivals() -> None:
    state = State(curve=Curve(taken=5, points=((NOW - 100 * MS, 0), (NOW - 50 * MS, 10))))
    _, decision = decide(CONFIG, state, look((Wish(), Wish())))
    assert decision.ages_ns == (70 * MS, 65 * MS)


def test_after_an_empty_queue_nobody_is_old() -> None:
    """A depth read while a batch was being taken counts its requests twice; it must not last."""
    state = State()
    for step in range(5):  # one request now and then, queue read as 1 although it was taken
        now = NOW + step * 400 * MS
        word = policy(
            queue_depth=1, queue_depth_at_ns=now - 20 * MS, lease_expires_ns=now + 1000 * MS
        )
        state, decision = decide(CONFIG, state, look(ONE, word, now))
        assert decision.levels == (0,)
        assert decision.ages_ns[0] <= 400 * MS
    quiet = NOW + 60_000 * MS
    word = policy(queue_depth_at_ns=quiet - 20 * MS, lease_expires_ns=quiet + 1000 * MS)
    _, decision = decide(CONFIG, state, look(ONE, word, quiet))
    assert decision.levels == (0,)


def test_a_batch_that_is_not_full_bounds_the_ages_of_the_next() -> None:
    state = curve(age_ms=900)
    state, _ = decide(replace(CONFIG, admission=False), state, look(ONE, policy()))
    later = NOW + 30 * MS
    _, decision = decide(CONFIG, state, look(ONE, policy(), later))
    assert decision.ages_ns[0] <= 30 * MS


def test_without_a_policy_full_batches_in_a_row_are_pressure() -> None:
    state, levels = State(), []
    for step in range(12):
        state, decision = decide(CONFIG, state, look(FULL, None, NOW + step * 40 * MS))
        levels.append(decision.level)
    assert levels[0] == 0
    assert levels == sorted(levels)
    assert levels[-1] == 2


def test_an_expired_lease_keeps_slo_and_floor_only() -> None:
    gone = {"lease_expires_ns": NOW - 1, "dearest": 2, "cheapest": 2, "margin": 0.01}
    _, decision = decide(CONFIG, State(), look(ONE, policy(**gone)))
    assert (decision.level, decision.reason) == (0, Reason.CALM)
    word = policy(**gone, slo_ns=10 * MS, quality_floor_level=1)
    _, decision = decide(CONFIG, State(), look(ONE, word))
    assert decision.slo_ns == 10 * MS
    assert decision.level == 1  # 8 ms do not fit a share of 10 ms, 2 ms are under the floor


def test_a_lease_from_an_earlier_boot_is_not_live() -> None:
    later = NOW + 10**15
    word = policy(lease_expires_ns=later, queue_depth_at_ns=later, queue_depth=999, dearest=2)
    state, decision = decide(CONFIG, State(), look(ONE, word))
    assert (decision.level, state.curve.points) == (0, ())


def test_going_blind_rejects_nobody() -> None:
    """An old rate of arrivals says nothing about the ages of later requests."""
    state = State()
    for step in range(20):
        now = NOW + step * 50 * MS
        word = policy(
            queue_depth=1, queue_depth_at_ns=now - 5 * MS, lease_expires_ns=now + 100 * MS
        )
        state, _ = decide(CONFIG, state, look(ONE, word, now))
    for _ in range(20):
        now += 500 * MS
        state, decision = decide(CONFIG, state, look(ONE, word, now))
        assert decision.levels == (0,)


def test_a_slow_moment_does_not_reject_for_ever() -> None:
    state = State(correction=3.0)
    config = replace(CONFIG, slo_ns=5 * MS)  # the cheapest takes 2 ms, three times that is over
    for step in range(30):
        now = NOW + step * 1000 * MS
        state, decision = decide(config, state, look(ONE, None, now))
        if decision.levels == (2,):
            return
        assert decision.levels == (Rejection.DEADLINE,)
        state = settle(state, decision, 0.0)
    raise AssertionError("still rejecting")


def test_patience_here_does_not_starve_those_behind() -> None:
    patient = (Wish(deadline_ns=3600 * 1000 * MS),) * 8
    _, decision = decide(CONFIG, State(), look(patient, policy(queue_depth=250)))
    assert decision.level == 2


def test_a_wish_too_dear_for_the_slo_makes_nobody_cheaper() -> None:
    word = policy(slo_ns=6 * MS)  # 8 ms for the dense model
    state, decision = decide(CONFIG, State(), look((Wish(floor=0),), word))
    assert decision.levels == (Rejection.DEADLINE,)
    assert state.rejected_at_ns is None


def test_client_batches_count_by_their_images() -> None:
    eight = (Wish(images=8),)
    _, few = decide(CONFIG, State(), look(eight, policy(queue_depth=2)))
    _, many = decide(CONFIG, State(), look(eight, policy(queue_depth=12)))
    assert few.level < many.level == 2
    state, levels = State(), []
    for step in range(12):
        state, decision = decide(CONFIG, state, look(eight, None, NOW + step * 40 * MS))
        levels.append(decision.level)
    assert levels[-1] == 2


def test_a_quality_wish_does_not_pick_a_level_slower_than_a_dearer_one() -> None:
    table = replace(TABLE, seconds=((0.008, 0.040), (0.009, 0.050), (0.002, 0.010)))
    config = replace(CONFIG, latency=table, pin_cap=1.0)
    _, decision = decide(config, State(), look((Wish(floor=1),) * 8, policy(queue_depth=500)))
    assert decision.levels == (0,) * 8


def test_a_dear_wish_larger_than_the_credit_still_gets_its_share() -> None:
    config = replace(CONFIG, pin_cap=0.01, admission=False)
    state, exact = State(), 0
    for step in range(400):
        now = NOW + step * 20 * MS
        word = policy(
            lease_expires_ns=now + 1000 * MS, queue_depth=5000, queue_depth_at_ns=now - 10 * MS
        )
        state, decision = decide(config, state, look((Wish(pin=0, images=8),), word, now))
        exact += decision.levels.count(0)
    assert 0.5 <= exact * 0.040 / (400 * 0.020 * 0.01) <= 1.5


def test_any_word_gives_a_level() -> None:
    for changes in ({"cheapest": -1}, {"quality_floor_level": -1}, {"slo_ns": 0}, {"dearest": 9}):
        _, decision = decide(CONFIG, State(), look(ONE, policy(**changes)))
        assert decision.levels[0] in (0, 1, 2, Rejection.DEADLINE)


def test_the_floor_holds_under_any_pressure() -> None:
    word = policy(quality_floor_level=1, queue_depth=10_000)
    _, decision = decide(CONFIG, State(), look(FULL, word))
    assert decision.level == 1


def test_a_pinned_policy_wins() -> None:
    word = policy(dearest=1, cheapest=1, queue_depth=10_000)
    _, decision = decide(CONFIG, State(), look(FULL, word))
    assert (decision.level, decision.reason) == (1, Reason.PINNED)


def test_levels_slower_than_a_dearer_one_are_not_used() -> None:
    table = replace(TABLE, seconds=((0.008, 0.040), (0.009, 0.050), (0.002, 0.010)))
    config = replace(CONFIG, latency=table)
    _, decision = decide(config, State(), look(FULL, policy(queue_depth=8 + 64)))
    assert decision.level == 2


def test_the_dead_are_dropped_and_the_rest_run_at_the_cheapest() -> None:
    state = State(curve=Curve(points=((NOW - 230 * MS, 0), (NOW - 10 * MS, 8))))
    _, decision = decide(CONFIG, state, look(FULL, policy(queue_depth=-1)))
    dead = decision.levels.count(Rejection.DEADLINE)
    assert 0 < dead < 8
    assert decision.levels[dead:] == (2,) * (8 - dead)


def test_a_rejection_forces_the_cheapest_level_for_a_while() -> None:
    state = State(rejected_at_ns=NOW, shedding_since_ns=NOW)
    _, soon = decide(CONFIG, state, look(ONE, None, NOW + 400 * MS))
    _, later = decide(CONFIG, state, look(ONE, None, NOW + 600 * MS))
    assert (soon.level, soon.reason) == (2, Reason.REJECTED)
    assert (later.level, later.reason) == (0, Reason.CALM)


def test_an_overload_that_lasts_refuses_sooner() -> None:
    """A request 100 ms old is served in a short overload, and refused when it has lasted."""
    aged = curve(age_ms=100, queue=100)
    for since_ms, refused in ((500, False), (1500, True)):
        state = aged._replace(rejected_at_ns=NOW - MS, shedding_since_ns=NOW - since_ms * MS)
        _, decision = decide(CONFIG, state, look(FULL, policy(queue_depth=-1)))
        assert (decision.levels[0] is Rejection.DEADLINE) == refused


def test_the_time_between_batches_is_learnt_while_requests_wait() -> None:
    config, state, now = replace(CONFIG, admission=False), State(), NOW
    for _ in range(60):
        word = policy(queue_depth=100, queue_depth_at_ns=now - MS, lease_expires_ns=now + MS)
        state, decision = decide(config, state, look(FULL, word, now))
        state = settle(state, decision, decision.predicted_s)
        now += round(decision.predicted_s * 1e9) + 4 * MS
    assert 0.0039 < state.gap_s < 0.0041
    for _ in range(20):  # nobody waits: what passes between batches is idle time
        now += 900 * MS
        state, decision = decide(config, state, look(ONE, None, now))
        state = settle(state, decision, decision.predicted_s)
    assert state.gap_s < 0.005


def test_a_lasting_overload_ends_when_the_load_can_be_carried() -> None:
    """The SLO is not much longer than a batch: most requests are older than a third of it."""
    word = {"slo_ns": 40 * MS, "lease_expires_ns": NOW + 10**12, "queue_depth": -1}
    state = State(rejected_at_ns=NOW, shedding_since_ns=NOW - 5000 * MS)
    outcomes = []
    for step in range(100):  # two batches in three cycles of the cheapest, 10 ms old
        now = NOW + step * 15 * MS
        curve_ = Curve(points=((now - 20 * MS, 0), (now - 10 * MS, 8), (now - MS, 8)))
        state = state._replace(curve=curve_)
        state, decision = decide(CONFIG, state, look(FULL, policy(**word), now))
        state = settle(state, decision, decision.predicted_s)
        outcomes.append(Rejection.DEADLINE in decision.levels)
    assert not any(outcomes[50:])
    assert state.shedding_since_ns is None


def test_an_idle_server_is_never_locked_by_its_slo() -> None:
    state = State(correction=3.0)
    config = replace(CONFIG, slo_ns=5 * MS)
    for step in range(60):
        state, decision = decide(config, state, look(ONE, None, NOW + step * 100 * MS))
        state = settle(state, decision, 0.002 if decision.predicted_s else 0.0)
    assert decision.levels == (2,)


def test_one_impatient_client_does_not_take_its_batch_along() -> None:
    shedding = {"rejected_at_ns": NOW - MS, "shedding_since_ns": NOW - 100 * MS}
    state = curve(age_ms=30, queue=100)._replace(**shedding)
    wishes = (Wish(deadline_ns=MS), *(Wish(),) * 7)
    _, decision = decide(CONFIG, state, look(wishes, policy(queue_depth=-1)))
    assert decision.levels == (Rejection.DEADLINE, *(2,) * 7)


def test_requests_of_three_images_fill_a_batch_of_six() -> None:
    state, levels = State(), []
    for step in range(16):
        wishes = (Wish(images=3),) * 2
        state, decision = decide(CONFIG, state, look(wishes, None, NOW + step * 40 * MS))
        levels.append(decision.level)
    assert levels[-1] == 2


def test_a_large_client_batch_is_forgotten() -> None:
    state, _ = decide(CONFIG, State(), look((Wish(images=8),), None))
    for step in range(1, 80):
        state, _ = decide(CONFIG, state, look(ONE, None, NOW + step * 40 * MS))
    assert state.curve.emptied_at_ns == NOW + 79 * 40 * MS


def test_the_rejected_are_told_when_the_queue_is_gone() -> None:
    gone = (Wish(deadline_ns=1),) * 8
    for queue, advice in ((0, 1), (8, 10), (800, 1000)):
        word = policy(queue_depth=8 + queue)
        _, decision = decide(CONFIG, State(), look(gone, word))
        assert decision.levels == (Rejection.DEADLINE,) * 8
        assert decision.retry_after_ms == advice  # a batch of 8 takes 10 ms at the cheapest level
    _, decision = decide(CONFIG, State(), look(FULL, policy(queue_depth=808)))
    assert decision.retry_after_ms is None


def test_dear_wishes_are_told_when_they_have_credit_again() -> None:
    state = State(pin_credit_s=-0.02, last_ns=NOW)
    word = policy(queue_depth=9, dearest=2)
    _, decision = decide(CONFIG, state, look((Wish(pin=0),), word))
    assert decision.levels == (Rejection.PIN_CAP,)
    assert decision.retry_after_ms == 200  # 20 ms of debt, at a tenth of the time


def test_admission_can_be_switched_off() -> None:
    config = replace(CONFIG, admission=False)
    _, decision = decide(config, curve(900), look(ONE, policy()))
    assert decision.levels == (2,)


def test_wishes_are_honoured_inside_one_batch() -> None:
    config = replace(CONFIG, pin_cap=1.0)
    wishes = (Wish(), Wish(pin=0), Wish(floor=1), Wish(pin=2)) * 2
    _, decision = decide(config, State(), look(wishes, policy(queue_depth=500)))
    assert decision.levels == (2, 0, 1, 2) * 2


def test_levels_run_one_after_the_other() -> None:
    wishes = (*(Wish(pin=0),) * 2, *(Wish(pin=1),) * 6)
    for padded in (False, True):
        config = replace(CONFIG, latency=replace(TABLE, padded=padded), pin_cap=1.0)
        _, decision = decide(config, State(), look(wishes))
        rows = config.seconds
        assert abs(decision.predicted_s - rows[0][2] - rows[1][6]) < 1e-9


def test_a_floor_does_not_lift_a_request_in_calm() -> None:
    _, decision = decide(CONFIG, State(), look((Wish(floor=1),), policy()))
    assert decision.levels == (0,)


def test_dear_wishes_get_their_share_of_busy_time_under_pressure() -> None:
    state, exact = State(), 0
    wishes = (*(Wish(),) * 4, *(Wish(pin=0),) * 4)
    rounds = 200
    for step in range(rounds):
        now = NOW + step * 20 * MS
        word = policy(
            lease_expires_ns=now + 1000 * MS, queue_depth=5000, queue_depth_at_ns=now - 10 * MS
        )
        state, decision = decide(replace(CONFIG, admission=False), state, look(wishes, word, now))
        exact += decision.levels.count(0)
        assert decision.levels.count(0) + decision.levels.count(Rejection.PIN_CAP) == 4
    busy = exact * 0.040 / 8
    assert 0.08 <= busy / (rounds * 0.020) <= 0.11


def test_a_short_deadline_is_its_owners_affair() -> None:
    wishes = (Wish(), Wish(deadline_ns=5 * MS), Wish(deadline_ns=1 * MS))
    state, decision = decide(CONFIG, State(), look(wishes, policy()))
    assert decision.levels == (0, 2, Rejection.DEADLINE)
    _, after = decide(CONFIG, state, look(ONE, policy(), NOW + 50 * MS))
    assert after.levels == (0,)


def test_a_long_deadline_leaves_time() -> None:
    patient = Wish(deadline_ns=2000 * MS)
    _, decision = decide(CONFIG, curve(300), look((patient,), policy()))
    assert decision.levels == (0,)


def test_correction_follows_a_slower_machine() -> None:
    state = State()
    for step in range(60):
        now = NOW + step * 50 * MS
        state, decision = decide(CONFIG, state, look(FULL, None, now))
        true = TABLE.batch_seconds(decision.level, 8) * 1.5
        state = settle(state, decision, true)
    assert 1.45 < state.correction < 1.55


@given(
    st.lists(
        st.builds(
            Wish,
            pin=st.none() | st.integers(0, 2),
            floor=st.none() | st.integers(0, 2),
            deadline_ns=st.none() | st.integers(1, 10**10),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 500),
    st.integers(0, 5000),
    st.integers(0, 2),
    st.integers(0, 2),
    st.floats(0, 1),
)
def test_every_request_gets_an_allowed_level_or_a_rejection(
    wishes: list[Wish], age_ms: int, queue: int, dearest: int, floor: int, margin: float
) -> None:
    word = policy(dearest=dearest, quality_floor_level=floor, margin=margin, queue_depth=queue)
    observation = look(tuple(wishes), word)
    state, decision = decide(CONFIG, curve(age_ms, queue), observation)
    assert decide(CONFIG, curve(age_ms, queue), observation) == (state, decision)
    assert state.curve.taken == 100 + len(wishes)
    assert len(decision.levels) == len(decision.ages_ns) == len(wishes)
    assert all(age >= 0 for age in decision.ages_ns)
    for wish, level in zip(wishes, decision.levels, strict=True):
        if isinstance(level, Rejection):
            continue
        if wish.pin is not None:
            assert level == wish.pin
        else:
            assert level <= (2 if dearest == 2 else floor)  # both ends equal: a pin
            assert wish.floor is None or level <= wish.floor


@st.composite
def situations(draw: st.DrawFn) -> tuple[Config, State, list[tuple[int, int, Policy | None]]]:
    """A ladder on a device, a state, and batches to come: requests, time, policy."""
    levels, max_batch = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    batches = tuple(sorted(draw(st.sets(st.integers(1, 8), max_size=3)) | {1, max_batch}))
    seconds = st.tuples(*[st.floats(1e-4, 0.2)] * len(batches))
    quality = st.floats(0.5, 1)
    config = Config(
        latency=LatencyTable(
            device="test",
            ladder="test",
            batches=batches,
            seconds=draw(st.tuples(*[seconds] * levels)),
            padded=draw(st.booleans()),
        ),
        quality=tuple(sorted(draw(st.tuples(*[quality] * levels)), reverse=True)),
        max_batch=max_batch,
        slo_ns=draw(st.integers(1 * MS, 2000 * MS)),
        admission=draw(st.booleans()),
        pin_cap=draw(st.sampled_from((0.1, 1.0))),
    )
    state = curve(draw(st.integers(0, 500)), draw(st.integers(0, 500)))._replace(
        correction=draw(st.floats(0.5, 3)), gap_s=draw(st.floats(0, 0.02))
    )
    now, to_come = NOW, []
    for _ in range(draw(st.integers(1, 6))):
        word = policy(
            lease_expires_ns=now + draw(st.integers(-10, 1000)) * MS,
            slo_ns=draw(st.integers(1 * MS, 2000 * MS)),
            margin=draw(st.floats(0, 1)),
            dearest=draw(st.integers(0, 3)),
            cheapest=draw(st.integers(0, 3)),
            quality_floor_level=draw(st.integers(0, 3)),
            queue_depth=draw(st.integers(-1, 500)),
            queue_depth_at_ns=now - draw(st.integers(0, 30)) * MS,
        )
        requests = draw(st.integers(1, max_batch))
        to_come.append((requests, now, draw(st.sampled_from((word, None)))))
        now += draw(st.integers(1, 300)) * MS
    return config, state, to_come


@given(situations(), st.booleans())
def test_wishing_for_what_everybody_gets_changes_nothing(
    situation: tuple[Config, State, list[tuple[int, int, Policy | None]]], by_deadline: bool
) -> None:
    """A batch without wishes is decided in a quicker way, to the same end."""
    config, state, to_come = situation
    for requests, now, word in to_come:
        slo_ns = word.slo_ns if word else config.slo_ns
        same = Wish(deadline_ns=slo_ns) if by_deadline else Wish(floor=config.levels - 1)
        plain, wished = (
            decide(config, state, look((wish,) * requests, word, now)) for wish in (PLAIN, same)
        )
        assert plain == wished
        state, decision = plain
        state = settle(state, decision, 1.2 * decision.predicted_s)


def test_requests_behind_another_batch_are_as_old_as_when_it_ends() -> None:
    now, later = look(FULL), replace(look(FULL), begins_ns=NOW + 30 * MS)
    ages = [decide(CONFIG, curve(40, queue=20), seen)[1].ages_ns[0] for seen in (now, later)]
    assert ages == [40 * MS, 70 * MS]


def test_a_batch_behind_another_is_taken_from_the_queue_now() -> None:
    state, _ = decide(CONFIG, curve(40, queue=20), replace(look(FULL), begins_ns=NOW + 30 * MS))
    # Of 20 in the queue after it was taken, none are the 8 that it holds.
    seen = state.curve.sampled(20, NOW + 10 * MS, NOW + 15 * MS)
    assert seen.points[-1] == (NOW + 10 * MS, 100 + len(FULL) + 20)


def test_no_gap_is_seen_about_a_batch_that_waits_behind_another() -> None:
    alone = look(FULL, policy(queue_depth=30))
    state, decision = decide(CONFIG, State(gap_s=0.004), alone)
    assert state.left_queue
    behind = replace(look(FULL, now=NOW + MS), begins_ns=NOW + 30 * MS)
    state, second = decide(CONFIG, state, behind)
    for ended in (decision, second):
        state = settle(state, ended, 0.005)
    state, _ = decide(CONFIG, state, look(FULL, now=NOW + 10 * MS))
    assert state.gap_s == 0.004

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.config import DistilConfig
from training.student.schedule import EARLIEST, GAIN_DB, GOAL_DB, LOOK_EVERY, MOTION_STEPS, Schedule

MINUTES = DistilConfig(minutes=10.0)


def run(schedule, *, decibels, pace=0.1, step=0, seconds=0.0, until=100_000):
    """Steps of `pace` seconds each; `decibels(step)` is what a look finds. The rates, and the steps that settled."""
    rates, settled = [], []
    while not schedule.over(step) and step < until:
        motion = schedule.learns_motion(step, seconds)
        if schedule.settles(step, seconds):
            settled.append(step)
        rates.append(schedule.rate(step, seconds))
        step, seconds = step + 1, seconds + pace
        if not motion and step % LOOK_EVERY == 0:
            schedule.look(step, decibels(step), decibels(step))
    return rates, settled, step, seconds


def rising(step):
    return step / 100


def flat(step):
    return 30.0


@settings(deadline=None, max_examples=30)  # thousands of steps each
@given(st.integers(1, 5000), st.floats(0, 0.9))
def test_steps_are_a_plan_that_is_kept(steps, share):
    schedule = Schedule(DistilConfig(steps=steps, motion_share=share))
    rates, settled, step, _ = run(schedule, decibels=flat)
    assert step == steps == len(rates)
    assert all(0 < rate <= 1 for rate in rates)
    assert len(settled) <= 1
    assert (schedule.state.why, schedule.state.looks) == ("steps", [])
    assert schedule.share(step, 0.0) == 1


def test_mouth_and_eyes_that_get_no_better_end_a_run():
    schedule = Schedule(MINUTES)
    rates, settled, step, seconds = run(schedule, decibels=flat, pace=0.05)
    assert schedule.state.why == "plateau"
    assert schedule.state.motion_until == MOTION_STEPS
    assert settled == [EARLIEST]  # the looks from 500 on gain nothing, and are not heard before
    assert step == settled[0] + round((settled[0] - MOTION_STEPS) / 3)
    assert seconds < 60 * MINUTES.minutes
    stable = rates[MOTION_STEPS + 100 : settled[0]]
    assert stable == [1.0] * len(stable)
    falling = rates[settled[0] + 1 :]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] < 0.05


@settings(deadline=None, max_examples=30)
@given(st.floats(0.05, 5.0), st.floats(0.3, 30.0))
def test_the_bound_holds_and_most_of_it_is_learning(pace, minutes):
    schedule = Schedule(DistilConfig(minutes=minutes))
    _, settled, step, seconds = run(schedule, decibels=rising, pace=pace)
    assert schedule.state.why in ("bound", "goal")
    if schedule.state.why == "bound":
        assert seconds <= 60 * minutes + 25 * pace
        if step > 400:
            assert seconds > 0.98 * 60 * minutes
            assert settled[0] - schedule.state.motion_until > 2 * (step - settled[0])


def test_the_goal_ends_a_run():
    schedule = Schedule(MINUTES)
    run(schedule, decibels=lambda step: GOAL_DB + 1)
    assert schedule.state.why == "goal"
    assert len(schedule.state.looks) == 1


def test_small_gains_count_for_nothing():
    schedule = Schedule(MINUTES)
    run(schedule, decibels=lambda step: 30 + GAIN_DB * 0.3 * step / LOOK_EVERY, pace=0.01)
    assert schedule.state.why == "plateau"


def test_a_run_that_ran_out_of_minutes_goes_on_where_it_began_to_settle():
    schedule = Schedule(MINUTES)
    _, settled, step, seconds = run(schedule, decibels=rising, pace=0.5)
    assert schedule.state.why == "bound"
    saved = json.loads(json.dumps(schedule.record()))

    again = Schedule(MINUTES, saved, step)
    assert again.resettles
    again.resume(saved, settled[0], seconds)
    rates, settled_again, end, later = run(again, decibels=rising, pace=0.5, step=settled[0], seconds=seconds)
    assert rates[0] == 1.0
    assert settled_again[0] > settled[0] + 300
    assert end > step
    assert later - seconds == pytest.approx(60 * MINUTES.minutes, abs=15)


def test_a_run_that_was_killed_while_it_settled_goes_on_settling():
    schedule = Schedule(MINUTES)
    _, settled, step, seconds = run(schedule, decibels=flat, until=EARLIEST + 100)
    again = Schedule(MINUTES, json.loads(json.dumps(schedule.record())), step)
    assert settled
    assert not again.resettles
    run(again, decibels=flat, step=step, seconds=seconds)
    whole = Schedule(MINUTES)
    run(whole, decibels=flat)
    assert again.state == whole.state


def test_what_has_learned_enough_is_left_alone():
    schedule = Schedule(MINUTES)
    _, _, step, _ = run(schedule, decibels=flat)
    again = Schedule(DistilConfig(minutes=60.0), schedule.record(), step)
    assert not again.resettles
    assert again.over(step)


def test_minutes_that_are_asked_for_are_taken():
    asked = DistilConfig(minutes=5.0, until_no_better=False)
    schedule = Schedule(asked)
    _, _, step, seconds = run(schedule, decibels=flat)
    assert schedule.state.why == "bound"
    assert seconds == pytest.approx(300, rel=0.02)
    plateau = Schedule(MINUTES)
    _, _, step, _ = run(plateau, decibels=flat)
    assert Schedule(asked, plateau.record(), step).resettles


def test_more_steps_go_on_where_fewer_began_to_settle():
    schedule = Schedule(DistilConfig(steps=100))
    _, settled, step, seconds = run(schedule, decibels=flat)
    again = Schedule(DistilConfig(steps=200), schedule.record(), step)
    assert again.resettles
    again.resume(schedule.record(), settled[0], seconds)
    rates, settled_again, end, _ = run(again, decibels=flat, step=settled[0], seconds=seconds)
    assert end == 200
    assert rates[0] == 1.0
    assert settled_again[0] > settled[0]
    fewer = Schedule(DistilConfig(steps=50), schedule.record(), step)
    assert not fewer.resettles
    assert fewer.over(step)


def test_another_length_may_be_asked_for_before_a_run_settles():
    schedule = Schedule(DistilConfig(steps=1000))
    _, _, step, seconds = run(schedule, decibels=flat, until=300)
    again = Schedule(MINUTES, schedule.record(), step)
    run(again, decibels=flat, step=step, seconds=seconds)
    assert again.state.why == "plateau"

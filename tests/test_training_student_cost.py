import math

import pytest
import torch

from edge.errors import InputError
from training.config import TIERS, StudentConfig
from training.student.cost import WIDTHS, driver_gmacs, student_config, student_cost
from training.student.person import ROUNDS
from training.student.regions import ATLAS


@pytest.mark.parametrize("tier", TIERS)
def test_tiers_stay_within_their_budget_and_use_most_of_it(tier):
    cost = student_cost(student_config(TIERS[tier]))
    assert cost.gflops == pytest.approx(2 * cost.gmacs)
    assert 0.6 * TIERS[tier] < cost.gflops <= TIERS[tier]


def test_standard_stays_under_three_and_a_half_million_parameters():
    assert student_cost(student_config()).parameters <= 3.5e6


def test_modules_add_up_to_the_whole():
    cost = student_cost(student_config(TIERS["nano"]))
    parts = (
        *("person.follow", "person.place", "person.regions"),
        *("network.motion_trunk", "network.generator", "driver"),
    )
    assert sum(cost.modules[part] for part in parts) == pytest.approx(cost.gmacs, rel=0.01)
    assert cost.modules["driver"] == pytest.approx(driver_gmacs())


def test_counting_draws_no_random_numbers():
    """It is done once in a process, and a seed is to mean the same student before and after."""
    for counted in (driver_gmacs, student_cost, student_config):
        counted.cache_clear()
    before = torch.get_rng_state()
    driver_gmacs()
    student_config(TIERS["nano"])
    assert torch.equal(torch.get_rng_state(), before)


def test_uncounted_work_is_listed():
    config = student_config(TIERS["nano"])
    uncounted = student_cost(config).uncounted
    # The layer (4 channels at 512); at 64 the features, where cells came from (2, four times), what the motion network
    # found and its hints. Mouth and eyes: over the frame (4 at 512), skin, shut lids and cover (7) in the atlas;
    # irises and lashes (4, 4) in its eyes; tongue (3), teeth (4, 4) and lips' inner sides (4) in its mouth.
    at_64 = (config.feature_channels + 2 * (1 + ROUNDS) + 4 + config.motion_channels) * 64**2
    in_atlas = 7 * math.prod(ATLAS) + (4 + 4) * 64 * ATLAS[1] + (3 + 4 + 4 + 4) * 128 * ATLAS[1]
    assert uncounted["warp"] == 8 * 512**2 + at_64 + in_atlas
    assert {"resize", "activation", "shuffle"} <= uncounted.keys()


def test_a_larger_dial_never_gives_a_smaller_student():
    sizes = [student_cost(student_config(gflops)).gmacs for gflops in (1.0, 1.5, 2.6, 3.2, 6.0)]
    assert sizes == sorted(sizes)


def test_every_width_costs_more_than_the_one_before():
    costs = [student_cost(StudentConfig(*widths)).gflops for widths in WIDTHS]
    assert costs == sorted(costs)


def test_an_impossible_budget_is_refused():
    with pytest.raises(InputError, match="No student fits"):
        student_config(0.1)

"""Every design of the sweep is a student that runs, and costs what it may."""

import pytest
import search
import torch

from edge.spec import KEYPOINTS, LANDMARKS, LOCAL_LANDMARKS, NETWORK
from edge.topology import LOCAL
from training.config import StudentConfig
from training.student.cost import count, student_cost
from training.student.person import Window
from training.teachers import Identity

SMALL = StudentConfig(16, 32, 16)


@pytest.fixture(scope="module")
def identity():
    random = torch.Generator().manual_seed(0)
    photo = torch.rand(3, NETWORK, NETWORK, generator=random)
    landmarks = torch.rand(LANDMARKS, 3, generator=random) - 0.5
    return Identity(photo, landmarks, landmarks[torch.from_numpy(LOCAL[:KEYPOINTS])], photo[:, None])


@pytest.mark.parametrize("name", search.DESIGNS)
@torch.no_grad()
def test_a_design_draws_frames_and_their_windows(name, identity):
    torch.manual_seed(0)
    design = search.DESIGNS[name]
    student = design.of(SMALL).bind(identity).eval()
    for parameter in student.parameters():
        if not parameter.any():
            parameter.normal_(std=0.02)
    points = torch.rand(1, KEYPOINTS, 2) - 0.5, torch.rand(1, LOCAL_LANDMARKS, 2) - 0.5
    frame = student(*points)
    assert frame.shape == (1, 3, NETWORK, NETWORK)
    assert frame.std() > 0.05
    window = Window(128, 64, 256)
    part = student.animate(*points, window=window).image
    inner = (..., slice(64, -64), slice(64, -64))  # convolutions see what lies beyond a window's border as zero
    torch.testing.assert_close(part.clamp(0, 1)[inner], window.of(frame)[inner], atol=0.05, rtol=0)
    design.finish(student)
    torch.testing.assert_close(student(*points), frame, atol=1e-4, rtol=0)


def test_a_design_spends_its_budget():
    budget = student_cost(SMALL).gflops * search.TOLERANCE
    for name in ("chosen", "separable"):
        student = search.DESIGNS[name].dearest(192, budget)
        cost = count(lambda name=name, config=student.config: search.DESIGNS[name].of(config)).gflops
        assert 0.7 * budget < cost <= budget


def test_a_row_is_told_as_means_the_least_and_how_far_seeds_are_apart():
    faces = [("a", 0, 0.9), ("a", 1, 0.7), ("b", 0, 0.6), ("b", 1, 0.6)]
    students = [
        {"name": name, "seed": seed, "psnr_db": 35, "painter_silent": "0.02"}
        | dict.fromkeys((*search.PARTS["mouth"], *search.PARTS["eyes"]), str(drawn))
        for name, seed, drawn in faces
    ]
    row = search._means(search.Variant(), students)
    assert (row["mouth"], row["mouth_least"], row["mouth_apart"]) == (0.7, 0.6, 0.1)
    assert (row["people"], row["seeds"], row["died"], row["painter_silent"]) == (2, 2, 0, 0.02)
    assert search._means(search.Variant(), [*students, {"name": "c", "seed": 0, "died": "at once"}])["died"] == 1

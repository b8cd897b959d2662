"""Φ as a whole: sizes the paper names, shapes, and what its parts have to do with each other."""

import pytest
import torch

from edge.topology import LOCAL
from training.config import TEACHERS
from training.phi.drawing import mesh_image
from training.phi.network import Face, SuperFace, join_faces, split_keypoints, teacher_cost

TINY = TEACHERS["teacher_tiny"]


@pytest.mark.parametrize(("name", "gmacs"), [("teacher_256", 150), ("teacher_512", 600)])
def test_the_papers_sizes(name, gmacs):
    assert teacher_cost(TEACHERS[name]).gmacs == pytest.approx(gmacs, rel=0.1)


def test_the_demos_size():
    cost = teacher_cost(TEACHERS["teacher_demo"])
    assert cost.gmacs == pytest.approx(40, rel=0.1)
    assert cost.parameters <= 20e6
    assert cost.per_frame_gmacs < cost.gmacs


def test_a_counted_layer_is_counted_right():
    """One convolution by hand: the encoder's first, 3 → C at 7 × 7."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        SuperFace(TINY).appearance.flat[0](torch.zeros(1, 3, 64, 64))
    assert counter.get_total_flops() == 2 * 64 * 64 * 3 * 49 * TINY.stem_channels


@pytest.fixture(scope="module")
def face(faces):
    landmarks = torch.from_numpy(faces)
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return Face(image, mesh_image(landmarks, 64), landmarks, landmarks[:, torch.from_numpy(LOCAL), :2])


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return SuperFace(TINY).eval()


def test_frames_and_motion_have_their_shapes(teacher, face):
    made = teacher(source=face, driving=face, transformed=face)
    assert made.frames.shape == (2, 3, 64, 64)
    assert made.frames.min() >= 0
    assert made.frames.max() <= 1
    assert made.flow.field.shape == (2, TINY.volume_depth, 16, 16, 3)
    assert torch.allclose(made.transformed.points, made.source.points)


def test_the_degraded_source_reaches_the_appearance_alone(teacher, face):
    noise = torch.rand_like(face.image)
    clean, degraded = teacher(source=face, driving=face), teacher(source=face, driving=face, appearance=noise)
    assert torch.equal(clean.source.points, degraded.source.points)
    assert not torch.equal(clean.frames, degraded.frames)


def test_bound_once_driven_often_is_the_same(teacher, face):
    made = teacher(source=face, driving=face)
    volume, points = teacher.appearance(face.image), teacher.keypoints(face)
    frames, _ = teacher.animate(
        volume, source=points, driving=points, source_local=face.local, driving_local=face.local
    )
    assert torch.allclose(frames, made.frames, atol=1e-5)


def test_faces_are_joined_and_parted(teacher, face):
    one, two = split_keypoints(teacher.keypoints(join_faces([face, face])), 2)
    assert torch.allclose(one.points, two.points, atol=1e-5)
    assert torch.allclose(one.points, teacher.keypoints(face).points, atol=1e-5)


def test_every_weight_learns(face):
    """No part hangs loose: processes that train together would wait for its gradient for ever."""
    torch.manual_seed(0)
    teacher = SuperFace(TINY)
    for p in teacher.parameters():  # layers that start at zero hide what lies before them
        if p.ndim > 1:
            torch.nn.init.normal_(p, std=0.05)
    made = teacher(source=face, driving=face, transformed=face)
    (made.frames.sum() + made.transformed.points.sum()).backward()
    loose = [name for name, p in teacher.named_parameters() if p.grad is None]
    assert not loose

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.spec import KEYPOINTS, LOCAL_LANDMARKS, NETWORK
from training.measures.expressions import (
    EXPRESSIONS,
    HEADS,
    draw_closeups,
    draw_lesson,
    measure_expressions,
    shortfalls,
    teach,
)
from training.teachers.mesh import MeshTeacher


@pytest.fixture(scope="module")
def lesson(faces):
    """The mesh teacher's drawing of every expression, over a photo of noise: all of a face changes when it moves."""
    photo = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    photo = torch.nn.functional.interpolate(photo[None], (NETWORK, NETWORK), mode="bilinear")[0]
    teacher = MeshTeacher()
    return teach(teacher, teacher.prepare(photo, torch.from_numpy(faces[0])))


def blended(lesson, share):
    """A student that makes so much of every change."""
    rest = lesson.frames[:, :1].float()
    return (rest + share * (lesson.frames.float() - rest)).round().byte()


def test_shapes_of_a_lesson(lesson):
    poses = (len(HEADS), 1 + len(EXPRESSIONS))
    assert lesson.frames.shape == (*poses, 3, NETWORK, NETWORK)
    assert lesson.keypoints.shape == (*poses, KEYPOINTS, 2)
    assert lesson.local_landmarks.shape == (*poses, LOCAL_LANDMARKS, 2)


def test_the_teacher_draws_all_and_a_still_picture_nothing(lesson):
    for row in measure_expressions(lesson.frames, lesson):
        assert row.drawn == row.worst == row.followed == 1
    still = lesson.frames[:, :1].expand_as(lesson.frames)
    for row in measure_expressions(still, lesson):
        assert row.drawn == row.followed == 0
        assert row.passed == (row.floor <= 0)
    assert len(shortfalls(measure_expressions(still, lesson))) == sum(face.floor > 0 for face in EXPRESSIONS.values())
    assert all(face.floor > 0 for name, face in EXPRESSIONS.items() if not name.startswith("glance"))


@settings(max_examples=8, deadline=None)
@given(share=st.floats(0, 1))
def test_part_of_a_change_is_part_of_it(lesson, share):
    for row in measure_expressions(blended(lesson, share), lesson):
        assert row.followed == pytest.approx(share, abs=0.02)
        assert row.drawn == pytest.approx(1 - (1 - share) ** 2, abs=0.02)


def test_a_blink_in_shreds_follows_and_is_not_drawn(lesson):
    """What a dead painter made of a blink: as much change as asked for, and stripes of the eye across it."""
    made = lesson.frames.clone().float()
    stripes = torch.zeros(NETWORK, NETWORK)
    stripes[::6] = stripes[1::6] = stripes[2::6] = 1
    wanted = made - made[:, :1]
    made = (made[:, :1] + wanted * (1 + 0.9 * (2 * stripes - 1))).clamp(0, 255).byte()
    rows = {row.expression: row for row in measure_expressions(made, lesson)}
    assert rows["blink"].followed > 0.75
    assert rows["blink"].drawn < 0.5
    assert not rows["blink"].passed


def test_a_shifted_frame_is_no_expression(lesson):
    """What stays the same in all frames of a head pose counts neither for nor against an expression."""
    brighter = (lesson.frames.float() * 0.9 + 12).clamp(0, 255)
    for row in measure_expressions(brighter.byte(), lesson):
        assert row.drawn > 0.97


def test_a_student_is_asked_pose_by_pose(lesson, random_student):
    made = draw_lesson(random_student, lesson)
    assert made.shape == lesson.frames.shape
    with torch.no_grad():
        one = random_student(lesson.keypoints[1, 2][None], lesson.local_landmarks[1, 2][None])[0]
    assert torch.equal(made[1, 2], (one * 255).round().byte())


def test_closeups_show_teacher_above_student(lesson):
    sheet = draw_closeups(255 - lesson.frames, lesson)
    assert sheet.dtype == np.uint8
    tiles = sheet[24:]
    high = len(tiles) // (2 * len(HEADS))
    for head in range(len(HEADS)):
        above, below = (tiles[(2 * head + row) * high :][:100, 1:161].astype(int) for row in (0, 1))
        assert np.abs(above + below - 255).mean() < 2

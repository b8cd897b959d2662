from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.driving.muscles import STRAYS, Puppet
from edge.driving.procedural import (
    MAX_PITCH_DEG,
    MAX_ROLL_DEG,
    MAX_YAW_DEG,
    Controls,
    draw_controls,
    draw_strays,
    held_out_seed,
    pose_face,
    procedural_track,
    showcase,
    train_seed,
)
from edge.errors import InputError, SpecError
from edge.motion import EYES, face_frame, fit_similarity, head_angles
from edge.topology import (
    CHIN,
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LEFT_IRIS_CENTRE,
    LOWER_LIP_RINGS,
    RIGHT_IRIS_CENTRE,
    UPPER_LIP_RINGS,
)

FACES = np.fromfile(Path(__file__).parent / "golden" / "faces.f32", "<f4").reshape(2, 478, 3)
CLOSED_MOUTH, SMILE = FACES
both_faces = pytest.mark.parametrize("face", FACES, ids=["closed mouth", "smile"])
muscle = st.sampled_from(["jaw_open", *Puppet(SMILE).fields])


def in_face_heights(face: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Displacement in the face's own axes, in face heights."""
    frame = face_frame(face)
    return (moved - face) @ frame.rotation / np.linalg.norm(face[CHIN] - face[10])


@both_faces
def test_rest_is_the_photo(face):
    np.testing.assert_allclose(pose_face(face, Controls.rest(3)), np.stack([face] * 3), atol=1e-6)


@both_faces
def test_lids_and_lips_meet_exactly(face):
    shut = pose_face(
        face,
        Controls.rest(
            2, blink_left=1, blink_right=1, lips_seal=1, jaw_open=0.3, smile=0.5, yaw_deg=[0, 25], gaze_y=0.5
        ),
    )
    for eye in EYES:
        np.testing.assert_array_equal(shut[:, eye.upper], shut[:, eye.lower])
    np.testing.assert_array_equal(shut[:, INNER_UPPER_LIP], shut[:, INNER_LOWER_LIP])


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(muscle, st.floats(0, 1), min_size=1, max_size=5))
def test_lips_never_cross(levels):
    for face in FACES:
        frame = face_frame(face)
        moved = (pose_face(face, Controls.rest(1, **levels))[0] - frame.origin) @ frame.rotation
        rest = (face - frame.origin) @ frame.rotation
        gap = moved[INNER_LOWER_LIP, 1] - moved[INNER_UPPER_LIP, 1]
        assert (gap >= np.minimum(rest[INNER_LOWER_LIP, 1] - rest[INNER_UPPER_LIP, 1], 0) - 1e-5).all()


@both_faces
def test_amplitudes_are_those_of_recorded_faces(face):
    """Ranges of 16 recorded clips, in face heights (1st to 99th percentile of each, the widest clip)."""

    def move(**controls):
        return in_face_heights(face, pose_face(face, Controls.rest(1, **controls))[0])

    wide = move(jaw_open=1)
    assert 0.09 < wide[CHIN, 1] < 0.15
    assert 0.13 < wide[14, 1] - wide[13, 1] < 0.22
    smile = move(smile=1)
    assert 0.03 < smile[291, 0] < 0.06
    assert -0.06 < smile[291, 1] < -0.03
    pucker = move(pucker=1)
    width = np.linalg.norm(face[291] - face[61]) / np.linalg.norm(face[CHIN] - face[10])
    assert 0.55 < (width + pucker[291, 0] - pucker[61, 0]) / width < 0.8
    assert -0.05 < move(brow_raise=1)[[105, 334], 1].mean() < -0.03
    gaze = move(gaze_x=1)[[RIGHT_IRIS_CENTRE, LEFT_IRIS_CENTRE], 0]
    assert (gaze > 0.02).all()
    assert (gaze < 0.05).all()


@both_faces
def test_muscles_keep_to_their_region(face):
    forehead, chin = [10, 109, 338, 67, 297], [CHIN, 148, 377]
    assert np.abs(in_face_heights(face, pose_face(face, Controls.rest(1, jaw_open=1))[0])[forehead]).max() < 1e-4
    assert np.abs(in_face_heights(face, pose_face(face, Controls.rest(1, brow_raise=1))[0])[chin]).max() < 1e-4


@both_faces
@settings(max_examples=25, deadline=None)
@given(name=muscle)
def test_skin_does_not_fold(face, name):
    """Away from lips and lids, neighbours never move apart or together by much more than their distance."""
    lids = [point for eye in EYES for part in (eye.upper, eye.lower) for point in part]
    corners = [61, 76, 62, 78, 291, 306, 292, 308]
    lips = np.concatenate([UPPER_LIP_RINGS.ravel(), LOWER_LIP_RINGS.ravel(), corners])
    skin = np.setdiff1d(np.arange(468), np.concatenate([lids, lips]))
    moved = in_face_heights(face, pose_face(face, Controls.rest(1, **{name: 1.0}))[0])[skin]
    rest = face[skin] / np.linalg.norm(face[CHIN] - face[10])
    distance = np.linalg.norm(rest[:, None] - rest[None], axis=-1)
    change = np.linalg.norm(moved[:, None] - moved[None], axis=-1)
    near = (distance > 0) & (distance < 0.08)
    assert (change[near] / np.maximum(distance[near], 0.015)).max() < 1.15


@pytest.mark.parametrize(("name", "value"), [("yaw_deg", 30), ("pitch_deg", 20), ("roll_deg", -20)])
def test_head_turns_as_told(name, value):
    fit = fit_similarity(pose_face(CLOSED_MOUTH, Controls.rest(1, **{name: value})), reference=CLOSED_MOUTH)
    frame = face_frame(CLOSED_MOUTH)
    angles = head_angles(frame.rotation.T @ fit.rotation @ frame.rotation)
    assert float(getattr(angles, name)[0]) == pytest.approx(value, abs=1e-3)
    assert float(fit.scale[0]) == pytest.approx(1.0, abs=1e-5)


def test_gaze_stays_between_the_corners():
    looks = pose_face(SMILE, Controls.rest(3, gaze_x=[-1, 0, 1]))
    for eye in EYES:
        low, high = looks[1, eye.corners, 0]
        centre = looks[:, eye.iris[0], 0]
        assert (np.diff(centre) > 0).all()
        assert low < centre[0]
        assert centre[2] < high


# -------------------------------------------------------------------------------------------------- tracks


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_training_and_held_out_seeds_never_meet(a, b):
    assert train_seed(a) != held_out_seed(b)
    assert (train_seed(a) == train_seed(b)) == (a == b)


def test_a_seed_is_a_track():
    one = procedural_track(SMILE, seed=train_seed(3), seconds=4)
    again = procedural_track(SMILE, seed=train_seed(3), seconds=4)
    other = procedural_track(SMILE, seed=held_out_seed(3), seconds=4)
    np.testing.assert_array_equal(one.landmarks, again.landmarks)
    assert np.abs(one.landmarks - other.landmarks).max() > 0.05
    assert one.landmarks.shape == (100, 478, 3)
    assert one.fps == 25
    assert one.detected.all()


@pytest.mark.parametrize("style", ["training", "speech"])
def test_tracks_start_and_end_at_rest_and_move_smoothly(style):
    for seed in range(4):
        track = procedural_track(CLOSED_MOUTH, seed=seed, seconds=8, style=style).landmarks
        np.testing.assert_allclose(track[[0, -1]], [CLOSED_MOUTH] * 2, atol=1e-6)
        assert np.abs(track[..., :2]).max() < 1.1
        assert np.abs(np.diff(track[..., :2], axis=0)).max() < 0.16


def test_training_strays_from_its_muscles_smoothly_and_a_little():
    strays = draw_strays(seed=train_seed(3), frames=200)
    assert strays.shape == (200, STRAYS, 3)
    assert not strays[[0, -1]].any()
    assert np.abs(np.diff(strays, axis=0)).max() < 0.015
    assert not np.array_equal(strays, draw_strays(seed=train_seed(4), frames=200))
    rest = Controls.rest(200)
    strayed = pose_face(CLOSED_MOUTH, rest, strays) - pose_face(CLOSED_MOUTH, rest)
    height = CLOSED_MOUTH[152, 1] - CLOSED_MOUTH[10, 1]
    size = np.sqrt(np.square(strayed).mean((0, 1))) / height
    assert 0.004 < size[0] < 0.02
    assert 0.004 < size[1] < 0.02
    # Neighbours go together, the two lips need not.
    across = np.linalg.norm(strayed[:, 61] - strayed[:, 76], axis=-1).mean()
    assert across < 0.5 * np.linalg.norm(strayed[:, 61] - strayed[:, 291], axis=-1).mean()


def test_training_covers_the_extremes_and_mostly_stays_calm():
    drawn = [draw_controls(seed=train_seed(i), seconds=30) for i in range(4)]
    controls = Controls(*(np.concatenate(column) for column in zip(*drawn, strict=True)))
    for name, limit in (("yaw_deg", MAX_YAW_DEG), ("pitch_deg", MAX_PITCH_DEG), ("roll_deg", MAX_ROLL_DEG)):
        value = getattr(controls, name)
        assert value.max() > 0.85 * limit
        assert value.min() < -0.85 * limit
        assert np.abs(value).max() <= limit
        assert np.mean(np.abs(value) < 0.5 * limit) > 0.6
    for name in (
        "jaw_open",
        "pucker",
        "funnel",
        "stretch",
        "smile",
        "mouth_frown",
        "brow_raise",
        "brow_frown",
    ):
        assert getattr(controls, name).max() > 0.7, name
    assert (controls.lips_seal == 1).mean() > 0.02
    for name in ("blink_right", "blink_left"):
        assert getattr(controls, name).max() == 1
        assert getattr(controls, name).min() < -0.15
    assert (np.abs(controls.blink_left - controls.blink_right) > 0.5).any()


def test_speech_is_as_wide_and_quick_as_recorded_speech():
    drawn = [draw_controls(seed=i, seconds=30, style="speech") for i in range(4)]
    jaw = np.concatenate([c.jaw_open for c in drawn])
    assert 0.15 < np.percentile(jaw, 90) < 0.45
    peaks = np.sum((jaw[1:-1] > jaw[:-2]) & (jaw[1:-1] >= jaw[2:]) & (jaw[1:-1] > 0.08)) / 120
    assert 1.5 < peaks < 6
    blinks = sum(np.sum(np.diff((c.blink_left > 0.3).astype(int)) == 1) for c in drawn)
    assert 12 < blinks < 70  # in two minutes
    assert max(np.abs(c.yaw_deg).max() for c in drawn) < 16


@pytest.mark.parametrize("fps", [10.0, 25.0, 59.94])
@pytest.mark.parametrize("seconds", [0.5, 1.0, 7.3])
def test_any_length_and_rate(seconds, fps):
    controls = draw_controls(seed=5, seconds=seconds, fps=fps)
    assert len(controls.yaw_deg) == round(seconds * fps)
    assert all(np.isfinite(value).all() for value in controls)


@both_faces
def test_showcase_has_a_name_for_every_pose(face):
    names, landmarks = showcase(face)
    assert len(set(names)) == len(names) == len(landmarks)
    assert landmarks.dtype == np.float32
    np.testing.assert_allclose(landmarks[names.index("neutral")], face, atol=1e-6)


def test_bad_input_is_explained():
    with pytest.raises(SpecError, match=r"source_landmarks has shape \(478, 2\)"):
        pose_face(SMILE[:, :2], Controls.rest(2))
    with pytest.raises(InputError, match="Control smile holds NaN"):
        pose_face(SMILE, Controls.rest(2)._replace(smile=np.array([0, np.nan])))
    with pytest.raises(SpecError, match=r"Control roll_deg has shape \(3,\), expected \(2,\)"):
        pose_face(SMILE, Controls.rest(2)._replace(roll_deg=np.zeros(3)))
    with pytest.raises(SpecError, match="no control 'wiggle'"):
        Controls.rest(2, wiggle=1)
    with pytest.raises(SpecError, match="does not have 2 frames"):
        Controls.rest(2, smile=np.zeros(3))
    with pytest.raises(SpecError, match="at least 1 frame"):
        Controls.rest(0)
    with pytest.raises(InputError, match=r"at least 3 frames, got 0\.05 seconds"):
        draw_controls(seed=0, seconds=0.05)
    with pytest.raises(InputError, match="at least 3 frames, got nan seconds"):
        draw_controls(seed=0, seconds=float("nan"))
    with pytest.raises(InputError, match="no motion style 'dance'"):
        draw_controls(seed=0, seconds=1, style="dance")
    with pytest.raises(InputError, match="from 0, got -1"):
        draw_controls(seed=-1, seconds=1)
    with pytest.raises(InputError, match="numbered from 0, got -2"):
        held_out_seed(-2)

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import motion
from edge.driving.procedural import Controls, pose_face
from edge.errors import InputError, SpecError
from edge.motion import (
    EYES,
    GAP_S,
    MAX_PITCH_DEG,
    MAX_ROLL_DEG,
    MAX_SHIFT,
    MAX_YAW_DEG,
    MAX_ZOOM,
    RESTLESS,
    WIDEST_EYES,
    LiveFilter,
    Retargeter,
    face_frame,
    fit_similarity,
    head_angles,
    head_rotation,
    neutral_frame,
    port_tables,
    soft_clamp,
    unrest,
)
from edge.topology import CHIN, INNER_LOWER_LIP, INNER_UPPER_LIP, LANDMARKS, LOCAL, MIRROR, NOSE_TIP, REGIONS, STABLE

FACES = np.fromfile(Path(__file__).parent / "golden" / "faces.f32", "<f4").reshape(2, 478, 3)
CLOSED_MOUTH, SMILE = FACES
"""One face with closed lips, one that smiles with its teeth."""

angle = st.floats(-18.0, 18.0)
share = st.floats(0.0, 1.0)
people = st.integers(0, 5)


@cache
def person(seed: int, smiles: bool = False) -> np.ndarray:
    """Another person: other proportions, one more crooked than the next, somewhere else in the crop."""
    rng = np.random.default_rng(seed)
    face = SMILE if smiles else CLOSED_MOUTH
    frame = face_frame(face)
    aligned = (face - frame.origin) @ frame.rotation
    aligned *= rng.uniform(0.8, 1.25, 3)
    x, y, _ = aligned.T
    for axis in (0, 1):
        aligned[:, axis] += rng.uniform(-0.04, 0.04) * np.sin(2.0 * x + rng.uniform(0, 6)) * np.cos(2.5 * y)
    turned = aligned @ head_rotation(*rng.uniform(-8.0, 8.0, 3)).T
    return (turned * rng.uniform(0.7, 1.2) + frame.origin + [*rng.uniform(-0.1, 0.1, 2), 0.0]).astype(np.float32)


def posed(face: np.ndarray, **controls: float) -> np.ndarray:
    return pose_face(face, Controls.rest(1, **controls))[0]


@given(st.floats(-80, 80), st.floats(-80, 80), st.floats(-170, 170))
def test_angles_and_rotation_are_inverse(yaw, pitch, roll):
    rotation = head_rotation(yaw, pitch, roll)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(head_angles(rotation), (yaw, pitch, roll), atol=1e-8)


def test_angles_follow_the_nose():
    nose, forehead = np.array([0.0, 0.0, -1.0]), np.array([0.0, -1.0, 0.0])
    assert (head_rotation(20, 0, 0) @ nose)[0] > 0.3
    assert (head_rotation(0, 20, 0) @ nose)[1] > 0.3
    assert (head_rotation(0, 0, 20) @ forehead)[0] > 0.3


def test_face_frame_sees_an_upright_face():
    yaw, pitch, roll = head_angles(face_frame(CLOSED_MOUTH).rotation)
    assert abs(yaw) < 5
    assert abs(pitch - 6) < 6
    assert abs(roll) < 5


@given(angle, angle, angle, st.floats(0.5, 2.0), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_fit_recovers_a_rigid_motion(yaw, pitch, roll, scale, x, y):
    rotation = head_rotation(yaw, pitch, roll)
    moved = scale * SMILE @ rotation.T + [x, y, 0.1]
    fit = fit_similarity(moved, reference=SMILE)
    np.testing.assert_allclose(fit.scale, scale, rtol=1e-6)
    np.testing.assert_allclose(fit.rotation, rotation, atol=1e-6)
    np.testing.assert_allclose(fit.translation, [x, y, 0.1], atol=1e-6)


@settings(max_examples=20)
@given(people)
def test_depth_noise_weighs_less_than_noise_across(seed):
    rng = np.random.default_rng(seed)
    noise = np.zeros((64, 478, 3))
    noise[:, STABLE, 2] = rng.normal(0, 0.02, (64, len(STABLE)))
    deep = head_angles(fit_similarity(SMILE + noise, reference=SMILE).rotation)
    across = head_angles(fit_similarity(SMILE + noise[..., [2, 0, 1]], reference=SMILE).rotation)
    assert np.hypot(*(np.std(a) for a in deep[:2])) < 3.0
    assert np.std(deep.roll_deg) < 0.3 * np.std(across.roll_deg)


def test_fit_ignores_the_mouth_and_takes_a_track():
    talking = np.stack([posed(CLOSED_MOUTH, jaw_open=level) for level in (0.0, 0.5, 1.0)])
    fit = fit_similarity(talking, reference=CLOSED_MOUTH)
    assert fit.scale.shape == (3,)
    assert fit.rotation.shape == (3, 3, 3)
    assert fit.translation.shape == (3, 3)
    assert np.abs(head_angles(fit.rotation)).max() < 0.5
    one = fit_similarity(talking[1], reference=CLOSED_MOUTH)
    np.testing.assert_allclose(one.rotation, fit.rotation[1], atol=1e-12)


def test_soft_clamp_is_free_inside_and_bounded_outside():
    value = np.linspace(-200, 200, 4001)
    clamped = soft_clamp(value, 35.0)
    inside = np.abs(value) <= 0.7 * 35.0
    np.testing.assert_array_equal(clamped[inside], value[inside])
    assert np.abs(clamped).max() <= 35.0
    assert (np.diff(clamped) >= 0).all()


# ------------------------------------------------------------------------------------------------ neutral


def test_neutral_frame_is_calm_frontal_and_awake():
    track = np.stack(
        [
            posed(CLOSED_MOUTH, yaw_deg=20),
            posed(CLOSED_MOUTH, blink_left=1, blink_right=1),
            posed(CLOSED_MOUTH, jaw_open=0.4),
            CLOSED_MOUTH,
            posed(CLOSED_MOUTH, roll_deg=12),
            np.full((478, 3), np.nan, np.float32),
        ]
    )
    assert neutral_frame(track) == 3
    assert neutral_frame(track[::-1]) == 2


@pytest.mark.parametrize("start", [{"smile": 1}, {"jaw_open": 0.4}, {"yaw_deg": 25}, {"brow_raise": 1}])
def test_a_clip_may_begin_with_anything(start):
    """A smile, a word, a turned head at the start is no rest, if rest comes later."""
    talk = [posed(CLOSED_MOUTH, jaw_open=j, yaw_deg=y) for j, y in ((0.2, 2), (0.0, 1), (0.3, -2), (0.0, 0), (0.1, 3))]
    track = np.stack([posed(CLOSED_MOUTH, **start)] * 4 + talk * 2)
    restless = unrest(track)
    assert neutral_frame(track) in (5, 7, 10, 12)
    assert restless.min() < RESTLESS
    assert restless[0] > 2 * restless.min()


def test_a_track_without_rest_says_so():
    assert unrest(np.stack([posed(CLOSED_MOUTH, yaw_deg=30, jaw_open=0.5)] * 9)).min() > RESTLESS


def test_a_driver_who_comes_near_does_not_fill_the_frame():
    near = posed(CLOSED_MOUTH) * np.float32(2.0)
    driven = Retargeter(source_landmarks=SMILE, driving_neutral=CLOSED_MOUTH)(near)
    assert np.log(fit_similarity(driven, reference=SMILE).scale) == pytest.approx(MAX_ZOOM, abs=0.02)


def test_neutral_frame_explains_itself():
    with pytest.raises(InputError, match="No face was found in any frame"):
        neutral_frame(np.full((30, 478, 3), np.nan))
    with pytest.raises(SpecError, match=r"shape \(478, 3\), expected \(T, 478, 3\)"):
        neutral_frame(CLOSED_MOUTH)


# --------------------------------------------------------------------------------------------- retargeting


@settings(max_examples=40, deadline=None)
@given(people, people)
def test_a_still_driver_gives_the_photo_back(avatar, driver):
    source, neutral = person(avatar, smiles=True), person(driver)
    retarget = Retargeter(source_landmarks=source, driving_neutral=neutral)
    np.testing.assert_allclose(retarget(np.stack([neutral] * 3)), np.stack([source] * 3), atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(people, angle, st.floats(-14, 14), angle, share, st.floats(0, 0.45), share, st.floats(-1, 1))
def test_the_avatar_driven_by_itself_follows_itself(seed, yaw, pitch, roll, mouth, blink, smile, gaze):
    face = person(seed)
    moved = posed(
        face,
        yaw_deg=yaw,
        pitch_deg=pitch,
        roll_deg=roll,
        jaw_open=mouth,
        blink_right=blink,
        blink_left=1.0,
        smile=smile,
        brow_raise=mouth,
        gaze_x=0.7 * gaze,
    )
    shift = np.array([0.05, -0.04, 0.0], np.float32)
    driven = Retargeter(source_landmarks=face, driving_neutral=face)(moved + shift)
    # A head that fills the crop may touch the soft limit of its travel: compare shapes, then places.
    np.testing.assert_allclose(driven - driven[NOSE_TIP], moved - moved[NOSE_TIP], atol=1e-3)
    assert np.abs((driven - moved - shift)[..., :2]).max() < 0.05


@settings(max_examples=30, deadline=None)
@given(people, people, st.floats(0.4, 2.5), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), angle, share)
def test_scaling_or_shifting_the_driver_changes_nothing(avatar, driver, scale, x, y, yaw, mouth):
    source, neutral = person(avatar), person(driver).astype(np.float64)
    track = np.stack([posed(neutral, yaw_deg=yaw, jaw_open=mouth, smile=0.5, gaze_x=0.5), neutral])
    track = track.astype(np.float64)  # so that the test itself does not round
    plain = Retargeter(source_landmarks=source, driving_neutral=neutral)(track)
    place = np.array([x, y, 0.0])
    elsewhere = Retargeter(source_landmarks=source, driving_neutral=scale * neutral + place)(scale * track + place)
    np.testing.assert_allclose(elsewhere, plain, atol=2e-5)


@settings(max_examples=40, deadline=None)
@given(people, people, angle, angle, angle)
def test_closed_eyes_stay_closed(avatar, driver, yaw, pitch, roll):
    neutral = person(driver)
    shut = posed(neutral, blink_left=1, blink_right=1, yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll)
    driven = Retargeter(source_landmarks=person(avatar, smiles=True), driving_neutral=neutral)(shut)
    for eye in EYES:
        np.testing.assert_array_equal(driven[eye.upper], driven[eye.lower])


@settings(max_examples=20, deadline=None)
@given(people, people, st.floats(0.86, 0.99))
def test_nearly_closed_eyes_close(avatar, driver, blink):
    """Trackers never bring lids together wholly; the avatar's still meet."""
    neutral = person(driver)
    driven = Retargeter(source_landmarks=person(avatar), driving_neutral=neutral)(
        posed(neutral, blink_left=blink, blink_right=blink)
    )
    for eye in EYES:
        np.testing.assert_array_equal(driven[eye.upper], driven[eye.lower])


def test_eyes_open_no_wider_than_an_avatar_can():
    sleepy = posed(CLOSED_MOUTH, blink_left=0.6, blink_right=0.6)
    driven = Retargeter(source_landmarks=SMILE, driving_neutral=sleepy)(CLOSED_MOUTH)
    frame = face_frame(SMILE)
    for eye in EYES:
        rest, wide = (((face[eye.lower] - face[eye.upper]) @ frame.rotation)[:, 1].mean() for face in (SMILE, driven))
        assert wide == pytest.approx(WIDEST_EYES * rest, rel=0.02)


def test_a_wink_moves_one_eye():
    driven = Retargeter(source_landmarks=SMILE, driving_neutral=CLOSED_MOUTH)(posed(CLOSED_MOUTH, blink_right=1))
    right, left = EYES
    np.testing.assert_array_equal(driven[right.upper], driven[right.lower])
    np.testing.assert_allclose(driven[left.upper], SMILE[left.upper], atol=2e-3)


@settings(max_examples=30, deadline=None)
@given(people, people, angle, angle, share)
def test_a_closed_mouth_stays_closed(avatar, driver, yaw, pitch, pucker):
    neutral = person(driver)
    shut = posed(neutral, lips_seal=1, jaw_open=0.1, pucker=pucker, yaw_deg=yaw, pitch_deg=pitch)
    driven = Retargeter(source_landmarks=person(avatar), driving_neutral=neutral)(shut)
    np.testing.assert_array_equal(driven[INNER_UPPER_LIP], driven[INNER_LOWER_LIP])


def test_a_photo_that_laughs_closes_its_mouth_in_absolute_mode():
    shut = posed(CLOSED_MOUTH, lips_seal=1)
    relative = Retargeter(source_landmarks=SMILE, driving_neutral=CLOSED_MOUTH)(shut)
    absolute = Retargeter(source_landmarks=SMILE, driving_neutral=CLOSED_MOUTH, mouth="absolute")(shut)
    gap = [(face[INNER_LOWER_LIP, 1] - face[INNER_UPPER_LIP, 1]).mean() for face in (SMILE, relative, absolute)]
    assert gap[1] == pytest.approx(gap[0], rel=0.1)
    assert gap[2] == 0.0


@settings(max_examples=20, deadline=None)
@given(people, people, st.floats(0.2, 1.0))
def test_an_open_mouth_opens_in_proportion(avatar, driver, jaw):
    """No less and no more than the same jaw opens the avatar's own face or the driver's."""
    source, neutral = person(avatar), person(driver)
    open_wide = posed(neutral, jaw_open=jaw)
    driven = Retargeter(source_landmarks=source, driving_neutral=neutral)(open_wide)

    def gap(face, rest):
        frame = face_frame(rest)
        aligned = (face - frame.origin) @ frame.rotation
        return np.linalg.norm(aligned[14] - aligned[13]) / (aligned[CHIN, 1] - aligned[10, 1])

    low, high = sorted((gap(posed(source, jaw_open=jaw), source), gap(open_wide, neutral)))
    assert 0.8 * low - 0.02 <= gap(driven, source) <= 1.2 * high + 0.02


def test_one_frame_is_a_track_of_one():
    retarget = Retargeter(source_landmarks=SMILE, driving_neutral=CLOSED_MOUTH)
    track = np.stack([posed(CLOSED_MOUTH, yaw_deg=a, jaw_open=0.3) for a in (-10, 0, 10)])
    together = retarget(track)
    assert together.shape == (3, 478, 3)
    assert together.dtype == np.float32
    for alone, frame in zip(map(retarget, track), together, strict=True):
        np.testing.assert_allclose(alone, frame, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(people, st.floats(-80, 80), st.floats(-50, 50), st.floats(-70, 70), st.floats(-2, 2))
def test_wild_drivers_are_held_to_what_an_avatar_can_do(avatar, yaw, pitch, roll, shift):
    source = person(avatar)
    wild = posed(CLOSED_MOUTH, yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll, shift_x=shift, shift_y=-shift)
    driven = Retargeter(source_landmarks=source, driving_neutral=CLOSED_MOUTH)(wild)
    pose = fit_similarity(driven, reference=source)
    frame = face_frame(source)
    angles = head_angles(frame.rotation.T @ pose.rotation @ frame.rotation)
    assert abs(angles.yaw_deg) <= MAX_YAW_DEG + 1e-3
    assert abs(angles.pitch_deg) <= MAX_PITCH_DEG + 1e-3
    assert abs(angles.roll_deg) <= MAX_ROLL_DEG + 1e-3
    travel = driven[STABLE].mean(axis=0) - source[STABLE].mean(axis=0)
    assert np.abs(travel[:2]).max() <= MAX_SHIFT + 1e-3


def test_retargeting_explains_bad_input():
    with pytest.raises(SpecError, match=r"source_landmarks has shape \(468, 3\), expected \(478, 3\)"):
        Retargeter(source_landmarks=CLOSED_MOUTH[:468], driving_neutral=CLOSED_MOUTH)
    with pytest.raises(SpecError, match=r"driving_neutral has shape \(1, 478, 3\)"):
        Retargeter(source_landmarks=CLOSED_MOUTH, driving_neutral=CLOSED_MOUTH[None])
    broken = CLOSED_MOUTH.copy()
    broken[5, 1] = np.nan
    with pytest.raises(InputError, match="driving_neutral holds NaN or infinite"):
        Retargeter(source_landmarks=CLOSED_MOUTH, driving_neutral=broken)
    retarget = Retargeter(source_landmarks=CLOSED_MOUTH, driving_neutral=CLOSED_MOUTH)
    with pytest.raises(InputError, match="landmarks holds NaN or infinite"):
        retarget(broken)
    with pytest.raises(SpecError, match=r"landmarks has shape \(478, 2\)"):
        retarget(CLOSED_MOUTH[:, :2])
    with pytest.raises(SpecError, match=r"landmarks has shape \(0, 478, 3\)"):
        retarget(np.zeros((0, 478, 3)))
    with pytest.raises(SpecError, match="dtype <U3, expected floating-point"):
        retarget(np.full((478, 3), "abc"))
    with pytest.raises(InputError, match="without extent"):
        retarget(np.zeros((478, 3)))
    with pytest.raises(InputError, match="right eye is closed in the neutral frame"):
        Retargeter(source_landmarks=CLOSED_MOUTH, driving_neutral=posed(CLOSED_MOUTH, blink_right=1))
    with pytest.raises(InputError, match="no mouth mode 'open'"):
        Retargeter(source_landmarks=CLOSED_MOUTH, driving_neutral=CLOSED_MOUTH, mouth="open")


def test_an_expression_is_placed_by_a_pose_of_its_own():
    """Expression and place are two steps: with the head at rest nothing but the expression is left, and back."""
    driver = pose_face(
        CLOSED_MOUTH, Controls.rest(3, jaw_open=0.3, blink_left=0.8, yaw_deg=np.array([0.0, 15.0, -15.0]))
    )
    retarget = Retargeter(source_landmarks=SMILE, driving_neutral=CLOSED_MOUTH)
    pose = retarget.pose(driver)
    face = retarget.express(driver)
    assert np.abs(face[1:] - face[0]).max() < 0.01  # the same expression, whichever way the head is turned
    assert np.array_equal(face, retarget.express(driver, pose))
    assert np.abs(retarget.place(face, pose) - retarget(driver)).max() < 1e-6
    assert np.abs(retarget.place(face[2], retarget.pose(driver[2])) - retarget(driver[2])).max() < 1e-6
    rest = retarget.pose(CLOSED_MOUTH)
    assert np.abs(retarget.place(SMILE, rest) - SMILE).max() < 1e-6


def test_a_region_is_driven_by_another_than_the_face():
    """A mouth from elsewhere, everything else the driver's: after `place` both are there."""
    retarget = Retargeter(source_landmarks=SMILE, driving_neutral=CLOSED_MOUTH)
    driver = pose_face(CLOSED_MOUTH, Controls.rest(1, blink_left=1.0, blink_right=1.0, yaw_deg=10.0))[0]
    spoken = retarget.express(pose_face(CLOSED_MOUTH, Controls.rest(1, jaw_open=0.5))[0])
    face, pose = retarget.express(driver), retarget.pose(driver)
    mixed = face.copy()
    rows = np.concatenate([REGIONS["mouth"], REGIONS["jaw"]])
    mixed[rows] = spoken[rows]
    placed, plain = retarget.place(mixed, pose), retarget(driver)
    others = np.setdiff1d(np.arange(LANDMARKS), rows)
    assert np.abs(placed[others] - plain[others]).max() < 1e-6
    opened = (placed[INNER_LOWER_LIP, 1] - placed[INNER_UPPER_LIP, 1]).mean()
    assert opened > (plain[INNER_LOWER_LIP, 1] - plain[INNER_UPPER_LIP, 1]).mean() + 0.05


def test_regions_share_no_landmark_and_are_as_wide_on_both_sides():
    rows = np.concatenate(list(REGIONS.values()))
    assert len(rows) == len(np.unique(rows))
    for name in ("mouth", "brows", "jaw", "gaze"):
        assert set(MIRROR[REGIONS[name]]) == set(REGIONS[name])
    assert set(MIRROR[REGIONS["left_eye"]]) == set(REGIONS["right_eye"])


def live(track: np.ndarray, fps: float = 30.0) -> np.ndarray:
    calm = LiveFilter()
    return np.stack([calm(face, n / fps) for n, face in enumerate(track)])


def test_a_live_face_at_rest_trembles_half_as_much():
    noise = np.random.default_rng(0).normal(0, 0.001, (90, LANDMARKS, 3))
    calmed = live(CLOSED_MOUTH + noise)[20:] - CLOSED_MOUTH
    assert calmed.std() < 0.5 * noise[20:].std()
    assert np.diff(calmed, axis=0).std() < 0.4 * np.diff(noise[20:], axis=0).std()


def test_a_live_head_lags_less_than_a_frame():
    """A head that sways by a tenth of the crop once in two seconds: the delay that explains the difference best."""
    times = np.arange(120) / 30
    sway = 0.1 * np.sin(np.pi * times)
    seen = (
        live(CLOSED_MOUTH + sway[:, None, None] * np.array([1.0, 0.0, 0.0]))[:, NOSE_TIP, 0] - CLOSED_MOUTH[NOSE_TIP, 0]
    )
    delays = np.linspace(0, 0.1, 101)
    errors = [np.square(0.1 * np.sin(np.pi * (times - delay)) - seen)[30:].sum() for delay in delays]
    assert delays[int(np.argmin(errors))] < 0.03
    assert np.ptp(seen[30:]) > 0.95 * 0.2


def test_a_live_blink_closes_the_eye():
    blink = np.zeros(40)
    blink[20:23] = 0.5, 1.0, 0.5
    track = live(pose_face(CLOSED_MOUTH, Controls.rest(40, blink_right=blink)))
    gap = (track[:, EYES[0].lower, 1] - track[:, EYES[0].upper, 1]).mean(axis=1)
    assert gap.min() < 0.15 * gap[0]


def test_a_live_track_begins_anew_after_a_gap_and_wants_a_clock():
    calm = LiveFilter()
    assert np.abs(calm(CLOSED_MOUTH, 5.0) - CLOSED_MOUTH).max() < 1e-6
    assert np.abs(calm(CLOSED_MOUTH + 0.1, 5.03) - CLOSED_MOUTH - 0.1).max() > 1e-3
    assert np.abs(calm(SMILE, 5.04 + GAP_S) - SMILE).max() < 1e-6
    with pytest.raises(InputError, match=r"the last one's was 5\.54 s"):
        calm(SMILE, 5.0)
    with pytest.raises(InputError, match="Give seconds"):
        calm(SMILE, float("nan"))
    with pytest.raises(SpecError, match="landmarks has shape"):
        calm(SMILE[:468], 6.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.005, 0.2), min_size=1, max_size=30))
def test_a_live_face_that_rests_is_given_back(steps):
    calm, seconds = LiveFilter(), 0.0
    for step in steps:
        seconds += step
        assert np.abs(calm(SMILE, seconds) - SMILE).max() < 1e-6


def test_every_number_of_this_file_is_in_the_tables_of_ports():
    tables = port_tables()
    numbers = {name.strip("_").lower(): value for name, value in vars(motion).items() if isinstance(value, float)}
    assert tables["limits"] == numbers
    assert json.loads(json.dumps(tables)) == tables
    assert tables["regions"].keys() == REGIONS.keys()
    assert np.array_equal(tables["rows"]["local"], LOCAL)

import numpy as np
import pytest
import torch

from edge.motion import EYES
from edge.spec import NETWORK
from edge.topology import INNER_LOWER_LIP, LEFT_MOUTH_CORNER, LOCAL
from training.measures.face import FaceFidelity, box_psnr, followed, measure_face
from training.student.losses import LEFT_EYE, LIPS

SIZE = NETWORK
T = 12


class Finder:
    """Finds in each picture the face that it was told of, wherever in it, and trembles by so many pixels."""

    def __init__(self, trembling=0.0):
        self.faces = {}
        self.trembling, self.random = trembling, np.random.default_rng(0)

    def show(self, face, seed):
        picture = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        self.faces[picture.tobytes()] = face
        return picture.repeat(SIZE // 8, 0).repeat(SIZE // 8, 1)

    def detect(self, image):
        face = self.faces[np.ascontiguousarray(image[40 :: SIZE // 8, 40 :: SIZE // 8]).tobytes()]
        return [] if face is None else [face + self.random.normal(0, self.trembling, face.shape)]


@pytest.fixture
def face(faces):
    """Landmarks of one face in pixels."""
    return ((faces[0] + 1) * ((SIZE - 1) / 2)).astype(np.float32)


def moved(face, *, jaw=0.0, wide=0.0, shut=0.0, glance=0.0):
    """The face with lips, lids and irises moved, in pixels."""
    face = face.copy()
    face[INNER_LOWER_LIP, 1] += jaw
    face[LEFT_MOUTH_CORNER, 0] += wide
    for eye in EYES:
        face[eye.upper, 1] += shut
        face[eye.iris, 0] += glance
    return face


def measure(face, mine, theirs, trembling=0.0):
    finder = Finder(trembling)
    made = [finder.show(None if one is None else moved(face, **one), at) for at, one in enumerate(mine)]
    wanted = [finder.show(moved(face, **one), len(mine) + at) for at, one in enumerate(theirs)]
    local = np.repeat((face[None, LOCAL, :2] / ((SIZE - 1) / 2) - 1), len(made), 0)
    return measure_face(made, wanted, local, finder)


def apart(face):
    one, other = (face[eye.corners, :2].mean(0) for eye in EYES)
    return float(np.linalg.norm(one - other))


def waves(count=T, **most):
    return [{name: value * abs(np.sin(at / 2)) for name, value in most.items()} for at in range(count)]


def test_the_same_face_is_followed_without_error(face):
    track = waves(jaw=20.0, shut=4.0, glance=3.0)
    found = measure(face, [dict(one) for one in track], track)
    errors = (found.lip_opening, found.mouth_width, found.lid_opening, found.gaze, found.lost)
    assert max(errors) == pytest.approx(0, abs=1e-6)
    assert (found.lips_followed, found.lids_followed, found.gaze_followed) == pytest.approx((1, 1, 1))
    assert found.frames == T


def test_half_the_motion_is_half_followed(face):
    found = measure(face, waves(jaw=10.0, shut=2.0, glance=2.0), waves(jaw=20.0, shut=4.0, glance=4.0))
    assert found.lips_followed == pytest.approx(0.5, abs=0.02)
    assert found.lids_followed == pytest.approx(0.5, abs=0.1)
    assert found.gaze_followed == pytest.approx(0.5, abs=0.02)


def test_what_trembles_in_the_finder_is_no_motion_that_a_student_misses(face):
    """A single look at a student that is its teacher finds a fifth of its gaze followed, and half of its lips."""
    track = waves(count=100, jaw=10.0, shut=4.0, glance=3.0)
    found = measure(face, track, track, trembling=1.5)
    assert (found.lips_followed, found.lids_followed, found.gaze_followed) == pytest.approx((1, 1, 1), abs=0.15)
    half = measure(face, [{name: value / 2 for name, value in one.items()} for one in track], track, trembling=1.5)
    assert half.gaze_followed == pytest.approx(0.5, abs=0.15)


def test_errors_are_percent_of_the_distance_between_the_eyes(face):
    one = 100 / apart(face)
    found = measure(face, [{"jaw": 6.0, "wide": 9.0, "glance": 3.0}] * T, [{}] * T)
    assert found.lip_opening == pytest.approx(6 * one, rel=0.05)
    assert found.mouth_width == pytest.approx(9 * one, rel=0.05)
    assert found.gaze == pytest.approx(3 * one, rel=0.05)
    assert np.isnan(found.lips_followed)  # the teacher held still
    assert "lips_followed" not in found.known()


def test_a_shut_eye_has_no_gaze(face):
    for eye in EYES:
        face[eye.upper] = face[eye.lower]
    found = measure(face, [{"glance": 9.0}] * T, [{}] * T)
    assert np.isnan(found.gaze)
    assert found.lid_opening == pytest.approx(0, abs=1e-6)


def test_a_face_that_is_not_one_any_more_is_counted(face):
    found = measure(face, [None, None, None, *[{}] * 9], [{}] * T)
    assert found.lost == 0.25
    assert measure(face, [None] * 3, [{}] * 3).lost == 1


def test_boxes_see_what_whole_frames_do_not(faces):
    local = torch.from_numpy(faces[0][LOCAL, :2]).float()
    wanted = torch.full((3, SIZE, SIZE), 0.5)
    made = wanted.clone()
    x, y = ((local[LIPS].mean(0) + 1) * ((SIZE - 1) / 2)).round().long()
    made[:, y - 3 : y + 4, x - 3 : x + 4] = 0
    mouth, eyes = box_psnr(made, wanted, local)
    assert eyes == pytest.approx(99, abs=0.1)
    assert mouth < 30
    x, y = ((local[LEFT_EYE].mean(0) + 1) * ((SIZE - 1) / 2)).round().long()
    made[:, y, x] = 0
    assert box_psnr(made, wanted, local)[1] < eyes


def test_followed_is_a_slope():
    theirs = np.sin(np.arange(40.0))

    def both(mine):
        return np.stack([mine, theirs], 1)[:, :, None].repeat(2, 2)  # each by two groups of views

    assert followed([both(0.3 * theirs + 5) * 4]) == pytest.approx(0.3)
    assert followed([both(-theirs) * 4]) == pytest.approx(-1)
    assert np.isnan(followed([both(theirs) * 0.01]))
    assert np.isnan(followed([]))


def test_lpips_looks_at_boxes_of_one_size(face):
    class Flat:
        def distance(self, frames, reference):
            assert frames.shape == reference.shape == (3, 3, 128, 128)
            return torch.tensor([0.3, 0.1, 0.2])

    finder = Finder()
    pictures = [finder.show(face, at) for at in range(2)]
    local = (face[None, LOCAL, :2] / ((SIZE - 1) / 2) - 1).repeat(1, 0)
    found = measure_face(pictures[:1], pictures[1:], local, finder, Flat())
    assert (found.mouth_lpips, found.eyes_lpips) == pytest.approx((0.3, 0.15))


def test_nothing_measured_is_no_figure():
    found = measure_face([], [], np.zeros((0, len(LOCAL), 2)), Finder())
    assert found.known() == {"frames": 0.0}
    assert isinstance(found, FaceFidelity)

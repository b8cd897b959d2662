"""A driver before a camera, as every bundle holds one."""

import numpy as np
import pytest

from converters.golden import POSES, golden_motion
from edge.motion import Retargeter, face_frame, head_angles
from edge.preprocess import Crop, face_crop, to_crop
from edge.topology import CHIN, LANDMARKS, LEFT_CHEEK_EDGE, RIGHT_CHEEK_EDGE


@pytest.mark.parametrize("person", [0, 1])
def test_each_step_follows_from_the_camera(faces, person):
    motion = golden_motion(faces[person])
    count = len(POSES)
    assert motion.camera_neutral.shape == (LANDMARKS, 3)
    for part in (motion.camera_landmarks, motion.live_landmarks, motion.landmarks):
        assert part.shape == (count, LANDMARKS, 3)
        assert part.dtype == np.float32
    camera = motion.camera
    crop = Crop(camera.x, camera.y, camera.size)
    assert face_crop(motion.camera_neutral, (camera.width, camera.height)) == pytest.approx(crop, abs=1e-3)
    assert 0 < motion.camera_landmarks[..., 0].min() < motion.camera_landmarks[..., 0].max() < camera.width
    assert 0 < motion.camera_landmarks[..., 1].min() < motion.camera_landmarks[..., 1].max() < camera.height
    retarget = Retargeter(source_landmarks=faces[person], driving_neutral=to_crop(motion.camera_neutral, crop))
    assert np.abs(retarget(to_crop(motion.camera_landmarks, crop)) - motion.landmarks).max() < 1e-6


def test_the_driver_is_another_than_the_avatar_and_moves_everything(faces):
    motion = golden_motion(faces[0])
    assert np.abs(motion.landmarks[0] - faces[0]).max() < 0.01  # at rest the photo comes back

    def shape(face):
        frame = face_frame(face)
        aligned = (face - frame.origin) @ frame.rotation
        return (aligned[LEFT_CHEEK_EDGE, 0] - aligned[RIGHT_CHEEK_EDGE, 0]) / aligned[CHIN, 1]

    assert shape(motion.camera_neutral) < 0.95 * shape(faces[0])
    yaws = [float(head_angles(face_frame(face).rotation).yaw_deg) for face in motion.landmarks]
    assert max(yaws) - min(yaws) > 20

"""What every bundle is tried with: a driver before a camera, and what becomes of it at every step of a port."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from edge.bundle import Floats, GoldenCamera
from edge.driving.procedural import showcase
from edge.judges.check import follow
from edge.motion import face_frame
from edge.preprocess import Crop, face_crop, from_crop

POSES = ("neutral", "yaw -15", "yaw +15", "pitch +20", "blink", "jaw half", "smile, teeth", "oh")
"""Between them they move everything."""
_PICTURE = (1280, 720)
_PLACE = Crop(431.5, 96.25, 540.0)
"""Where in the camera's picture the driver is."""
_UNLIKE = np.array([0.93, 1.06, 1.1])
"""How much wider, longer and deeper the driver's face is than the avatar's: an avatar is not driven by itself."""
FPS = 30.0


class GoldenMotion(NamedTuple):
    """A driver seen by a camera, float32, T frames; each step follows from the first two alone."""

    camera: GoldenCamera
    camera_neutral: Floats
    """[478, 3], pixels: the driver at rest."""
    camera_landmarks: Floats
    """[T, 478, 3], pixels."""
    live_landmarks: Floats
    """[T, 478, 3], crop coordinates: through `edge.motion.LiveFilter`, one frame after the other."""
    landmarks: Floats
    """[T, 478, 3], crop coordinates: retargeted to the avatar, unfiltered."""


def golden_motion(source_landmarks: Floats, poses: Sequence[str] = POSES) -> GoldenMotion:
    """A driver of other proportions than the avatar's, in poses of `edge.driving.procedural.showcase`.

    Args:
        source_landmarks: float32 [478, 3], the avatar's, crop coordinates.
        poses: their names; T of them.
    """
    frame = face_frame(source_landmarks)
    aligned = (source_landmarks - frame.origin) @ frame.rotation * _UNLIKE
    names, moved = showcase(aligned @ frame.rotation.T + frame.origin)
    chosen = np.stack([moved[names.index(pose)] for pose in ("neutral", *poses)]).astype(np.float32)
    pixels = from_crop(chosen, _PLACE).astype(np.float32)
    neutral, seen = pixels[0], pixels[1:]
    crop = face_crop(neutral, _PICTURE)
    seconds = tuple(round(index / FPS, 6) for index in range(len(seen)))
    live, landmarks = follow(neutral, seen, crop, seconds, source_landmarks)
    camera = GoldenCamera(*_PICTURE, float(crop.x), float(crop.y), float(crop.size), seconds)
    return GoldenMotion(camera, neutral, seen, live, landmarks)

"""From the user's face to the avatar's: head pose, the driver's neutral frame, retargeting.

Plain numpy, no state between frames: Kotlin and Swift port this file line by line.

Axes, everywhere in this file: x to the right of the image, y down, z away from the camera (a right-handed
frame; the nose has the smallest z). Angles in degrees, and their signs follow the nose:

    yaw   > 0   the nose turns to the right of the image (towards +x)
    pitch > 0   the nose turns down (towards +y)
    roll  > 0   the head tilts clockwise on the screen (the forehead moves towards +x)

and rotation = Rz(roll) · Ry(−yaw) · Rx(pitch), applied to column vectors.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError, SpecError
from edge.topology import (
    CHIN,
    FOREHEAD_TOP,
    LANDMARKS,
    STABLE,
)

Array = NDArray[np.float64]

DEPTH_WEIGHT = 0.5
"""How far a landmark's z is believed beside its x and y when a pose is fitted (MediaPipe guesses z from one view)."""

# Mirrored points that expression hardly moves, right then left: they carry the face's own x axis.
_RIGHT_SIDE = np.array([33, 133, 234, 127, 162, 21, 98])
_LEFT_SIDE = np.array([263, 362, 454, 356, 389, 251, 327])


class Similarity(NamedTuple):
    """points ≈ scale · rotation · reference + translation, for one face or for T of them."""

    scale: Array
    """float64 [] or [T], > 0."""
    rotation: Array
    """float64 [3, 3] or [T, 3, 3]; determinant +1, acts on column vectors."""
    translation: Array
    """float64 [3] or [T, 3], in crop coordinates."""


class HeadAngles(NamedTuple):
    """Head pose in degrees; the signs follow the nose (see the top of this file)."""

    yaw_deg: Array
    pitch_deg: Array
    roll_deg: Array


class FaceFrame(NamedTuple):
    """A face's own axes: aligned = (landmarks - origin) @ rotation; landmarks = aligned @ rotation.T + origin."""

    origin: Array
    """float64 [3]: centre of the stable points."""
    rotation: Array
    """float64 [3, 3]: its columns are the face's x (to its left side), y (to its chin) and z (to its back)."""


def check_landmarks(landmarks: NDArray[np.floating], name: str = "landmarks", *, track: bool = False) -> Array:
    """The landmarks as float64, or a sentence that says what is wrong with them.

    Args:
        landmarks: [478, 3], or [T, 478, 3] where `track` allows it, T ≥ 1; finite.
        name: what the sentence calls them.
        track: whether a time axis is welcome too.

    Raises:
        SpecError: wrong shape or not a number type.
        InputError: NaN or infinite coordinates, or all points in one place.
    """
    wanted = f"({LANDMARKS}, 3) or (T, {LANDMARKS}, 3)" if track else f"({LANDMARKS}, 3)"
    array = np.asarray(landmarks)
    ranks = (2, 3) if track else (2,)
    if array.ndim not in ranks or array.shape[-2:] != (LANDMARKS, 3) or array.size == 0:
        raise SpecError(
            f"{name} has shape {array.shape}, expected {wanted}. "
            "Give all points of MediaPipe's FaceLandmarker, irises included."
        )
    if array.dtype.kind not in "fiu":
        raise SpecError(f"{name} has dtype {array.dtype}, expected floating-point coordinates.")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(
            f"{name} holds NaN or infinite coordinates. "
            "Interpolate or drop the frames in which no face was found before passing them on."
        )
    if np.ptp(array[..., :2], axis=-2).min() < 1e-4:
        raise InputError(f"{name} holds a face without extent (all points in one place). Detect the face again.")
    return array


def head_rotation(yaw_deg: float | Array, pitch_deg: float | Array, roll_deg: float | Array) -> Array:
    """The rotation of these angles: float64 [3, 3] for numbers, [T, 3, 3] for arrays [T]. Inverse of `head_angles`."""
    yaw, pitch, roll = (np.radians(np.asarray(angle, dtype=np.float64)) for angle in (yaw_deg, pitch_deg, roll_deg))
    sy, cy = np.sin(-yaw), np.cos(-yaw)
    sp, cp = np.sin(pitch), np.cos(pitch)
    sr, cr = np.sin(roll), np.cos(roll)
    rows = [
        [cr * cy, cr * sy * sp - sr * cp, cr * sy * cp + sr * sp],
        [sr * cy, sr * sy * sp + cr * cp, sr * sy * cp - cr * sp],
        [-sy, cy * sp, cy * cp],
    ]
    return np.stack([np.stack(np.broadcast_arrays(*row), axis=-1) for row in rows], axis=-2)


def head_angles(rotation: Array) -> HeadAngles:
    """Yaw, pitch and roll in degrees of rotations [..., 3, 3] (signs: top of this file). Exact for |yaw| < 90°."""
    rotation = np.asarray(rotation, dtype=np.float64)
    return HeadAngles(
        np.degrees(np.arcsin(np.clip(rotation[..., 2, 0], -1.0, 1.0))),
        np.degrees(np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2])),
        np.degrees(np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])),
    )


def face_frame(landmarks: NDArray[np.floating]) -> FaceFrame:
    """The face's own axes, read from one neutral face [478, 3]: no mean face is needed.

    x runs through mirrored points from the right to the left side of the face, y from the top of the forehead
    to the chin (upright to within 2 degrees in a relaxed face), z completes them towards the back of the head.
    """
    points = check_landmarks(landmarks)
    x_axis = (points[_LEFT_SIDE] - points[_RIGHT_SIDE]).sum(axis=0)
    x_axis /= np.linalg.norm(x_axis)
    y_axis = points[CHIN] - points[FOREHEAD_TOP]
    y_axis -= x_axis * (x_axis @ y_axis)
    y_axis /= np.linalg.norm(y_axis)
    return FaceFrame(points[STABLE].mean(axis=0), np.stack([x_axis, y_axis, np.cross(x_axis, y_axis)], axis=1))


def fit_similarity(points: NDArray[np.floating], *, reference: NDArray[np.floating]) -> Similarity:
    """The scaled rotation and shift that best carry the reference's stable points onto those of `points`.

    Least squares (Umeyama 1991), with z counted `DEPTH_WEIGHT` as much as x and y. The weighted problem has no
    closed form; each round replaces the measured z by a blend of it and the current fit's, then solves the plain
    problem: that never increases the weighted error, and a truly rigid motion is exact from round one.

    Args:
        points: [478, 3] or [T, 478, 3], crop coordinates.
        reference: [478, 3], usually the neutral frame of the same person.

    Returns:
        Similarity, with a time axis when `points` has one.

    Raises:
        SpecError, InputError: see `check_landmarks`.
    """
    target = check_landmarks(points, "points", track=True)[..., STABLE, :]
    source = check_landmarks(reference, "reference")[STABLE]
    source_mean = source.mean(axis=0)
    centred = source - source_mean
    spread = (centred**2).sum()
    measured_z = target[..., 2].copy()
    for round_ in range(4):
        target_mean = target.mean(axis=-2)
        moved = target - target_mean[..., None, :]
        u, sizes, vt = np.linalg.svd(np.swapaxes(moved, -1, -2) @ centred)
        flip = np.ones_like(sizes)
        flip[..., 2] = np.sign(np.linalg.det(u @ vt))  # a mirrored face is no rotation
        rotation = (u * flip[..., None, :]) @ vt
        scale = (sizes * flip).sum(axis=-1) / spread
        translation = target_mean - scale[..., None] * (rotation @ source_mean)
        if round_ < 3:
            fitted_z = scale[..., None] * (source @ rotation[..., 2, :, None])[..., 0] + translation[..., 2, None]
            target = target.copy()
            target[..., 2] = DEPTH_WEIGHT * measured_z + (1.0 - DEPTH_WEIGHT) * fitted_z
    return Similarity(scale, rotation, translation)

"""From the user's face to the avatar's: head pose, the driver's neutral frame, retargeting.

Plain numpy, and but for `LiveFilter` no state between frames: Kotlin and Swift port this file line by line.

Axes, everywhere in this file: x to the right of the image, y down, z away from the camera (a right-handed
frame; the nose has the smallest z). Angles in degrees, and their signs follow the nose:

    yaw   > 0   the nose turns to the right of the image (towards +x)
    pitch > 0   the nose turns down (towards +y)
    roll  > 0   the head tilts clockwise on the screen (the forehead moves towards +x)

and rotation = Rz(roll) · Ry(−yaw) · Rx(pitch), applied to column vectors.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError, SpecError
from edge.topology import (
    CHIN,
    FOREHEAD_TOP,
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LANDMARKS,
    LEFT_BROW,
    LEFT_CHEEK_EDGE,
    LEFT_EYE_INNER,
    LEFT_EYE_OUTER,
    LEFT_FOLD,
    LEFT_IRIS,
    LEFT_LOWER_LID,
    LEFT_MOUTH_CORNER,
    LEFT_UPPER_LID,
    LOCAL,
    LOWER_LIP_RINGS,
    REGIONS,
    RIGHT_BROW,
    RIGHT_CHEEK_EDGE,
    RIGHT_EYE_INNER,
    RIGHT_EYE_OUTER,
    RIGHT_FOLD,
    RIGHT_IRIS,
    RIGHT_LOWER_LID,
    RIGHT_MOUTH_CORNER,
    RIGHT_UPPER_LID,
    STABLE,
    UPPER_LIP_RINGS,
)

Array = NDArray[np.float64]

DEPTH_WEIGHT = 0.5
"""How far a landmark's z is believed beside its x and y in a pose fit: MediaPipe guesses z from one view."""

MAX_YAW_DEG, MAX_PITCH_DEG, MAX_ROLL_DEG = 35.0, 25.0, 30.0
"""How far an avatar turns from its photo; a driver who goes further is followed ever more slowly."""

NECK = np.array([0.0, 0.56, 0.48])
"""The point a head turns about, in the face's own axes, in face heights from the stable points' centre.

Median of seven recorded heads; people spread from 0.3 to 0.7 downwards and from 0.35 to 0.7 backwards."""

MAX_ZOOM = 0.15
"""Largest growth or shrinking of the head, as a logarithm: 16 %. A driver who comes near would fill the frame."""

RESTLESS = 1.0
"""`unrest` from which a frame is no neutral one."""

MAX_BODY_SHIFT = 0.15
"""How far the head is carried by a moving body, in half crops: the avatar's shoulders stay where they are."""

MAX_SHIFT = 0.45
"""How far the head's centre travels across the crop in all, turning included (half crops)."""

LIDS_SHUT = 0.2
"""Share of the rest opening below which real lids are shut: MediaPipe leaves 2 to 20 % of it in a blink."""

LIDS_FREE = 0.45
"""Share of the rest opening from which lids follow the driver exactly."""

WIDEST_EYES = 1.6
"""Largest opening of the lids, as a share of the rest opening."""

LIP_FOLLOWS = np.array([0.6, 0.75, 0.9, 1.0])
"""How much of the inner border's correction each lip ring takes, outer to inner."""


Mouth = Literal["relative", "absolute"]
"""See `Retargeter`."""


class Eye(NamedTuple):
    """The landmarks of one eye."""

    upper: NDArray[np.int_]
    lower: NDArray[np.int_]
    """The n-th point lies under the n-th upper one."""
    fold: NDArray[np.int_]
    """The crease above the upper lid."""
    iris: NDArray[np.int_]
    corners: NDArray[np.int_]
    """The two eye corners, the one at the smaller x first."""


EYES = (
    Eye(
        RIGHT_UPPER_LID,
        RIGHT_LOWER_LID,
        RIGHT_FOLD,
        RIGHT_IRIS,
        np.array([RIGHT_EYE_OUTER, RIGHT_EYE_INNER]),
    ),
    Eye(
        LEFT_UPPER_LID,
        LEFT_LOWER_LID,
        LEFT_FOLD,
        LEFT_IRIS,
        np.array([LEFT_EYE_INNER, LEFT_EYE_OUTER]),
    ),
)
"""The person's right eye (at the left of the image), then the left one."""

# Mirrored points that expression hardly moves, right then left: they carry the face's own x axis.
_RIGHT_SIDE = np.array([33, 133, 234, 127, 162, 21, 98])
_LEFT_SIDE = np.array([263, 362, 454, 356, 389, 251, 327])


# Pitch of `face_frame` in a face that looks straight into the camera (median over portraits).
_UPRIGHT_PITCH_DEG = 6.0


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
    """A face's own axes: aligned = (landmarks - origin) @ rotation; back: aligned @ rotation.T + origin."""

    origin: Array
    """float64 [3]: centre of the stable points."""
    rotation: Array
    """float64 [3, 3]: columns are the face's x (to its left side), y (to its chin) and z (to its back)."""


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
    """The rotation of these angles: float64 [3, 3] for numbers, [T, 3, 3] for arrays [T].

    The inverse of `head_angles`.
    """
    yaw, pitch, roll = (np.radians(np.asarray(angle, np.float64)) for angle in (yaw_deg, pitch_deg, roll_deg))
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
    """Yaw, pitch and roll of rotations [..., 3, 3] in degrees (signs: top of this file); |yaw| below 90."""
    rotation = np.asarray(rotation, dtype=np.float64)
    return HeadAngles(
        np.degrees(np.arcsin(np.clip(rotation[..., 2, 0], -1.0, 1.0))),
        np.degrees(np.arctan2(rotation[..., 2, 1], rotation[..., 2, 2])),
        np.degrees(np.arctan2(rotation[..., 1, 0], rotation[..., 0, 0])),
    )


def face_frame(landmarks: NDArray[np.floating]) -> FaceFrame:
    """The face's own axes, read from one neutral face [478, 3]: no mean face is needed.

    x runs through mirrored points from the right to the left side of the face, y from the top of the forehead
    to the chin, z completes them towards the back of the head. Of a face that looks straight into the camera
    the angles are 0, 6 and 0 degrees (median over portraits: chins recede a little).
    """
    points = check_landmarks(landmarks)
    x_axis = (points[_LEFT_SIDE] - points[_RIGHT_SIDE]).sum(axis=0)
    x_axis /= np.linalg.norm(x_axis)
    y_axis = points[CHIN] - points[FOREHEAD_TOP]
    y_axis -= x_axis * (x_axis @ y_axis)
    y_axis /= np.linalg.norm(y_axis)
    return FaceFrame(points[STABLE].mean(axis=0), np.stack([x_axis, y_axis, np.cross(x_axis, y_axis)], 1))


def fit_similarity(points: NDArray[np.floating], *, reference: NDArray[np.floating]) -> Similarity:
    """The scaled rotation and shift that best carry the reference's stable points onto those of `points`.

    Least squares (Umeyama 1991), with z counted `DEPTH_WEIGHT` as much as x and y. The weighted problem has
    no closed form; each round replaces the measured z by a blend of it and the current fit's, then solves the
    plain problem: that never increases the weighted error, and a truly rigid motion is exact from round one.

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
            fitted_z = scale[..., None] * (rotation[..., 2, :] @ source.T) + translation[..., 2, None]
            target = target.copy()
            target[..., 2] = DEPTH_WEIGHT * measured_z + (1.0 - DEPTH_WEIGHT) * fitted_z
    return Similarity(scale, rotation, translation)


def neutral_frame(landmarks: NDArray[np.floating]) -> int:
    """The frame nearest to a face at rest: eyes open, lips closed, facing the camera, no smile. See `unrest`.

    Args:
        landmarks: [T, 478, 3], a whole clip, or a window of what a camera saw; frames that hold NaN are passed over.

    Returns:
        Index of the frame.

    Raises:
        SpecError: wrong shape; InputError: no usable frame.
    """
    return int(np.argmin(unrest(landmarks)))


def unrest(landmarks: NDArray[np.floating]) -> Array:
    """How far each frame is from a face at rest: 0 is rest, from `RESTLESS` on nobody would call it so.

    Ten degrees off, lips 0.02 of the face apart, half-closed eyes, or a mouth or brows a tenth away from where they
    are most of the time weigh the same. What people's faces look like at rest differs, and so do their cameras: eyes,
    brows and the mouth's width are held against the track's own.

    Args:
        landmarks: [T, 478, 3].

    Returns:
        float64 [T]; infinity for frames that hold NaN.

    Raises:
        SpecError: wrong shape; InputError: no usable frame.
    """
    track = np.asarray(landmarks)
    if track.ndim != 3 or track.shape[1:] != (LANDMARKS, 3) or len(track) == 0:
        raise SpecError(f"landmarks has shape {track.shape}, expected (T, {LANDMARKS}, 3) with at least one frame.")
    usable = np.flatnonzero(np.isfinite(track).all(axis=(1, 2)))
    if not len(usable):
        raise InputError("No face was found in any frame. Begin with a calm, frontal face.")
    corners = np.concatenate([eye.corners for eye in EYES])
    eyes, lips, widths, brows, turned = (np.empty(len(usable)) for _ in range(5))
    for row, index in enumerate(usable):
        frame = face_frame(track[index])
        face = (track[index] - frame.origin) @ frame.rotation
        height = face[CHIN, 1] - face[FOREHEAD_TOP, 1]
        eyes[row] = min((face[eye.lower, 1] - face[eye.upper, 1]).mean() for eye in EYES) / height
        lips[row] = np.maximum(face[INNER_LOWER_LIP, 1] - face[INNER_UPPER_LIP, 1], 0.0).mean() / height
        widths[row] = (face[LEFT_MOUTH_CORNER, 0] - face[RIGHT_MOUTH_CORNER, 0]) / height
        brows[row] = (face[corners, 1].mean() - face[[*RIGHT_BROW, *LEFT_BROW], 1].mean()) / height
        angles = head_angles(frame.rotation)
        turned[row] = abs(angles.yaw_deg) + abs(angles.pitch_deg - _UPRIGHT_PITCH_DEG) + abs(angles.roll_deg)
    droop = np.maximum(1.0 - eyes / max(float(np.percentile(eyes, 90)), 1e-6), 0.0)
    odd = sum(np.abs(values / max(float(np.median(values)), 1e-6) - 1.0) / 0.2 for values in (widths, brows))
    result = np.full(len(track), np.inf)
    result[usable] = turned / 20.0 + lips / 0.04 + droop + odd
    return result


def soft_clamp(value: Array, limit: float) -> Array:
    """`value` itself up to 70 % of the limit, then ever slower, never beyond the limit."""
    knee = 0.7 * limit
    over = np.maximum(np.abs(value) - knee, 0.0)
    inside = np.clip(value, -knee, knee)
    return np.asarray(inside + np.sign(value) * (limit - knee) * np.tanh(over / (limit - knee)))


class Retargeter:
    """The driver's motion on the avatar's face, bound once to two neutral faces, then called every frame.

    Pose: the head of the avatar turns, shifts and grows from its photo as the driver's does from the neutral
    frame. Expression: the driver's change against the neutral, in the face's own axes, scaled by the
    proportions of the two faces region by region. Lids and lips go by their openings: shut stays shut.
    """

    def __init__(
        self,
        *,
        source_landmarks: NDArray[np.floating],
        driving_neutral: NDArray[np.floating],
        mouth: Mouth = "relative",
    ) -> None:
        """Bind the avatar and the driver.

        Args:
            source_landmarks: [478, 3], the avatar's photo, crop coordinates.
            driving_neutral: [478, 3], the driver at rest (see `neutral_frame`), crop coordinates.
            mouth: "relative": the photo's mouth is what the driver's neutral mouth becomes; "absolute": the
                lips part as far as the driver's do, so that a photo with a laugh can close its mouth (the
                neutral frame then does not give the photo back).

        Raises:
            SpecError: wrong shapes. InputError: NaN, or a driver whose eyes are closed in the neutral frame.
        """
        if mouth not in ("relative", "absolute"):
            raise InputError(f"There is no mouth mode {mouth!r}. Choose: relative, absolute.")
        self._mouth_is_absolute = mouth == "absolute"
        source = check_landmarks(source_landmarks, "source_landmarks")
        self._neutral = check_landmarks(driving_neutral, "driving_neutral")
        self._source_frame = face_frame(source)
        self._driving_frame = face_frame(self._neutral)
        self._source = (source - self._source_frame.origin) @ self._source_frame.rotation
        self._driving = (self._neutral - self._driving_frame.origin) @ self._driving_frame.rotation
        self._height = self._source[CHIN, 1] - self._source[FOREHEAD_TOP, 1]
        self._driving_height = self._driving[CHIN, 1] - self._driving[FOREHEAD_TOP, 1]
        self._proportion = self._proportions()
        # The head may travel as far as the crop has room around the face.
        self._room = np.clip(1.0 - np.abs(source[:, :2]).max(axis=0), 0.15, MAX_SHIFT)
        for eye, name in zip(EYES, ("right", "left"), strict=True):
            width = self._driving[eye.corners[1], 0] - self._driving[eye.corners[0], 0]
            if _opening(self._driving, eye.upper, eye.lower) < 0.04 * width:
                raise InputError(
                    f"The driver's {name} eye is closed in the neutral frame, so blinks cannot be measured "
                    "against it. Choose a frame with open eyes, or let neutral_frame choose one."
                )

    def __call__(self, landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
        """The avatar's landmarks for the driver's: its expression, placed as the driver's head is.

        Args:
            landmarks: [478, 3] or [T, 478, 3] of the driver, in the same crop as `driving_neutral`.

        Returns:
            float32, same shape, in the avatar's crop coordinates.

        Raises:
            SpecError: wrong shape. InputError: NaN or infinite coordinates.
        """
        pose = self.pose(landmarks)
        return self.place(self.express(landmarks, pose), pose).astype(np.float32)

    def pose(self, landmarks: NDArray[np.floating]) -> Similarity:
        """How the driver's head is turned, moved and sized against the neutral frame: for `express` and `place`.

        Args:
            landmarks: as for a call.
        """
        return fit_similarity(check_landmarks(landmarks, "landmarks", track=True), reference=self._neutral)

    def express(self, landmarks: NDArray[np.floating], pose: Similarity | None = None) -> Array:
        """The avatar's face with the driver's expression, the head at rest as in the photo.

        What drives a part of the face (a voice its mouth, a slider its brows) replaces that part's rows here
        (`edge.topology.REGIONS`), before `place`.

        Args:
            landmarks: as for a call.
            pose: `self.pose(landmarks)`, where that is known already.

        Returns:
            float64, same shape, in the avatar's crop coordinates.

        Raises:
            SpecError: wrong shape. InputError: NaN or infinite coordinates.
        """
        points = check_landmarks(landmarks, "landmarks", track=True)
        fitted = _batched(self.pose(landmarks) if pose is None else pose)
        batch = points if points.ndim == 3 else points[None]
        driver = (batch - fitted.translation[:, None]) / fitted.scale[:, None, None] @ fitted.rotation
        driver = (driver - self._driving_frame.origin) @ self._driving_frame.rotation
        face = self._source + self._proportion * (driver - self._driving)
        for eye in EYES:
            self._set_eye(face, driver, eye)
        self._set_lips(face, driver)
        face = face @ self._source_frame.rotation.T + self._source_frame.origin
        return face if points.ndim == 3 else np.asarray(face[0])

    def place(self, face: NDArray[np.floating], pose: Similarity) -> Array:
        """A face at rest turned, sized and shifted from the photo as the driver is from the neutral frame.

        Turns, sizes and shifts that an avatar cannot follow are followed ever less (MAX_YAW_DEG, …).

        Args:
            face: [478, 3] or [T, 478, 3] as `express` gives it.
            pose: the driver's, one for each face.

        Returns:
            float64, same shape, in the avatar's crop coordinates.

        Raises:
            SpecError: wrong shape. InputError: NaN or infinite coordinates.
        """
        points = check_landmarks(face, "face", track=True)
        batch = points if points.ndim == 3 else points[None]
        at_rest = (batch - self._source_frame.origin) @ self._source_frame.rotation
        placed = self._place(at_rest, _batched(pose))
        return placed if points.ndim == 3 else np.asarray(placed[0])

    def _proportions(self) -> Array:
        """What a unit of the driver's expression is on the avatar, per point and axis: [478, 3]."""
        source, driving = self._source, self._driving
        size = self._height / self._driving_height

        def ratio(a: int | NDArray[np.int_], b: int | NDArray[np.int_], axis: int) -> float:
            spans = [abs(np.mean(face[a, axis]) - np.mean(face[b, axis])) for face in (source, driving)]
            return float(np.clip(spans[0] / max(spans[1], 1e-9), 0.5 * size, 2.0 * size))

        wide = ratio(RIGHT_CHEEK_EDGE, LEFT_CHEEK_EDGE, 0)
        tall = ratio(FOREHEAD_TOP, CHIN, 1)
        whole = np.array([wide, tall, (wide + tall) / 2.0])
        mouth_wide = ratio(RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER, 0)
        # A smile in one of the photos must not pass for a broad mouth: half of the way at most.
        regions = [
            (
                np.array([RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER]),
                0.18,
                [np.sqrt(mouth_wide * wide), tall, whole[2]],
            )
        ]
        for eye, brow in zip(EYES, (RIGHT_BROW, LEFT_BROW), strict=True):
            eye_wide = ratio(eye.corners[0], eye.corners[1], 0)
            brow_tall = ratio(brow, eye.corners, 1)
            regions.append((eye.corners, 0.07, [eye_wide, eye_wide, eye_wide]))
            regions.append((brow, 0.10, [wide, np.sqrt(brow_tall * tall), whole[2]]))
        # Regions fade into each other, in logarithms, by their distance in the avatar's face.
        total = np.full((LANDMARKS, 1), 0.15)
        log_ratio = total * np.log(whole)
        for points, radius, values in regions:
            away = np.linalg.norm(source[:, :2] - source[points, :2].mean(axis=0), axis=1) / (radius * self._height)
            near = np.exp(-0.5 * away**2)[:, None]
            log_ratio = log_ratio + near * np.log(values)
            total = total + near
        return np.asarray(np.exp(log_ratio / total))

    def _set_eye(self, face: Array, driver: Array, eye: Eye) -> None:
        """Lids by the ratio of their opening to the neutral one, the iris by its place between the corners.

        In place.
        """
        scale = self._proportion[eye.corners].mean(axis=0)
        for_rest = self._source[eye.lower] - self._source[eye.upper]
        neutral_gap = self._driving[eye.lower] - self._driving[eye.upper]
        gap = driver[:, eye.lower] - driver[:, eye.upper]
        ratio = _opening(driver, eye.upper, eye.lower) / _opening(self._driving, eye.upper, eye.lower)
        ratio = np.maximum(ratio, 0.0)
        ramp = LIDS_FREE * (ratio - LIDS_SHUT) / (LIDS_FREE - LIDS_SHUT)
        shut = np.where(ratio < LIDS_FREE, np.maximum(ramp, 0.0), np.minimum(ratio, WIDEST_EYES))
        fade = np.where(ratio < WIDEST_EYES, shut / np.maximum(ratio, 1e-9), 1.0)[:, None, None]
        # The opening's size is a ratio; what the driver's gap has beyond it is the lid's changing shape.
        wanted = shut[:, None, None] * for_rest + fade * scale * (gap - ratio[:, None, None] * neutral_gap)
        wanted[..., 1] = np.maximum(wanted[..., 1], np.minimum(for_rest[:, 1], 0.0) * shut[:, None])
        moved = face[:, eye.lower] - wanted - face[:, eye.upper]
        face[:, eye.fold] += 0.2 * moved
        face[:, eye.upper] = face[:, eye.lower] - wanted

        middle = face[:, eye.corners].mean(axis=1, keepdims=True)
        rest = self._source[eye.iris] - self._source[eye.corners].mean(axis=0)
        neutral = self._driving[eye.iris] - self._driving[eye.corners].mean(axis=0)
        now = driver[:, eye.iris] - driver[:, eye.corners].mean(axis=1, keepdims=True)
        iris = rest + scale * (now - neutral)
        # The iris' centre stays between the corners whatever the driver's eyes do.
        half = (self._source[eye.corners[1], 0] - self._source[eye.corners[0], 0]) / 2.0
        iris[..., 0] += (np.clip(iris[:, 0, 0], -0.85 * half, 0.85 * half) - iris[:, 0, 0])[:, None]
        face[:, eye.iris] = middle + iris

    def _set_lips(self, face: Array, driver: Array) -> None:
        """The gap between the lips: closed stays closed, open opens as far. In place."""
        scale = (self._proportion[INNER_UPPER_LIP] + self._proportion[INNER_LOWER_LIP]) / 2.0
        rest_gap = self._source[INNER_LOWER_LIP] - self._source[INNER_UPPER_LIP]
        neutral_gap = self._driving[INNER_LOWER_LIP] - self._driving[INNER_UPPER_LIP]
        gap = driver[:, INNER_LOWER_LIP] - driver[:, INNER_UPPER_LIP]
        opening = np.maximum(_opening(driver, INNER_UPPER_LIP, INNER_LOWER_LIP), 0.0)
        neutral_opening = _opening(self._driving, INNER_UPPER_LIP, INNER_LOWER_LIP)
        if self._mouth_is_absolute:
            closed = np.zeros_like(opening)
        elif neutral_opening < 1e-6 * self._driving_height:
            closed = np.ones_like(opening)
        else:
            # Below its neutral opening the mouth closes in proportion. When only the photo's lips are apart
            # (a smile with teeth), the driver's closed lips tremble around nothing and must not close it.
            source_opening = _opening(self._source, INNER_UPPER_LIP, INNER_LOWER_LIP)
            driver_parts = _smooth_step(neutral_opening / self._driving_height, 0.01, 0.02)
            source_shut = 1.0 - _smooth_step(source_opening / self._height, 0.01, 0.02)
            follow = max(driver_parts, source_shut)
            closed = 1.0 - follow * (1.0 - np.minimum(opening / neutral_opening, 1.0))
        closed = closed[:, None, None]
        wanted = closed * rest_gap + scale * (gap - closed * neutral_gap)
        wanted[..., 1] = np.maximum(wanted[..., 1], np.minimum(rest_gap[:, 1], 0.0) * closed[..., 0])
        change = wanted - (face[:, INNER_LOWER_LIP] - face[:, INNER_UPPER_LIP])
        for upper, lower, share in zip(UPPER_LIP_RINGS, LOWER_LIP_RINGS, LIP_FOLLOWS, strict=True):
            face[:, upper] -= 0.35 * share * change
            face[:, lower] += 0.65 * share * change
        face[:, INNER_LOWER_LIP] = face[:, INNER_UPPER_LIP] + wanted

    def _place(self, face: Array, pose: Similarity) -> Array:
        """The face turned, scaled and shifted from the photo as the driver is from the neutral frame."""
        driver_turn = self._driving_frame.rotation.T @ pose.rotation @ self._driving_frame.rotation
        angles = head_angles(driver_turn)
        turn = head_rotation(
            soft_clamp(angles.yaw_deg, MAX_YAW_DEG),
            soft_clamp(angles.pitch_deg, MAX_PITCH_DEG),
            soft_clamp(angles.roll_deg, MAX_ROLL_DEG),
        )
        zoom = np.exp(soft_clamp(np.log(pose.scale), MAX_ZOOM))
        centre = self._driving_frame.origin
        travel = pose.scale[:, None] * (pose.rotation @ centre) + pose.translation - centre
        # What the turn about the neck does not explain is the body's doing.
        body = travel / self._driving_height - _swing(driver_turn) @ self._driving_frame.rotation.T
        body *= self._height
        body[:, :2] = soft_clamp(body[:, :2], MAX_BODY_SHIFT)
        shift = self._height * _swing(turn) @ self._source_frame.rotation.T + body
        for axis in (0, 1):
            shift[:, axis] = soft_clamp(shift[:, axis], float(self._room[axis]))
        placed = zoom[:, None, None] * face @ np.swapaxes(self._source_frame.rotation @ turn, -1, -2)
        return np.asarray(placed + self._source_frame.origin + shift[:, None])


def _batched(pose: Similarity) -> Similarity:
    """A pose with a time axis."""
    if pose.scale.ndim:
        return pose
    return Similarity(pose.scale[None], pose.rotation[None], pose.translation[None])


def _swing(turn: Array) -> Array:
    """Where a turn [T, 3, 3] about the neck carries the head's centre: [T, 3], in face heights."""
    return np.asarray(NECK - turn @ NECK)


def _opening(face: Array, upper: NDArray[np.int_], lower: NDArray[np.int_]) -> Array:
    """Mean vertical gap between two borders, in the face's own axes: [..., 478, 3] → [...]."""
    return np.asarray((face[..., lower, 1] - face[..., upper, 1]).mean(axis=-1))


def _smooth_step(value: float | Array, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, smooth between."""
    u = float(np.clip((value - low) / (high - low), 0.0, 1.0))
    return u * u * (3.0 - 2.0 * u)


STILL_HZ, FOLLOW_HZ, SPEED_HZ = 1.0, 60.0, 3.0
"""`LiveFilter`: the cutoff of a landmark at rest, how much it rises for each face height a second that the landmark
moves, and the cutoff of that speed."""

GAP_S = 0.5
"""Seconds without a face after which a live track begins anew."""


class LiveFilter:
    """A live camera's landmarks without the trembling of frame-by-frame detection, as they come.

    A One Euro filter (Casiez, Roussel and Vogel 2012), one for each landmark: the slower it moves, the more it is
    smoothed. Measured on four clips of 25 frames a second: at rest (a frozen frame under camera noise) landmarks
    spread 0.43 to 0.49 times as much and step 0.25 to 0.36 times as far; lips, lids and nose lag 4 to 16 ms; openings
    of the mouth keep 95 % of their spread, blinks 96 % of their depth. What needs no answer at once is calmed without
    any delay (`edge.driving.track`).
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._seen: Array | None = None
        self._calm = self._speed = np.zeros((LANDMARKS, 3))

    def __call__(self, landmarks: NDArray[np.floating], seconds: float) -> NDArray[np.float32]:
        """The next frame's landmarks.

        Args:
            landmarks: [478, 3], as they were found.
            seconds: when, on any clock that runs forward; frames may come unevenly.

        Returns:
            float32 [478, 3]. The first frame, and one that comes `GAP_S` after the last, as it is.

        Raises:
            SpecError: wrong shape. InputError: NaN or infinite values, or a clock that stands still or runs backwards.
        """
        points = check_landmarks(landmarks)
        if not np.isfinite(seconds):
            raise InputError(f"A frame's time is {seconds}. Give seconds.")
        step = seconds - self._seconds
        if self._seen is not None and step <= 0:
            raise InputError(f"A frame's time is {seconds:g} s, and the last one's was {self._seconds:g} s.")
        if self._seen is None or step > GAP_S:
            self._calm, self._speed = points, np.zeros_like(points)
        else:
            height = float(np.linalg.norm(points[CHIN] - points[FOREHEAD_TOP]))
            self._speed = self._speed + _share(SPEED_HZ, step) * ((points - self._seen) / step - self._speed)
            pace = np.linalg.norm(self._speed[:, :2], axis=1, keepdims=True) / height
            self._calm = self._calm + _share(STILL_HZ + FOLLOW_HZ * pace, step) * (points - self._calm)
        self._seconds, self._seen = seconds, points
        return self._calm.astype(np.float32)


def _share(cutoff_hz: float | Array, step: float) -> float | Array:
    """How far a first-order low-pass goes towards a new value in a step of seconds."""
    return 1.0 / (1.0 + 1.0 / (2.0 * np.pi * cutoff_hz * step))


def port_tables() -> dict[str, Any]:
    """All that this file knows by number, as plain JSON: a bundle's manifest holds it, so that a port retypes none."""
    points = {
        "chin": CHIN, "forehead_top": FOREHEAD_TOP, "right_cheek_edge": RIGHT_CHEEK_EDGE,
        "left_cheek_edge": LEFT_CHEEK_EDGE, "right_mouth_corner": RIGHT_MOUTH_CORNER,
        "left_mouth_corner": LEFT_MOUTH_CORNER,
    }  # fmt: skip
    rows = {
        "stable": STABLE, "local": LOCAL, "right_side": _RIGHT_SIDE, "left_side": _LEFT_SIDE, "right_brow": RIGHT_BROW,
        "left_brow": LEFT_BROW, "inner_upper_lip": INNER_UPPER_LIP, "inner_lower_lip": INNER_LOWER_LIP,
    }  # fmt: skip
    limits = {
        "depth_weight": DEPTH_WEIGHT, "max_yaw_deg": MAX_YAW_DEG, "max_pitch_deg": MAX_PITCH_DEG,
        "max_roll_deg": MAX_ROLL_DEG, "max_zoom": MAX_ZOOM, "max_body_shift": MAX_BODY_SHIFT, "max_shift": MAX_SHIFT,
        "lids_shut": LIDS_SHUT, "lids_free": LIDS_FREE, "widest_eyes": WIDEST_EYES, "restless": RESTLESS,
        "upright_pitch_deg": _UPRIGHT_PITCH_DEG,
        "still_hz": STILL_HZ, "follow_hz": FOLLOW_HZ, "speed_hz": SPEED_HZ, "gap_s": GAP_S,
    }  # fmt: skip
    return {
        "points": points,
        "rows": {name: row.tolist() for name, row in rows.items()},
        "eyes": [{name: row.tolist() for name, row in eye._asdict().items()} for eye in EYES],
        "upper_lip_rings": UPPER_LIP_RINGS.tolist(),
        "lower_lip_rings": LOWER_LIP_RINGS.tolist(),
        "lip_follows": LIP_FOLLOWS.tolist(),
        "regions": {name: row.tolist() for name, row in REGIONS.items()},
        "neck": NECK.tolist(),
        "limits": limits,
    }

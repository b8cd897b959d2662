"""Procedural motion: what a face can do, written as code, on the person's own 478 landmarks.

`pose_face` moves one neutral face by named controls: expressions displace the points in the face's own frame, then
the head turns about its neck. `procedural_track` draws seeded controls over time (head, blinks, speech, brows,
gaze); `showcase` is a list of labelled poses for contact sheets. Signs of angles are those of `edge.motion`.

Amplitudes are shares of the face's height and were set beside recorded faces (medians and extremes of 16 tracked
clips): wide-open jaw 0.20 between the lips, smile 0.05 a corner, pucker 0.045 a corner, brows 0.04, gaze 0.04.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.errors import InputError, SpecError
from edge.motion import Array, check_landmarks, face_frame, head_rotation
from edge.topology import (
    CHIN,
    FACE_OVAL,
    FOREHEAD_TOP,
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LANDMARKS,
    LEFT_EYE_INNER,
    LEFT_EYE_OUTER,
    LEFT_IRIS,
    LEFT_LOWER_LID,
    LEFT_UPPER_LID,
    OUTER_LOWER_LIP,
    OUTER_UPPER_LIP,
    RIGHT_EYE_INNER,
    RIGHT_EYE_OUTER,
    RIGHT_IRIS,
    RIGHT_LOWER_LID,
    RIGHT_UPPER_LID,
)

if TYPE_CHECKING:
    from edge.track import Track

Style = Literal["training", "speech"]

JAW_OPEN_DEG = 24.0
"""Jaw rotation at jaw_open = 1 (a yawn); loud speech stays below 0.5."""

MAX_YAW_DEG, MAX_PITCH_DEG, MAX_ROLL_DEG = 30.0, 20.0, 20.0
"""What procedural tracks reach."""

MESH_POINTS = 468
"""The points before the irises."""

# Lip rings from the outer border inwards, each from the right to the left corner, corners left out.
_UPPER_RINGS = np.array(
    [
        OUTER_UPPER_LIP,
        [184, 74, 73, 72, 11, 302, 303, 304, 408],
        [183, 42, 41, 38, 12, 268, 271, 272, 407],
        INNER_UPPER_LIP,
    ]
)
_LOWER_RINGS = np.array(
    [
        OUTER_LOWER_LIP,
        [77, 90, 180, 85, 16, 315, 404, 320, 307],
        [96, 89, 179, 86, 15, 316, 403, 319, 325],
        INNER_LOWER_LIP,
    ]
)
_RIGHT_CORNERS = np.array([61, 76, 62, 78])
_LEFT_CORNERS = np.array([291, 306, 292, 308])

# (right, left) points that hold or carry a field, beside lips and lids.
_PAIRS = np.array(
    [
        # brows, lower then upper row, from the outer to the inner end
        *[(46, 276), (53, 283), (52, 282), (65, 295), (55, 285), (70, 300), (63, 293), (105, 334), (66, 296)],
        *[(107, 336)],
        # forehead, then hairline
        *[(108, 337), (69, 299), (104, 333), (68, 298), (71, 301), (109, 338), (67, 297), (103, 332), (54, 284)],
        *[(21, 251), (162, 389), (127, 356), (234, 454), (139, 368), (156, 383)],
        # lid fold, lower rim, eye corners
        *[(247, 467), (30, 260), (29, 259), (27, 257), (28, 258), (56, 286), (190, 414)],
        *[(25, 255), (110, 339), (24, 254), (23, 253), (22, 252), (26, 256), (112, 341), (33, 263), (133, 362)],
        # nose
        *[(98, 327), (97, 326), (64, 294), (129, 358), (48, 278), (198, 420), (131, 360), (122, 351), (193, 417)],
        # cheeks from the eye down, smile fold, chin
        *[(119, 348), (117, 346), (50, 280), (123, 352), (205, 425), (36, 266), (147, 376), (203, 423), (216, 436)],
        *[(57, 287), (43, 273), (204, 424), (202, 422), (212, 432), (214, 434), (192, 416), (213, 433), (187, 411)],
        # jaw line, chin to ear
        *[(148, 377), (176, 400), (149, 378), (150, 379), (136, 365), (172, 397), (58, 288), (132, 361), (93, 323)],
    ]
)
_MIDLINE = np.array([10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 2, 164, 18, 200, 199, 175, CHIN])

# Share of the jaw's turn that the skin at a point takes; points not named take 0 or lie between.
_JAW = {
    **{18: 1.0, 200: 1.0, 199: 1.0, 175: 1.0, CHIN: 1.0, 164: 0.03},
    **{148: 1.0, 176: 0.95, 149: 0.85, 150: 0.72, 136: 0.55, 172: 0.38, 58: 0.2, 132: 0.06},
    **{57: 0.36, 43: 0.6, 204: 0.72, 202: 0.66, 212: 0.4, 214: 0.38, 192: 0.24, 213: 0.13},
    **{187: 0.14, 205: 0.08, 50: 0.03, 147: 0.06, 216: 0.22, 36: 0.03},
}

# Displacements in shares of the face height at control = 1: (x away from the midline, y down, z to the back), the
# same on both sides. Lips are added below.
_FIELDS: dict[str, dict[int, tuple[float, float, float]]] = {
    "smile": {
        **{57: (0.040, -0.036, 0.012), 216: (0.026, -0.034, -0.002), 212: (0.026, -0.024, 0.010)},
        **{187: (0.020, -0.030, -0.006), 205: (0.010, -0.028, -0.012), 50: (0.004, -0.022, -0.010)},
        **{36: (0.006, -0.022, -0.010), 203: (0.006, -0.014, -0.004), 147: (0.010, -0.014, -0.004)},
        **{117: (0.002, -0.012, -0.004), 119: (0.000, -0.012, -0.005), 123: (0.004, -0.010, -0.003)},
        **{129: (0.006, -0.006, 0.000), 98: (0.004, -0.003, 0.000), 64: (0.006, -0.004, 0.0)},
        **{43: (0.026, -0.012, 0.010), 214: (0.016, -0.014, 0.006), 192: (0.010, -0.010, 0.002)},
        **{23: (0.0, -0.006, 0.0), 24: (0.0, -0.006, 0.0), 22: (0.0, -0.005, 0.0), 110: (0.0, -0.005, 0.0)},
        **{26: (0.0, -0.003, 0.0), 25: (0.0, -0.003, 0.0), 204: (0.012, -0.006, 0.006), 18: (0.0, -0.006, 0.006)},
    },
    "pucker": {
        **{57: (-0.024, 0.004, -0.014), 43: (-0.018, 0.002, -0.012), 216: (-0.012, 0.003, -0.007)},
        **{212: (-0.012, 0.0, -0.008), 205: (-0.004, 0.002, -0.003), 187: (-0.006, 0.002, -0.004)},
        **{204: (-0.008, 0.0, -0.006), 164: (0.0, -0.002, -0.008), 18: (0.0, 0.004, -0.008)},
    },
    "stretch": {
        **{57: (0.028, 0.008, 0.012), 43: (0.020, 0.008, 0.010), 212: (0.014, 0.006, 0.006)},
        **{204: (0.010, 0.006, 0.004), 216: (0.010, 0.003, 0.003), 187: (0.008, 0.002, 0.002)},
    },
    "funnel": {
        **{57: (-0.012, 0.0, -0.008), 43: (-0.008, 0.004, -0.008), 216: (-0.006, 0.0, -0.004)},
        **{164: (0.0, -0.008, -0.010), 18: (0.0, 0.016, -0.010), 2: (0.0, -0.002, -0.001)},
    },
    "upper_lip_up": {
        **{164: (0.0, -0.012, 0.0), 2: (0.0, -0.003, 0.0), 98: (0.002, -0.006, 0.0), 97: (0.0, -0.004, 0.0)},
        **{216: (0.003, -0.012, 0.0), 203: (0.002, -0.012, -0.003), 205: (0.002, -0.008, -0.004)},
        **{129: (0.003, -0.006, 0.0), 36: (0.001, -0.008, -0.003), 64: (0.003, -0.005, 0.0)},
    },
    "lower_lip_down": {
        **{18: (0.0, 0.016, 0.004), 43: (0.002, 0.010, 0.002), 204: (0.0, 0.008, 0.0), 200: (0.0, 0.005, 0.0)},
    },
    "lips_press": {18: (0.0, -0.008, -0.004), 164: (0.0, 0.002, 0.002), 43: (0.002, -0.002, 0.0)},
    "lip_tuck": {18: (0.0, -0.006, 0.006), 200: (0.0, -0.003, 0.0), 204: (0.0, -0.003, 0.002)},
    "mouth_frown": {
        **{57: (0.004, 0.024, 0.006), 43: (0.006, 0.018, 0.004), 212: (0.004, 0.016, 0.004), 216: (0.0, 0.008, 0.0)},
        **{18: (0.0, -0.006, -0.004), 200: (0.0, -0.008, -0.006), 204: (0.004, 0.004, 0.0)},
    },
    "brow_raise": {
        **{107: (0.0, -0.042, 0.004), 66: (0.0, -0.044, 0.004), 105: (0.0, -0.043, 0.004), 63: (0.0, -0.038, 0.004)},
        **{70: (0.0, -0.026, 0.003), 55: (0.0, -0.036, 0.002), 65: (0.0, -0.039, 0.002), 52: (0.0, -0.039, 0.002)},
        **{53: (0.0, -0.033, 0.003), 46: (0.0, -0.020, 0.003), 9: (0.0, -0.026, 0.003), 8: (0.0, -0.014, 0.001)},
        **{108: (0.0, -0.020, 0.004), 69: (0.0, -0.022, 0.004), 104: (0.0, -0.020, 0.004), 68: (0.0, -0.012, 0.003)},
        **{71: (0.0, -0.008, 0.002), 151: (0.0, -0.016, 0.003), 156: (0.0, -0.008, 0.002)},
        **{27: (0.0, -0.006, 0.0), 29: (0.0, -0.006, 0.0), 28: (0.0, -0.005, 0.0), 30: (0.0, -0.004, 0.0)},
        **{56: (0.0, -0.004, 0.0), 247: (0.0, -0.003, 0.0), 190: (0.0, -0.003, 0.0)},
    },
    "brow_frown": {
        **{107: (-0.012, 0.020, -0.004), 66: (-0.011, 0.024, -0.003), 105: (-0.008, 0.022, -0.002)},
        **{63: (-0.004, 0.016, 0.0), 70: (-0.001, 0.008, 0.0), 55: (-0.012, 0.020, -0.004)},
        **{65: (-0.010, 0.022, -0.003), 52: (-0.007, 0.020, -0.002), 53: (-0.003, 0.013, 0.0)},
        **{46: (-0.001, 0.007, 0.0), 9: (0.0, 0.012, -0.003), 8: (0.0, 0.008, -0.002), 108: (-0.003, 0.007, 0.0)},
        **{69: (-0.002, 0.007, 0.0), 104: (-0.001, 0.004, 0.0), 151: (0.0, 0.004, 0.0), 28: (0.0, 0.005, 0.0)},
        **{27: (0.0, 0.004, 0.0), 56: (0.0, 0.005, 0.0), 193: (-0.002, 0.005, 0.0)},
    },
}

# The same for the lips: corners, then the four rings of the upper and the lower lip (outer to inner) at the middle of
# the mouth. Between middle and corner the value follows a smooth arch.
_Vector = tuple[float, float, float]
_LIPS: dict[str, tuple[_Vector, Sequence[_Vector], Sequence[_Vector]]] = {
    "smile": (
        (0.048, -0.044, 0.018),
        [(0.0, -0.010, 0.008), (0.0, -0.010, 0.008), (0.0, -0.009, 0.007), (0.0, -0.008, 0.006)],
        [(0.0, -0.004, 0.008), (0.0, -0.005, 0.008), (0.0, -0.006, 0.007), (0.0, -0.007, 0.006)],
    ),
    "pucker": (
        (-0.046, 0.004, -0.016),
        [(0.0, -0.004, -0.022), (0.0, -0.002, -0.026), (0.0, 0.000, -0.026), (0.0, 0.001, -0.022)],
        [(0.0, 0.006, -0.020), (0.0, 0.004, -0.024), (0.0, 0.002, -0.024), (0.0, 0.001, -0.020)],
    ),
    "stretch": (
        (0.034, 0.006, 0.018),
        [(0.0, 0.001, 0.006), (0.0, 0.000, 0.006), (0.0, -0.001, 0.005), (0.0, -0.002, 0.004)],
        [(0.0, 0.004, 0.006), (0.0, 0.004, 0.006), (0.0, 0.005, 0.005), (0.0, 0.005, 0.004)],
    ),
    "funnel": (
        (-0.026, 0.002, -0.010),
        [(0.0, -0.018, -0.022), (0.0, -0.020, -0.024), (0.0, -0.021, -0.020), (0.0, -0.021, -0.012)],
        [(0.0, 0.024, -0.020), (0.0, 0.026, -0.022), (0.0, 0.026, -0.018), (0.0, 0.026, -0.010)],
    ),
    "upper_lip_up": (
        (0.004, -0.006, 0.002),
        [(0.0, -0.020, 0.0), (0.0, -0.021, 0.0), (0.0, -0.022, 0.001), (0.0, -0.022, 0.002)],
        [(0.0, 0.0, 0.0)] * 4,
    ),
    "lower_lip_down": (
        (0.002, 0.006, 0.002),
        [(0.0, 0.0, 0.0)] * 4,
        [(0.0, 0.021, 0.004), (0.0, 0.023, 0.005), (0.0, 0.024, 0.005), (0.0, 0.024, 0.004)],
    ),
    "lips_press": (
        (0.010, -0.004, 0.006),
        [(0.0, 0.010, 0.006), (0.0, 0.008, 0.010), (0.0, 0.003, 0.012), (0.0, 0.0, 0.012)],
        [(0.0, -0.014, 0.004), (0.0, -0.010, 0.008), (0.0, -0.004, 0.012), (0.0, 0.0, 0.012)],
    ),
    "lip_tuck": (
        (0.002, -0.002, 0.002),
        [(0.0, -0.004, -0.002), (0.0, -0.005, -0.002), (0.0, -0.006, -0.001), (0.0, -0.006, 0.0)],
        [(0.0, -0.012, 0.008), (0.0, -0.012, 0.014), (0.0, -0.010, 0.018), (0.0, -0.008, 0.020)],
    ),
    "mouth_frown": (
        (0.004, 0.030, 0.008),
        [(0.0, 0.002, 0.0), (0.0, 0.001, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)],
        [(0.0, -0.006, -0.006), (0.0, -0.004, -0.006), (0.0, -0.002, -0.004), (0.0, 0.0, -0.002)],
    ),
}


class Controls(NamedTuple):
    """What a face does over T frames; every field is a float array [T], 0 = as in the photo.

    Angles in degrees relative to the photo (signs: `edge.motion`). Muscles run from 0 (rest) to 1 (a strong, still
    natural extreme); eyelids also take small negative values (wide eyes).
    """

    yaw_deg: Array
    pitch_deg: Array
    roll_deg: Array
    shift_x: Array
    """Crop coordinates, to the right."""
    shift_y: Array
    """Crop coordinates, down."""
    zoom: Array
    """log of the head's size against the photo's."""
    jaw_open: Array
    lips_seal: Array
    """1: the lips meet whatever the jaw does (m, b, p)."""
    lips_press: Array
    """Lips rolled in."""
    lip_tuck: Array
    """Lower lip under the upper teeth (f, v)."""
    pucker: Array
    funnel: Array
    stretch: Array
    smile: Array
    mouth_frown: Array
    upper_lip_up: Array
    lower_lip_down: Array
    blink_right: Array
    blink_left: Array
    brow_raise: Array
    brow_frown: Array
    gaze_x: Array
    """-1..1, to the right of the image."""
    gaze_y: Array
    """-1..1, down; the upper lids follow."""

    @classmethod
    def rest(cls, frames: int, **moved: float | Array) -> "Controls":
        """`frames` frames at rest but for the controls named: a number or an array [T] each."""
        unknown = sorted(set(moved) - set(cls._fields))
        if unknown:
            raise SpecError(f"There is no control {unknown[0]!r}. Controls are: {', '.join(cls._fields)}.")
        if frames < 1:
            raise SpecError(f"A motion needs at least 1 frame, got {frames}.")
        try:
            return cls(
                *(np.broadcast_to(np.asarray(moved.get(f, 0.0), np.float64), (frames,)).copy() for f in cls._fields)
            )
        except ValueError as error:
            raise SpecError(f"A control does not have {frames} frames: {error}.") from None


class _Eye(NamedTuple):
    upper: NDArray[np.int_]
    lower: NDArray[np.int_]
    iris: NDArray[np.int_]
    corner_a: int
    """The corner at the smaller x."""
    corner_b: int
    fold: NDArray[np.int_]


_EYES = (
    _Eye(
        RIGHT_UPPER_LID, RIGHT_LOWER_LID, RIGHT_IRIS, RIGHT_EYE_OUTER, RIGHT_EYE_INNER,
        np.array([247, 30, 29, 27, 28, 56, 190]),
    ),
    _Eye(
        LEFT_UPPER_LID, LEFT_LOWER_LID, LEFT_IRIS, LEFT_EYE_INNER, LEFT_EYE_OUTER,
        np.array([467, 260, 259, 257, 258, 286, 414]),
    ),
)  # fmt: skip


def _handles() -> NDArray[np.int_]:
    lids = [np.concatenate([eye.upper, eye.lower]) for eye in _EYES]
    parts = [_UPPER_RINGS, _LOWER_RINGS, _RIGHT_CORNERS, _LEFT_CORNERS, _PAIRS, _MIDLINE, FACE_OVAL, *lids]
    return np.unique(np.concatenate([np.ravel(part) for part in parts]))


_HANDLES = _handles()


def _spreading(aligned: Array) -> Array:
    """Weights [478, handles] that carry values at the handles smoothly to every point; irises take none.

    The interpolant has least bending over a graph of near neighbours (a discrete biharmonic surface). It needs no
    mesh; lips and lids, where neighbours in space part ways, are handles throughout and so never bleed.
    """
    points = aligned[:MESH_POINTS]
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1)[:, :8]
    weight = np.zeros_like(distance)
    rows = np.arange(MESH_POINTS)[:, None]
    weight[rows, nearest] = 1.0 / np.maximum(distance[rows, nearest], 1e-3)
    weight = np.maximum(weight, weight.T)
    laplacian = np.eye(MESH_POINTS) - weight / weight.sum(axis=1, keepdims=True)
    # A pinch of membrane energy keeps the thin plate from overshooting between distant handles.
    energy = laplacian.T @ laplacian + 0.05 * (np.diag(weight.sum(1)) - weight) / weight.sum(1).mean()
    free = np.setdiff1d(np.arange(MESH_POINTS), _HANDLES)
    spread = np.zeros((LANDMARKS, len(_HANDLES)))
    spread[_HANDLES, np.arange(len(_HANDLES))] = 1.0
    spread[free] = -np.linalg.solve(energy[np.ix_(free, free)], energy[np.ix_(free, _HANDLES)])
    return spread


class _Puppet:
    """One person's face with everything that depends on it alone worked out."""

    def __init__(self, landmarks: NDArray[np.floating]) -> None:
        self.frame = face_frame(landmarks)
        self.rest = (np.asarray(landmarks, np.float64) - self.frame.origin) @ self.frame.rotation
        self.height = float(self.rest[CHIN, 1] - self.rest[FOREHEAD_TOP, 1])
        self._position = {int(point): at for at, point in enumerate(_HANDLES)}
        self._spread = _spreading(self.rest)
        self.fields = {name: self._field(name) for name in _FIELDS}
        self.jaw = self._jaw()
        ears = self.rest[[234, 454]].mean(axis=0)
        # The jaw's hinge lies before and a little below the ear canal, the neck's pivot behind and under the chin.
        self.hinge = ears + self.height * np.array([0.0, 0.06, -0.02])
        self.neck = np.array([ears[0], self.rest[CHIN, 1], ears[2]]) + self.height * np.array([0.0, 0.1, 0.1])

    def _rows(self, points: NDArray[np.int_]) -> NDArray[np.int_]:
        return np.vectorize(self._position.__getitem__)(points)

    def spread(self, values: Array) -> Array:
        """Values [.., handles, 3] at the handles → [.., 478, 3]."""
        return np.asarray(np.einsum("ph,...hc->...pc", self._spread, values, optimize=True))

    def _along_lip(self) -> Array:
        """Where the nine points of a lip lie between the mouth's middle (0) and its corners (1): [4, 9] up, down."""
        right, left = self.rest[61, 0], self.rest[291, 0]
        middle, half = (right + left) / 2.0, max((left - right) / 2.0, 1e-6)
        x = np.stack([self.rest[_UPPER_RINGS, 0], self.rest[_LOWER_RINGS, 0]])
        return np.clip((x - middle) / half, -1.0, 1.0)

    def _field(self, name: str) -> Array:
        """One expression's displacement [478, 3] at control = 1."""
        values = np.zeros((len(_HANDLES), 3))
        mirrored = np.array([-1.0, 1.0, 1.0])
        left_of = dict(_PAIRS.tolist())
        for point, vector in _FIELDS[name].items():
            if point in left_of:
                values[self._position[point]] = np.array(vector) * mirrored
                values[self._position[left_of[point]]] = vector
            else:
                values[self._position[point]] = vector
        if name in _LIPS:
            corner, upper, lower = _LIPS[name]
            values[self._rows(_RIGHT_CORNERS)] = np.array(corner) * mirrored
            values[self._rows(_LEFT_CORNERS)] = corner
            along = self._along_lip()
            for rings, at, middle in ((_UPPER_RINGS, along[0], upper), (_LOWER_RINGS, along[1], lower)):
                # x grows linearly towards the corner, so lips stretch evenly; y and z follow an arch.
                arch = np.abs(at)[..., None] ** 2.2
                value = np.array(middle)[:, None, :] * (1.0 - arch) + np.array(corner) * arch
                value[..., 0] = corner[0] * at
                values[self._rows(rings)] = value
        return self.spread(values * self.height)

    def _jaw(self) -> Array:
        """Share of the jaw's turn at every point: [478]."""
        values = np.zeros(len(_HANDLES))
        left_of = dict(_PAIRS.tolist())
        for point, share in _JAW.items():
            values[self._position[point]] = share
            if point in left_of:
                values[self._position[left_of[point]]] = share
        corner = 0.44
        values[self._rows(np.concatenate([_RIGHT_CORNERS, _LEFT_CORNERS]))] = corner
        up, down = np.abs(self._along_lip())
        values[self._rows(_UPPER_RINGS)] = 0.02 + (corner - 0.02) * up**3.0
        values[self._rows(_LOWER_RINGS)] = corner + (1.03 - corner) * (1.0 - down**2.2)
        return np.asarray(self._spread @ values)

    def open_jaw(self, face: Array, jaw_open: Array) -> Array:
        """The lower face turned about the jaw's hinge; corners of the mouth draw in a little."""
        angle = np.radians(JAW_OPEN_DEG) * jaw_open[:, None] * self.jaw
        sine, cosine = np.sin(angle), np.cos(angle)
        arm = face - self.hinge
        turned = arm.copy()
        turned[..., 1] = cosine * arm[..., 1] - sine * arm[..., 2]
        turned[..., 2] = sine * arm[..., 1] + cosine * arm[..., 2]
        return turned + self.hinge + 0.35 * jaw_open[:, None, None] * self.fields["pucker"] * [1.0, 0.0, 0.0]

    def close_lips(self, face: Array, seal: Array) -> Array:
        """The lips brought together by a share `seal` of their gap; lips that would cross meet instead."""
        gap = face[:, INNER_LOWER_LIP] - face[:, INNER_UPPER_LIP]
        rest_gap = self.rest[INNER_LOWER_LIP, 1] - self.rest[INNER_UPPER_LIP, 1]
        crossed = gap[..., 1] < np.minimum(rest_gap, 0.0) - 1e-9
        pull = np.where(crossed, 1.0, seal[:, None])[..., None]
        values = np.zeros((len(face), len(_HANDLES), 3))
        for rings, share, shares in (
            (_UPPER_RINGS, 0.35, (0.6, 0.75, 0.9, 1.0)),
            (_LOWER_RINGS, -0.65, (0.65, 0.8, 0.9, 1.0)),
        ):
            for ring, ring_share in zip(rings, shares, strict=True):
                values[:, self._rows(ring)] = share * ring_share * pull * gap
        below = np.array([18, 83, 313])[:1]
        values[:, self._rows(below)] = values[:, self._rows(_LOWER_RINGS[0, 4:5])] * 0.6
        closed = face + self.spread(values)
        # Exactly, so that a sealed mouth shows no sliver of the cavity.
        upper = face[:, INNER_UPPER_LIP] + 0.35 * pull * gap
        closed[:, INNER_UPPER_LIP] = upper
        closed[:, INNER_LOWER_LIP] = upper + (1.0 - pull) * gap
        return closed

    def close_eye(self, face: Array, eye: _Eye, blink: Array) -> None:
        """The upper lid brought down to the lower one along the eyeball; the fold above follows. In place."""
        closure = np.clip(blink, -0.5, 1.0)[:, None, None]
        gap = face[:, eye.lower] - face[:, eye.upper]
        face[:, eye.fold] += 0.2 * closure * gap
        # The lower lid helps a little, and pulls towards the nose.
        lift = 0.08 * np.maximum(closure, 0.0) * gap
        face[:, eye.lower] -= lift
        gap = face[:, eye.lower] - face[:, eye.upper]
        bulge = np.zeros_like(gap)
        bulge[..., 2] = -0.25 * np.abs(gap[..., 1]) * (closure * (1.0 - closure))[..., 0].clip(0.0)
        face[:, eye.upper] = face[:, eye.lower] - (1.0 - closure) * gap + bulge

    def look(self, face: Array, eye: _Eye, gaze_x: Array, gaze_y: Array) -> None:
        """The iris rolled over the eyeball, within the opening. In place."""
        corners = self.rest[[eye.corner_a, eye.corner_b]]
        width = corners[1, 0] - corners[0, 0]
        iris = self.rest[eye.iris]
        radius = np.linalg.norm(iris[1:, :2] - iris[0, :2], axis=1).mean()
        room_left = max(iris[0, 0] - corners[0, 0] - 0.8 * radius, 0.0)
        room_right = max(corners[1, 0] - iris[0, 0] - 0.8 * radius, 0.0)
        reach = 0.27 * width
        dx = np.where(gaze_x < 0, min(reach, room_left), min(reach, room_right)) * gaze_x
        dy = 0.1 * width * gaze_y
        ball = 0.42 * width
        face[:, eye.iris, 0] += dx[:, None]
        face[:, eye.iris, 1] += dy[:, None]
        face[:, eye.iris, 2] += (ball - np.sqrt(np.maximum(ball**2 - dx**2 - dy**2, 0.0)))[:, None]
        # The upper lid rides on the cornea, the lower one a little.
        face[:, eye.upper, 1] += 0.75 * dy[:, None]
        face[:, eye.lower, 1] += 0.25 * dy[:, None]


def pose_face(source_landmarks: NDArray[np.floating], controls: Controls) -> NDArray[np.float32]:
    """The person of the photo doing what the controls say.

    Args:
        source_landmarks: [478, 3], crop coordinates; best with eyes open and lips closed.
        controls: T frames, see `Controls`.

    Returns:
        float32 [T, 478, 3], crop coordinates. Controls at rest give `source_landmarks` back; blink = 1 brings the
        upper lid exactly onto the lower one, lips_seal = 1 the upper lip onto the lower.

    Raises:
        SpecError: wrong shapes; InputError: NaN or infinite values.
    """
    points = check_landmarks(source_landmarks, "source_landmarks")
    values = [np.asarray(value, np.float64) for value in controls]
    frames = values[0].size
    for name, value in zip(Controls._fields, values, strict=True):
        if value.shape != (frames,) or frames == 0:
            raise SpecError(f"Control {name} has shape {value.shape}, expected ({max(frames, 1)},) as the others.")
        if not np.isfinite(value).all():
            raise InputError(f"Control {name} holds NaN or infinite values. Give finite numbers.")
    c = Controls(*values)
    puppet = _Puppet(points)
    face = np.repeat(puppet.rest[None], frames, axis=0)
    for name, field in puppet.fields.items():
        face += getattr(c, name)[:, None, None] * field
    face = puppet.open_jaw(face, c.jaw_open)
    face = puppet.close_lips(face, np.clip(c.lips_seal, 0.0, 1.0))
    for eye, blink in zip(_EYES, (c.blink_right, c.blink_left), strict=True):
        puppet.look(face, eye, np.clip(c.gaze_x, -1.0, 1.0), np.clip(c.gaze_y, -1.0, 1.0))
        puppet.close_eye(face, eye, blink)
    turn = head_rotation(c.yaw_deg, c.pitch_deg, c.roll_deg)
    face = np.exp(c.zoom)[:, None, None] * ((face - puppet.neck) @ np.swapaxes(turn, -1, -2)) + puppet.neck
    placed = face @ puppet.frame.rotation.T + puppet.frame.origin
    placed[..., 0] += c.shift_x[:, None]
    placed[..., 1] += c.shift_y[:, None]
    return placed.astype(np.float32)


# ---------------------------------------------------------------------------------------------------- seeds


def train_seed(number: int) -> int:
    """The seed of the n-th training track. Training seeds are even, held-out seeds odd: they never meet."""
    return 2 * _counted(number)


def held_out_seed(number: int) -> int:
    """The seed of the n-th track that training must not see (odd numbers)."""
    return 2 * _counted(number) + 1


def _counted(number: int) -> int:
    if number < 0:
        raise InputError(f"Tracks are numbered from 0, got {number}.")
    return int(number)


# ---------------------------------------------------------------------------------------------------- time

# Mouth targets of speech sounds. The first eight open the mouth (vowels), the others shape its way (consonants).
_VOWELS: dict[str, dict[str, float]] = {
    "a": {"jaw_open": 0.42, "stretch": 0.10, "lower_lip_down": 0.25, "upper_lip_up": 0.12},
    "ae": {"jaw_open": 0.36, "stretch": 0.40, "lower_lip_down": 0.30, "upper_lip_up": 0.25},
    "e": {"jaw_open": 0.22, "stretch": 0.45, "lower_lip_down": 0.35, "upper_lip_up": 0.20},
    "i": {"jaw_open": 0.09, "stretch": 0.70, "lower_lip_down": 0.40, "upper_lip_up": 0.25, "smile": 0.15},
    "schwa": {"jaw_open": 0.16, "stretch": 0.10, "lower_lip_down": 0.15},
    "o": {"jaw_open": 0.26, "pucker": 0.45, "funnel": 0.45},
    "u": {"jaw_open": 0.10, "pucker": 0.85, "funnel": 0.30},
    "er": {"jaw_open": 0.16, "pucker": 0.30, "funnel": 0.35},
}
_CONSONANTS: dict[str, dict[str, float]] = {
    "m": {"lips_seal": 1.0, "lips_press": 0.35, "jaw_open": 0.05},
    "p": {"lips_seal": 1.0, "lips_press": 0.15, "jaw_open": 0.08},
    "f": {"lip_tuck": 0.9, "lips_seal": 0.75, "upper_lip_up": 0.25, "jaw_open": 0.08},
    "w": {"pucker": 0.9, "funnel": 0.1, "jaw_open": 0.06},
    "sh": {"funnel": 0.75, "pucker": 0.25, "jaw_open": 0.07, "upper_lip_up": 0.15},
    "s": {"stretch": 0.45, "jaw_open": 0.05, "lower_lip_down": 0.35, "upper_lip_up": 0.15},
    "t": {"jaw_open": 0.10, "lower_lip_down": 0.20, "stretch": 0.15},
    "k": {"jaw_open": 0.17, "stretch": 0.10},
}
_SPEECH = (
    "jaw_open", "lips_seal", "lips_press", "lip_tuck", "pucker", "funnel", "stretch", "smile", "upper_lip_up",
    "lower_lip_down",
)  # fmt: skip


def _minimum_jerk(times: Array, values: Array, at: Array) -> Array:
    """A path through (times, values) that starts and stops at rest in every key: the way people move."""
    segment = np.clip(np.searchsorted(times, at, side="right") - 1, 0, len(times) - 2)
    span = np.maximum(times[segment + 1] - times[segment], 1e-9)
    u = np.clip((at - times[segment]) / span, 0.0, 1.0)
    ease = u**3 * (10.0 - 15.0 * u + 6.0 * u**2)
    return np.asarray(values[segment] + (values[segment + 1] - values[segment]) * ease)


def _key_times(rng: np.random.Generator, seconds: float, shortest: float, longest: float) -> Array:
    count = int(seconds / shortest) + 2
    times = np.concatenate([[0.0], np.cumsum(rng.uniform(shortest, longest, count))])
    return times[: int(np.searchsorted(times, seconds)) + 1]


def _stratified(rng: np.random.Generator, count: int) -> Array:
    """`count` numbers in -1..1, one from each of `count` equal strata, in random order: extremes are always met."""
    return np.asarray((rng.permutation(count) + rng.uniform(0.0, 1.0, count)) / count * 2.0 - 1.0)


def _speech(rng: np.random.Generator, at: Array) -> dict[str, Array]:
    """Mouth controls of babble: syllables of about 4.5 a second in phrases with pauses, co-articulated.

    Every sound has a target and a bell of dominance in time; the mouth is the dominance-weighted mean of the sounds
    near it (Cohen and Massaro 1993), so neighbours colour each other. Closures dominate: an m always closes.
    """
    columns = {name: at_ for at_, name in enumerate(_SPEECH)}
    centres, widths, strengths, targets = [], [], [], []
    vowels, consonants = list(_VOWELS.values()), list(_CONSONANTS.items())
    time, end = 0.25, at[-1] - 0.2
    while time < end:
        effort = rng.uniform(0.6, 1.35)
        for _ in range(int(rng.integers(3, 11))):
            length = 1.0 / rng.uniform(3.4, 5.8)
            name, shape = consonants[int(rng.integers(len(consonants)))]
            lips = name in ("m", "p", "f")
            sounds = [(0.22, shape, 1.0, 0.052 if lips else 0.045, 4.0 if lips else 1.0)]
            sounds.append((0.62, vowels[int(rng.integers(len(vowels)))], effort * rng.uniform(0.75, 1.2), 0.075, 1.0))
            for offset, sound, gain, width, strength in sounds:
                row = np.zeros(len(_SPEECH))
                for control, value in sound.items():
                    row[columns[control]] = value * gain
                centres.append(time + offset * length)
                widths.append(width * length / 0.22)
                strengths.append(strength)
                targets.append(row)
            time += length
        time += rng.uniform(0.25, 1.1)
    bell = np.array(strengths) * np.exp(-0.5 * ((at[:, None] - np.array(centres)) / np.array(widths)) ** 2)
    mouth = bell @ np.array(targets) / (bell.sum(axis=1, keepdims=True) + 0.25)
    seal = np.clip((mouth[:, columns["lips_seal"]] - 0.2) / 0.5, 0.0, 1.0)
    mouth[:, columns["lips_seal"]] = seal**2 * (3.0 - 2.0 * seal)
    return {name: np.clip(mouth[:, column], 0.0, 1.0) for name, column in columns.items()}


def _blinks(rng: np.random.Generator, at: Array, interval: float) -> Array:
    """Lid closure 0..1: quick down, slower up, 100 to 400 ms, now and then only half."""
    closure = np.zeros_like(at)
    time = rng.uniform(0.3, interval)
    while time < at[-1]:
        down, shut, up = rng.uniform(0.05, 0.12), rng.uniform(0.0, 0.08), rng.uniform(0.08, 0.2)
        depth = rng.uniform(0.35, 0.85) if rng.uniform() < 0.2 else 1.0
        keys = time + np.array([0.0, down, down + shut + 0.04, down + shut + 0.04 + up])
        blink = _minimum_jerk(keys, np.array([0.0, depth, depth, 0.0]), at)
        closure = np.maximum(closure, np.where((at >= keys[0]) & (at <= keys[-1]), blink, 0.0))
        time = keys[-1] + 0.2 + rng.exponential(interval)
    return closure


def _saccades(rng: np.random.Generator, at: Array, reach: float) -> tuple[Array, Array]:
    """Gaze that jumps (40 to 60 ms) and rests, mostly near the camera."""
    starts = _key_times(rng, float(at[-1]), 0.35, 1.9)
    times = np.sort(np.concatenate([starts, starts[1:] - 0.05]))
    count = len(starts)
    size = reach * rng.uniform(0.0, 1.0, count) ** 1.5
    angle = rng.uniform(0.0, 2.0 * np.pi, count)
    held = np.repeat(np.arange(count), 2)[: len(times)]  # rest until just before the next jump
    x, y = (size * np.cos(angle))[held], (0.8 * size * np.sin(angle))[held]
    return _minimum_jerk(times, x, at), _minimum_jerk(times, y, at)


def draw_controls(*, seed: int, seconds: float, fps: float = 25.0, style: Style = "training") -> Controls:
    """Seeded controls over time: the same numbers for every person. See `procedural_track`."""
    if not np.isfinite(seconds) or not np.isfinite(fps) or fps <= 0 or seconds * fps < 3:
        raise InputError(f"A track needs at least 3 frames, got {seconds} seconds at {fps} frames per second.")
    if style not in ("training", "speech"):
        raise InputError(f"There is no motion style {style!r}. Choose: training, speech.")
    if seed < 0:
        raise InputError(f"A seed is a whole number from 0, got {seed}.")
    rng = np.random.default_rng(seed)
    at = np.arange(round(seconds * fps)) / fps
    training = style == "training"

    def wander(reach: float, shortest: float, longest: float, power: float) -> Array:
        """Moves between targets in -reach..reach; the higher `power`, the rarer the extremes."""
        times = _key_times(rng, float(at[-1]), shortest, longest)
        level = _stratified(rng, len(times))
        return _minimum_jerk(times, reach * np.sign(level) * np.abs(level) ** power, at)

    def excite(reach: float, share: float, shortest: float = 0.4, longest: float = 1.4) -> Array:
        """A muscle that contracts now and then: at rest for 1 - share of the targets, else up to `reach`."""
        times = _key_times(rng, float(at[-1]), shortest, longest)
        level = (_stratified(rng, len(times)) + 1.0) / 2.0
        return _minimum_jerk(times, reach * np.clip((level - 1.0 + share) / share, 0.0, 1.0) ** 0.7, at)

    wide = 1.0 if training else 0.4
    moved: dict[str, Array] = {
        "yaw_deg": wander(MAX_YAW_DEG * wide, 0.5, 1.6, 1.5),
        "pitch_deg": wander(MAX_PITCH_DEG * wide, 0.4, 1.4, 1.5),
        "roll_deg": wander(MAX_ROLL_DEG * wide, 0.6, 1.8, 1.6),
        "shift_x": wander(0.10 * wide, 0.6, 1.8, 1.4),
        "shift_y": wander(0.08 * wide, 0.6, 1.8, 1.4),
        "zoom": wander(0.10 * wide, 0.8, 2.0, 1.4),
        "brow_raise": excite(1.0 if training else 0.7, 0.4),
        "brow_frown": excite(1.0 if training else 0.5, 0.3),
        "smile": excite(1.0 if training else 0.45, 0.4, 0.6, 2.0),
    }
    moved.update({name: value + moved.get(name, 0.0) for name, value in _speech(rng, at).items()})
    blink = _blinks(rng, at, 1.6 if training else 2.8)
    moved["blink_right"], moved["blink_left"] = blink.copy(), blink.copy()
    moved["gaze_x"], moved["gaze_y"] = _saccades(rng, at, 1.0 if training else 0.5)
    if training:
        # Beyond speech: the strong and the odd, so that the student has seen what a driver may do.
        for name, reach, share in (
            ("jaw_open", 1.0, 0.25), ("pucker", 1.0, 0.2), ("funnel", 1.0, 0.15), ("stretch", 1.0, 0.2),
            ("mouth_frown", 1.0, 0.2), ("upper_lip_up", 1.0, 0.15), ("lower_lip_down", 1.0, 0.15),
            ("lips_press", 1.0, 0.15),
        ):  # fmt: skip
            moved[name] = moved.get(name, np.zeros_like(at)) + excite(reach, share)
        moved["blink_right"] = np.maximum(moved["blink_right"], excite(1.0, 0.12))
        moved["blink_left"] = np.maximum(moved["blink_left"], excite(1.0, 0.12))
        wide_eyes, both = excite(0.35, 0.2), excite(0.8, 0.15)
        for name in ("blink_right", "blink_left"):
            moved[name] = np.where(moved[name] > 0.01, moved[name], -wide_eyes)
            moved[name] = np.maximum(moved[name], both)
    moved = {name: _within_reach(name, value) for name, value in moved.items()}
    # One shape at a time: corners cannot go out and in together.
    rounded = np.maximum(moved["pucker"], moved["funnel"])
    for name in ("smile", "stretch"):
        moved[name] = moved[name] * (1.0 - 0.8 * rounded)
    ease = np.clip(np.minimum(at, at[::-1]) / min(0.4, float(at[-1]) / 3.0), 0.0, 1.0)
    ease = ease**3 * (10.0 - 15.0 * ease + 6.0 * ease**2)
    return Controls.rest(len(at), **{name: value * ease for name, value in moved.items()})


def _within_reach(name: str, value: Array) -> Array:
    limits = {"yaw_deg": MAX_YAW_DEG, "pitch_deg": MAX_PITCH_DEG, "roll_deg": MAX_ROLL_DEG}
    if name in limits:
        return np.clip(value, -limits[name], limits[name])
    if name in ("shift_x", "shift_y", "zoom", "gaze_x", "gaze_y"):
        return np.clip(value, -1.0, 1.0)
    return np.clip(value, -0.5 if name.startswith("blink") else 0.0, 1.0)


def procedural_track(
    source_landmarks: NDArray[np.floating],
    *,
    seed: int,
    seconds: float,
    fps: float = 25.0,
    style: Style = "training",
) -> "Track":
    """A person's procedural motion: head turns on all axes, speech, blinks, brows, smiles and gaze.

    Starts and ends exactly in the photo's own pose; the same seed gives the same track.

    Args:
        source_landmarks: [478, 3], crop coordinates.
        seed: from `train_seed` or `held_out_seed`.
        seconds: length, at least three frames.
        fps: frames per second.
        style: "training" covers the extremes of every control; "speech" is a calm speaker for previews.

    Raises:
        InputError: a length, seed or style that cannot be; SpecError: wrong landmarks.
    """
    from edge.track import Track

    controls = draw_controls(seed=seed, seconds=seconds, fps=fps, style=style)
    landmarks = pose_face(source_landmarks, controls)
    return Track(landmarks=landmarks, fps=fps, detected=np.ones(len(landmarks), dtype=bool))


_SHOWCASE: tuple[tuple[str, dict[str, float]], ...] = (
    ("neutral", {}),
    ("yaw -30", {"yaw_deg": -30}),
    ("yaw -15", {"yaw_deg": -15}),
    ("yaw +15", {"yaw_deg": 15}),
    ("yaw +30", {"yaw_deg": 30}),
    ("pitch -20", {"pitch_deg": -20}),
    ("pitch +20", {"pitch_deg": 20}),
    ("roll -20", {"roll_deg": -20}),
    ("roll +20", {"roll_deg": 20}),
    ("blink", {"blink_right": 1, "blink_left": 1}),
    ("half lids", {"blink_right": 0.5, "blink_left": 0.5}),
    ("wink right", {"blink_right": 1}),
    ("wide open", {"jaw_open": 1, "lower_lip_down": 0.3, "upper_lip_up": 0.2}),
    ("jaw half", {"jaw_open": 0.5}),
    ("smile", {"smile": 1}),
    ("smile, teeth", {"smile": 1, "upper_lip_up": 0.5, "lower_lip_down": 0.5, "jaw_open": 0.08}),
    ("pucker", {"pucker": 1}),
    ("ah", _VOWELS["a"]),
    ("eh", _VOWELS["ae"]),
    ("ee", _VOWELS["i"]),
    ("oh", _VOWELS["o"]),
    ("oo", _VOWELS["u"]),
    ("m", _CONSONANTS["m"]),
    ("f", _CONSONANTS["f"]),
    ("sh", _CONSONANTS["sh"]),
    ("brows up", {"brow_raise": 1}),
    ("frown", {"brow_frown": 1, "mouth_frown": 0.6}),
    ("gaze left", {"gaze_x": -1}),
    ("gaze right", {"gaze_x": 1}),
    ("gaze up", {"gaze_y": -1}),
    ("gaze down", {"gaze_y": 1}),
    ("yaw +30, open", {"yaw_deg": 30, "jaw_open": 0.8}),
)


def showcase(source_landmarks: NDArray[np.floating]) -> tuple[list[str], NDArray[np.float32]]:
    """Labelled poses for a contact sheet: their names and float32 [T, 478, 3]. Left and right are the image's,
    but for the wink, which is the person's own right eye.
    """
    poses = [Controls.rest(1, **pose) for _, pose in _SHOWCASE]
    controls = Controls(*(np.concatenate(column) for column in zip(*poses, strict=True)))
    return [name for name, _ in _SHOWCASE], pose_face(source_landmarks, controls)

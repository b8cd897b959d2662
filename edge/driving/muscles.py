"""Muscles: how the 478 points of one face move when a jaw opens, lips round, lids close or eyes turn.

Everything is built from the person's own geometry, in the face's own frame (`edge.motion.face_frame`).
Handles with known displacements carry the points between them. Amplitudes were set beside 16 recorded faces.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.motion import (
    EYES,
    LIP_FOLLOWS,
    NECK,
    Array,
    Eye,
    face_frame,
)
from edge.topology import (
    CHIN,
    FACE_OVAL,
    FOREHEAD_TOP,
    INNER_LOWER_LIP,
    INNER_UPPER_LIP,
    LANDMARKS,
    LEFT_CHEEK_EDGE,
    LEFT_MOUTH_CORNER,
    LOWER_LIP_RINGS,
    RIGHT_CHEEK_EDGE,
    RIGHT_MOUTH_CORNER,
    UPPER_LIP_RINGS,
)

JAW_OPEN_DEG = 24.0
"""Jaw rotation at jaw_open = 1 (a yawn); loud speech stays below 0.5."""

STRAYS, STRAY_REACH = 40, 0.12
"""Smooth deformations of a face that no muscle below makes, and how far each reaches, in face heights."""

MESH_POINTS = 468
"""The points before the irises."""

_RIGHT_CORNERS = np.array([61, 76, 62, 78])
_LEFT_CORNERS = np.array([291, 306, 292, 308])

# Mirrored points, right and left, that hold or carry a field, beside lips and lids. Row by row: brows,
# forehead and hairline, lid fold, lower rim and eye corners, nose, cheeks, smile fold and chin, jaw line.
_RIGHT = np.array(
    [
        *(46, 53, 52, 65, 55, 70, 63, 105, 66, 107),
        *(108, 69, 104, 68, 71, 109, 67, 103, 54, 21, 162, 127, 234, 139, 156),
        *(247, 30, 29, 27, 28, 56, 190),
        *(25, 110, 24, 23, 22, 26, 112, 33, 133),
        *(98, 97, 64, 129, 48, 198, 131, 122, 193),
        *(119, 117, 50, 123, 205, 36, 147, 203, 216),
        *(57, 43, 204, 202, 212, 214, 192, 213, 187),
        *(148, 176, 149, 150, 136, 172, 58, 132, 93),
    ]
)
_LEFT = np.array(
    [
        *(276, 283, 282, 295, 285, 300, 293, 334, 296, 336),
        *(337, 299, 333, 298, 301, 338, 297, 332, 284, 251, 389, 356, 454, 368, 383),
        *(467, 260, 259, 257, 258, 286, 414),
        *(255, 339, 254, 253, 252, 256, 341, 263, 362),
        *(327, 326, 294, 358, 278, 420, 360, 351, 417),
        *(348, 346, 280, 352, 425, 266, 376, 423, 436),
        *(287, 273, 424, 422, 432, 434, 416, 433, 411),
        *(377, 400, 378, 379, 365, 397, 288, 361, 323),
    ]
)
_LEFT_OF = dict(zip(_RIGHT.tolist(), _LEFT.tolist(), strict=True))
_BELOW_LIP = 18
_MIDLINE = np.array([10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 2, 164, 18, 200, 199, 175, CHIN])

# Share of the jaw's turn that the skin at a point takes; points not named take 0 or lie between.
_JAW = {
    **{18: 1.0, 200: 1.0, 199: 1.0, 175: 1.0, CHIN: 1.0, 164: 0.03},
    **{148: 1.0, 176: 0.95, 149: 0.85, 150: 0.72, 136: 0.55, 172: 0.38, 58: 0.2, 132: 0.06},
    **{57: 0.38, 43: 0.55, 204: 0.66, 202: 0.58, 212: 0.4, 214: 0.36, 192: 0.24, 213: 0.13},
    **{187: 0.14, 205: 0.08, 50: 0.03, 147: 0.06, 216: 0.22, 36: 0.03},
}

# This one moves both sides to the left side of the face instead of mirroring.
_SIDEWAYS = "mouth_shift"

# Displacements in shares of the face height at control = 1: (x away from the midline, y down, z to the back),
# the same on both sides. Lips are added below.
_FIELDS: dict[str, dict[int, tuple[float, float, float]]] = {
    "smile": {
        **{57: (0.043, -0.040, 0.014), 216: (0.026, -0.034, -0.002), 212: (0.026, -0.024, 0.010)},
        **{187: (0.020, -0.030, -0.006), 205: (0.010, -0.028, -0.012), 50: (0.004, -0.022, -0.010)},
        **{36: (0.006, -0.022, -0.010), 203: (0.006, -0.014, -0.004), 147: (0.010, -0.014, -0.004)},
        **{117: (0.002, -0.012, -0.004), 119: (0.000, -0.012, -0.005), 123: (0.004, -0.010, -0.003)},
        **{129: (0.006, -0.006, 0.000), 98: (0.004, -0.003, 0.000), 64: (0.006, -0.004, 0.0)},
        **{43: (0.026, -0.012, 0.010), 214: (0.016, -0.014, 0.006), 192: (0.010, -0.010, 0.002)},
        **{23: (0.0, -0.006, 0.0), 24: (0.0, -0.006, 0.0), 22: (0.0, -0.005, 0.0), 110: (0.0, -0.005, 0.0)},
        **{26: (0.0, -0.003, 0.0), 25: (0.0, -0.003, 0.0), 18: (0.0, -0.006, 0.006)},
        **{204: (0.014, -0.008, 0.006), 202: (0.014, -0.012, 0.006)},
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
        **{
            18: (0.0, 0.016, 0.004),
            43: (0.002, 0.010, 0.002),
            204: (0.0, 0.008, 0.0),
            200: (0.0, 0.005, 0.0),
        },
    },
    "lips_press": {18: (0.0, -0.008, -0.004), 164: (0.0, 0.002, 0.002), 43: (0.002, -0.002, 0.0)},
    "lip_tuck": {18: (0.0, -0.006, 0.006), 200: (0.0, -0.003, 0.0), 204: (0.0, -0.003, 0.002)},
    "mouth_frown": {
        **{
            57: (0.004, 0.024, 0.006),
            43: (0.006, 0.018, 0.004),
            212: (0.004, 0.016, 0.004),
            216: (0.0, 0.008, 0.0),
        },
        **{18: (0.0, -0.006, -0.004), 200: (0.0, -0.008, -0.006), 204: (0.004, 0.004, 0.0)},
    },
    _SIDEWAYS: {
        **{57: (0.046, 0.0, 0.0), 43: (0.046, 0.0, 0.0), 204: (0.042, 0.0, 0.0), 202: (0.034, 0.0, 0.0)},
        **{212: (0.034, 0.0, 0.0), 216: (0.028, 0.0, 0.0), 214: (0.020, 0.0, 0.0), 187: (0.012, 0.0, 0.0)},
        **{18: (0.048, 0.0, 0.0), 200: (0.042, 0.0, 0.0), 199: (0.034, 0.0, 0.0), 175: (0.028, 0.0, 0.0)},
        **{CHIN: (0.032, 0.0, 0.0), 148: (0.032, 0.0, 0.0), 176: (0.027, 0.0, 0.0), 149: (0.018, 0.0, 0.0)},
        **{164: (0.022, 0.0, 0.0), 205: (0.006, 0.0, 0.0), 2: (0.004, 0.0, 0.0), 150: (0.008, 0.0, 0.0)},
    },
    "brow_raise": {
        **{
            107: (0.0, -0.042, 0.004),
            66: (0.0, -0.044, 0.004),
            105: (0.0, -0.043, 0.004),
            63: (0.0, -0.038, 0.004),
        },
        **{
            70: (0.0, -0.026, 0.003),
            55: (0.0, -0.036, 0.002),
            65: (0.0, -0.039, 0.002),
            52: (0.0, -0.039, 0.002),
        },
        **{
            53: (0.0, -0.033, 0.003),
            46: (0.0, -0.020, 0.003),
            9: (0.0, -0.026, 0.003),
            8: (0.0, -0.014, 0.001),
        },
        **{
            108: (0.0, -0.020, 0.004),
            69: (0.0, -0.022, 0.004),
            104: (0.0, -0.020, 0.004),
            68: (0.0, -0.012, 0.003),
        },
        **{71: (0.0, -0.008, 0.002), 151: (0.0, -0.016, 0.003), 156: (0.0, -0.008, 0.002)},
        **{27: (0.0, -0.006, 0.0), 29: (0.0, -0.006, 0.0), 28: (0.0, -0.005, 0.0), 30: (0.0, -0.004, 0.0)},
        **{56: (0.0, -0.004, 0.0), 247: (0.0, -0.003, 0.0), 190: (0.0, -0.003, 0.0)},
    },
    "brow_frown": {
        **{107: (-0.012, 0.020, -0.004), 66: (-0.011, 0.024, -0.003), 105: (-0.008, 0.022, -0.002)},
        **{63: (-0.004, 0.016, 0.0), 70: (-0.001, 0.008, 0.0), 55: (-0.012, 0.020, -0.004)},
        **{65: (-0.010, 0.022, -0.003), 52: (-0.007, 0.020, -0.002), 53: (-0.003, 0.013, 0.0)},
        **{
            46: (-0.001, 0.007, 0.0),
            9: (0.0, 0.012, -0.003),
            8: (0.0, 0.008, -0.002),
            108: (-0.003, 0.007, 0.0),
        },
        **{
            69: (-0.002, 0.007, 0.0),
            104: (-0.001, 0.004, 0.0),
            151: (0.0, 0.004, 0.0),
            28: (0.0, 0.005, 0.0),
        },
        **{27: (0.0, 0.004, 0.0), 56: (0.0, 0.005, 0.0), 193: (-0.002, 0.005, 0.0)},
    },
}

# The same for the lips: corners, then the four rings of the upper and the lower lip (outer to inner) at the
# middle of the mouth. Between middle and corner the value follows a smooth arch.
_Vector = tuple[float, float, float]
_LIPS: dict[str, tuple[_Vector, Sequence[_Vector], Sequence[_Vector]]] = {
    "smile": (
        (0.048, -0.044, 0.018),
        [(0.0, -0.010, 0.008), (0.0, -0.010, 0.008), (0.0, -0.009, 0.007), (0.0, -0.008, 0.006)],
        [(0.0, -0.004, 0.008), (0.0, -0.005, 0.008), (0.0, -0.006, 0.007), (0.0, -0.007, 0.006)],
    ),
    "pucker": (
        (-0.048, 0.004, -0.016),
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
    _SIDEWAYS: (
        (0.050, 0.0, 0.0),
        [(0.046, 0.0, 0.0), (0.048, 0.0, 0.0), (0.050, 0.0, 0.0), (0.050, 0.0, 0.0)],
        [(0.052, 0.0, 0.0), (0.052, 0.0, 0.0), (0.051, 0.0, 0.0), (0.050, 0.0, 0.0)],
    ),
    "mouth_frown": (
        (0.004, 0.030, 0.008),
        [(0.0, 0.002, 0.0), (0.0, 0.001, 0.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)],
        [(0.0, -0.006, -0.006), (0.0, -0.004, -0.006), (0.0, -0.002, -0.004), (0.0, 0.0, -0.002)],
    ),
}


def _handles() -> NDArray[np.int_]:
    lids = [np.concatenate([eye.upper, eye.lower]) for eye in EYES]
    parts = [
        UPPER_LIP_RINGS,
        LOWER_LIP_RINGS,
        _RIGHT_CORNERS,
        _LEFT_CORNERS,
        _RIGHT,
        _LEFT,
        _MIDLINE,
        FACE_OVAL,
        *lids,
    ]
    return np.unique(np.concatenate([np.ravel(part) for part in parts]))


_HANDLES = _handles()


def _spreading(aligned: Array) -> Array:
    """Weights [478, handles] that carry values at the handles smoothly to every point; irises take none.

    The interpolant has least bending over a graph of near neighbours (a discrete biharmonic surface). It
    needs no mesh; lips and lids, where neighbours in space part ways, are handles throughout: nothing bleeds.
    """
    points = aligned[:MESH_POINTS]
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argpartition(distance, 8, axis=1)[:, :8]
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


class Puppet:
    """One person's face with everything that depends on it alone worked out: bind once, pose often."""

    def __init__(self, landmarks: NDArray[np.floating]) -> None:
        self.frame = face_frame(landmarks)
        self.rest = (np.asarray(landmarks, np.float64) - self.frame.origin) @ self.frame.rotation
        self.height = float(self.rest[CHIN, 1] - self.rest[FOREHEAD_TOP, 1])
        self._position = {int(point): at for at, point in enumerate(_HANDLES)}
        self._spread = _spreading(self.rest)
        self.fields = {name: self._field(name) for name in _FIELDS}
        self.jaw = self._jaw()
        ears = self.rest[[RIGHT_CHEEK_EDGE, LEFT_CHEEK_EDGE]].mean(axis=0)
        # The jaw's hinge lies before and a little below the ear canal.
        self.hinge = ears + self.height * np.array([0.0, 0.06, -0.02])
        self.neck = self.height * NECK
        self.strays = self._strays()

    def _rows(self, points: NDArray[np.int_]) -> NDArray[np.int_]:
        return np.searchsorted(_HANDLES, points)

    def spread(self, values: Array) -> Array:
        """Values [.., handles, 3] at the handles → [.., 478, 3]."""
        return np.asarray(np.einsum("ph,...hc->...pc", self._spread, values, optimize=True))

    def _along_lip(self) -> Array:
        """Where lip points lie between the mouth's middle (0) and its right (-1) and left (1) corner.

        Returns: float64 [2, 4, 9]: upper and lower lip, ring, point.
        """
        right, left = self.rest[RIGHT_MOUTH_CORNER, 0], self.rest[LEFT_MOUTH_CORNER, 0]
        middle, half = (right + left) / 2.0, max((left - right) / 2.0, 1e-6)
        x = np.stack([self.rest[UPPER_LIP_RINGS, 0], self.rest[LOWER_LIP_RINGS, 0]])
        return np.asarray(np.clip((x - middle) / half, -1.0, 1.0))

    def _field(self, name: str) -> Array:
        """One expression's displacement [478, 3] at control = 1."""
        values = np.zeros((len(_HANDLES), 3))
        mirrored = np.array([1.0 if name == _SIDEWAYS else -1.0, 1.0, 1.0])
        for point, vector in _FIELDS[name].items():
            if point in _LEFT_OF:
                values[self._position[point]] = np.array(vector) * mirrored
                values[self._position[_LEFT_OF[point]]] = vector
            else:
                values[self._position[point]] = vector
        if name in _LIPS:
            corner, upper, lower = _LIPS[name]
            values[self._rows(_RIGHT_CORNERS)] = np.array(corner) * mirrored
            values[self._rows(_LEFT_CORNERS)] = corner
            along = self._along_lip()
            for rings, at, middle in ((UPPER_LIP_RINGS, along[0], upper), (LOWER_LIP_RINGS, along[1], lower)):
                # x grows linearly towards the corner, so lips stretch evenly; y and z follow an arch.
                arch = np.abs(at)[..., None] ** 2.2
                value = np.array(middle)[:, None, :] * (1.0 - arch) + np.array(corner) * arch
                if name != _SIDEWAYS:
                    value[..., 0] = corner[0] * at
                values[self._rows(rings)] = value
        if name in ("pucker", "funnel"):
            # A broad mouth has farther to go to become round (0.29: the median mouth).
            width = self.rest[LEFT_MOUTH_CORNER, 0] - self.rest[RIGHT_MOUTH_CORNER, 0]
            values[:, 0] *= np.clip(width / (0.29 * self.height), 0.8, 1.5)
        return self.spread(values * self.height)

    def _jaw(self) -> Array:
        """Share of the jaw's turn at every point: [478]."""
        values = np.zeros(len(_HANDLES))
        for point, share in _JAW.items():
            values[self._position[point]] = share
            if point in _LEFT_OF:
                values[self._position[_LEFT_OF[point]]] = share
        corner = 0.44
        values[self._rows(np.concatenate([_RIGHT_CORNERS, _LEFT_CORNERS]))] = corner
        up, down = np.abs(self._along_lip())
        values[self._rows(UPPER_LIP_RINGS)] = 0.02 + (corner - 0.02) * up**3.0
        values[self._rows(LOWER_LIP_RINGS)] = corner + (1.03 - corner) * (1.0 - down**2.2)
        return np.asarray(self._spread @ values)

    def _strays(self) -> Array:
        """Ways to stray from what muscles do, each smooth over the face: [STRAYS, 478], all together of spread 1.

        The principal components of a Gaussian process over the face's points. What opens with the jaw counts as far
        from what does not, so that the two lips stray apart.
        """
        places = np.column_stack([self.rest / self.height, 0.3 * self.jaw])
        distance = np.square(places[:, None] - places[None]).sum(-1)
        values, vectors = np.linalg.eigh(np.exp(-0.5 * distance / STRAY_REACH**2))
        return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))).T[: -STRAYS - 1 : -1])

    def stray(self, face: Array, shares: Array) -> None:
        """The face moved by its `strays`: shares [T, STRAYS, 3], in face heights. In place."""
        face += self.height * np.einsum("tsc,sp->tpc", shares, self.strays)

    def contract(self, face: Array, name: str, level: Array, skew: Array) -> None:
        """One expression at strength `level` [T]; `skew` [T] > 0 spares the right side, < 0 the left.

        In place.
        """
        left = np.tanh(self.rest[:, 0] / (0.08 * self.height))
        strength = level[:, None] * (1.0 + np.minimum(skew[:, None] * left, 0.0))
        face += strength[..., None] * self.fields[name]

    def open_jaw(self, face: Array, jaw_open: Array) -> Array:
        """The lower face turned about the jaw's hinge; corners of the mouth draw in a little."""
        angle = np.radians(JAW_OPEN_DEG) * jaw_open[:, None] * self.jaw
        sine, cosine = np.sin(angle), np.cos(angle)
        arm = face - self.hinge
        turned = arm.copy()
        turned[..., 1] = cosine * arm[..., 1] - sine * arm[..., 2]
        turned[..., 2] = sine * arm[..., 1] + cosine * arm[..., 2]
        drawn = self.fields["pucker"] * np.array([1.0, 0.0, 0.0])
        # The hinge itself glides forwards and down: chins sink about as far as they draw back (docs/log.md).
        glide = (jaw_open[:, None] * self.jaw)[..., None] * self.height * np.array([0.0, 0.02, -0.11])
        return np.asarray(turned + self.hinge + glide + 0.35 * jaw_open[:, None, None] * drawn)

    def close_lips(self, face: Array, seal: Array) -> Array:
        """The lips brought together by a share `seal` of their gap; lips that would cross meet instead."""
        gap = face[:, INNER_LOWER_LIP] - face[:, INNER_UPPER_LIP]
        rest_gap = self.rest[INNER_LOWER_LIP, 1] - self.rest[INNER_UPPER_LIP, 1]
        crossed = gap[..., 1] < np.minimum(rest_gap, 0.0) - 1e-9
        pull = np.where(crossed, 1.0, seal[:, None])[..., None]
        values = np.zeros((len(face), len(_HANDLES), 3))
        for rings, share in ((UPPER_LIP_RINGS, 0.35), (LOWER_LIP_RINGS, -0.65)):
            for ring, ring_share in zip(rings, LIP_FOLLOWS, strict=True):
                values[:, self._rows(ring)] = share * ring_share * pull * gap
        values[:, self._position[_BELOW_LIP]] = 0.6 * values[:, self._position[LOWER_LIP_RINGS[0, 4]]]
        closed = face + self.spread(values)
        # Exactly, so that a sealed mouth shows no sliver of the cavity.
        upper = face[:, INNER_UPPER_LIP] + 0.35 * pull * gap
        closed[:, INNER_UPPER_LIP] = upper
        closed[:, INNER_LOWER_LIP] = upper + (1.0 - pull) * gap
        return closed

    def close_eye(self, face: Array, eye: Eye, blink: Array) -> None:
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

    def look(self, face: Array, eye: Eye, gaze_x: Array, gaze_y: Array) -> None:
        """The iris rolled over the eyeball, within the opening. In place."""
        corners = self.rest[eye.corners]
        width = corners[1, 0] - corners[0, 0]
        iris = self.rest[eye.iris]
        radius = np.linalg.norm(iris[1:, :2] - iris[0, :2], axis=1).mean()
        # An eye that looks far aside hides part of its iris behind the corner.
        room_left = max(iris[0, 0] - corners[0, 0] - 0.45 * radius, 0.0)
        room_right = max(corners[1, 0] - iris[0, 0] - 0.45 * radius, 0.0)
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

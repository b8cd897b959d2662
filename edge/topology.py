"""Names for MediaPipe's 478 face landmarks: the one table that Python, Kotlin and Swift share.

"Left" and "right" are the person's own, as in MediaPipe: the right eye is on the left of the image.
Index facts are those of MediaPipe's published face mesh topology (Apache-2.0).
"""

import numpy as np

LANDMARKS = 478
"""Points of one face: 468 of the mesh, then 5 of each iris (centre first), right iris first."""

FOREHEAD_TOP, CHIN, NOSE_TIP, NOSE_BRIDGE = 10, 152, 1, 168
RIGHT_EYE_OUTER, RIGHT_EYE_INNER, LEFT_EYE_INNER, LEFT_EYE_OUTER = 33, 133, 362, 263
RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER = 61, 291
RIGHT_INNER_MOUTH_CORNER, LEFT_INNER_MOUTH_CORNER = 78, 308
RIGHT_CHEEK_EDGE, LEFT_CHEEK_EDGE = 234, 454
RIGHT_IRIS_CENTRE, LEFT_IRIS_CENTRE = 468, 473
RIGHT_IRIS = np.arange(468, 473)
LEFT_IRIS = np.arange(473, 478)

FACE_OVAL = np.array(
    [10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377]
    + [152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]
)
"""The face's outline: a closed ring of 36 points, clockwise in the image from the forehead's top."""

# Lids from the outer to the inner corner of the eye; the n-th upper point lies over the n-th lower one.
RIGHT_UPPER_LID = np.array([246, 161, 160, 159, 158, 157, 173])
RIGHT_LOWER_LID = np.array([7, 163, 144, 145, 153, 154, 155])
LEFT_UPPER_LID = np.array([466, 388, 387, 386, 385, 384, 398])
LEFT_LOWER_LID = np.array([249, 390, 373, 374, 380, 381, 382])

# The crease above each eye, from the outer to the inner corner.
RIGHT_FOLD = np.array([247, 30, 29, 27, 28, 56, 190])
LEFT_FOLD = np.array([467, 260, 259, 257, 258, 286, 414])

RIGHT_BROW = np.array([70, 63, 105, 66, 107, 46, 53, 52, 65, 55])
LEFT_BROW = np.array([300, 293, 334, 296, 336, 276, 283, 282, 295, 285])

# Lips from the right to the left corner, corners left out; the n-th upper point lies over the n-th lower one.
INNER_UPPER_LIP = np.array([191, 80, 81, 82, 13, 312, 311, 310, 415])
INNER_LOWER_LIP = np.array([95, 88, 178, 87, 14, 317, 402, 318, 324])
OUTER_UPPER_LIP = np.array([185, 40, 39, 37, 0, 267, 269, 270, 409])
OUTER_LOWER_LIP = np.array([146, 91, 181, 84, 17, 314, 405, 321, 375])

# Rings of each lip from its outer border inwards, each from the right to the left corner, corners left out.
UPPER_LIP_RINGS = np.array(
    [
        OUTER_UPPER_LIP,
        [184, 74, 73, 72, 11, 302, 303, 304, 408],
        [183, 42, 41, 38, 12, 268, 271, 272, 407],
        INNER_UPPER_LIP,
    ]
)
LOWER_LIP_RINGS = np.array(
    [
        OUTER_LOWER_LIP,
        [77, 90, 180, 85, 16, 315, 404, 320, 307],
        [96, 89, 179, 86, 15, 316, 403, 319, 325],
        INNER_LOWER_LIP,
    ]
)
MOUTH_CORNERS = np.array([61, 76, 62, 78, 291, 306, 292, 308])
"""Of the four rings, from the outer border inwards: the right corner's, then the left one's."""

REGIONS = {
    "mouth": np.concatenate([MOUTH_CORNERS, UPPER_LIP_RINGS.ravel(), LOWER_LIP_RINGS.ravel()]),
    "right_eye": np.concatenate([[RIGHT_EYE_OUTER, RIGHT_EYE_INNER], RIGHT_UPPER_LID, RIGHT_LOWER_LID, RIGHT_FOLD]),
    "left_eye": np.concatenate([[LEFT_EYE_OUTER, LEFT_EYE_INNER], LEFT_UPPER_LID, LEFT_LOWER_LID, LEFT_FOLD]),
    "brows": np.concatenate([RIGHT_BROW, LEFT_BROW]),
    "jaw": np.array(
        [18, 32, 43, 83, 106, 136, 140, 148, 149, 150, 152, 169, 170, 171, 175, 176, 182, 194, 199, 200, 201, 202, 204]
        + [208, 210, 211, 262, 273, 313, 335, 365, 369, 377, 378, 379, 394, 395, 396, 400, 406, 418, 421, 422, 424]
        + [428, 430, 431]
    ),
    "gaze": np.concatenate([RIGHT_IRIS, LEFT_IRIS]),
}
"""Parts of a face that can be driven each by itself (`edge.motion.Retargeter.express`); no landmark is in two."""

MIDLINE = np.array(
    [0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19] + [94, 151, 152, 164, 168, 175, 195, 197, 199, 200]
)
"""Points on the face's plane of symmetry, in order of their number."""


def _mirror() -> np.ndarray:
    """Numbers run through the right half and the midline first, then through the left half in the same order."""
    mirror = np.arange(LANDMARKS)
    right, left = np.setdiff1d(np.arange(248), MIDLINE), np.arange(248, 468)
    right = np.concatenate([right, RIGHT_IRIS])
    left = np.concatenate([left, LEFT_IRIS[[0, 3, 2, 1, 4]]])
    mirror[right], mirror[left] = left, right
    return mirror


MIRROR = _mirror()
"""The landmark on the other side of the face, for each; a midline's is itself."""

STABLE = np.array(
    [10, 338, 297, 332, 284, 251, 389, 109, 67, 103, 54, 21, 162, 127, 356, 234, 454]
    + [9, 8, 168, 6, 197, 195, 151, 108, 337, 33, 133, 362, 263, 98, 327]
)
"""Points that speech and expression hardly move: forehead, temples, nose bridge, eye corners, nostrils.

Head pose is fitted to these alone."""

LOCAL = np.concatenate(
    [
        [RIGHT_IRIS_CENTRE, LEFT_IRIS_CENTRE],
        [33, 160, 159, 158, 133, 144, 145, 153],
        [263, 387, 386, 385, 362, 373, 374, 380],
        [70, 105, 107, 300, 334, 336],
        [61, 40, 37, 0, 267, 270, 291, 91, 84, 17, 314, 321],
        [78, 80, 82, 13, 312, 310, 308, 88, 87, 14, 317, 318],
        [152, 149, 378, 136, 365, 205, 425, 4],
    ]
)
"""Local landmarks (c^loc of the paper, Sec. 3.3): gaze, lids, brows, lips, jaw. Order is part of the bundle format."""

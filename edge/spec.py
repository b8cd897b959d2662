"""The contract of an avatar: sizes and tensors that Python, Kotlin and Swift share.

A bundle's manifest holds these values as JSON; ports read them from there and retype nothing.
"""

from typing import NamedTuple

from edge.topology import LANDMARKS, LOCAL

CROP = 512
"""Pixels across the crop that coordinates are told in: -1 and 1 are the centres of its first and last."""

NETWORK = 512
"""Width and height of what the student keeps of a person and paints, in pixels."""

FRAME = 512
"""Width and height of a frame that an avatar gives, in pixels."""

FIELD = 64
"""Width and height of the motion field, in cells."""

KEYPOINTS = 20
"""K: neural keypoints of one face."""

LOCAL_LANDMARKS = len(LOCAL)
"""M: local landmarks (gaze, lids, brows, lips, jaw)."""

FORMAT_VERSION = 3
"""Version of the bundle folder; a reader refuses any other. 2: a graph's files by runtime, then by precision. 3: golden
landmarks as a camera sees them, and the tables that a port needs."""


class TensorSpec(NamedTuple):
    """One tensor at the door of a model."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    low: float
    """Smallest meaningful value (coordinates may leave the crop a little: -2)."""
    high: float


LANDMARKS_IN = TensorSpec("landmarks", (1, LANDMARKS, 3), "float32", -4.0, 4.0)
KEYPOINTS_IN = TensorSpec("keypoints", (1, KEYPOINTS, 2), "float32", -4.0, 4.0)
LOCAL_IN = TensorSpec("local_landmarks", (1, LOCAL_LANDMARKS, 2), "float32", -4.0, 4.0)
IMAGE_OUT = TensorSpec("image", (1, 3, FRAME, FRAME), "float32", 0.0, 1.0)

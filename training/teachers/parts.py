"""What the mesh teacher's pieces share: the atlas's layout, textured geometry, poses, and filling in colours."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge import topology as topo
from edge.spec import NETWORK

Array = NDArray[np.float32]

PANEL = 128
"""The atlas is the photo with two rows of square panels below it, so many pixels each way."""
MARGIN = 80
"""Pixels by which the atlas continues the photo to the left, to the right and above: hair that the frame cut off."""
HALF = (NETWORK - 1) / 2
RIGHT_EYE_PANEL, LEFT_EYE_PANEL, MOUTH_PANEL, LID_PANEL = ((i * PANEL, NETWORK) for i in range(4))
RIGHT_IRIS_PANEL, LEFT_IRIS_PANEL, TONGUE_PANEL = ((i * PANEL, NETWORK + PANEL) for i in range(3))
"""Where each panel's corner lies: x, y in pixels of the photo."""


class Part(NamedTuple):
    """A textured piece of geometry."""

    vertices: Array  # [V, 3] on the frame
    uv: Array  # [V, 2] where its colours lie in the atlas, in pixels from the photo's corner
    source: Array  # [V, 2] pixels of the photo that it stands for (motion field)
    triangles: NDArray[np.int64]
    shade: Array  # [V]


class Pose(NamedTuple):
    """Photo pose → frame pose."""

    scale: float
    rotation: Array
    shift: Array

    def forward(self, points: Array) -> Array:
        """Points [..., 3] of the photo's pose in the frame's."""
        return (self.scale * points @ self.rotation.T + self.shift).astype(np.float32)

    def backward(self, points: Array) -> Array:
        """Points [..., 3] of the frame's pose in the photo's."""
        return ((points - self.shift) @ self.rotation / self.scale).astype(np.float32)

    def seen_at(self, points: Array, depth: Array | float) -> Array:
        """Points [..., 3] that lie at a depth in the photo's pose, where points [..., 3] of the frame's are seen: x, y.

        A landmark's own depth is a guess that trembles, and would move what a turned head shows aside.
        """
        back, sight = self.backward(points), self.rotation[2]
        return back[..., :2] + ((depth - back[..., 2]) / sight[2])[..., None] * sight[:2]


def to_pixels(landmarks: Array) -> Array:
    """Crop coordinates [..., 478, 3] → pixels of the crop, z in the same unit."""
    pixels = landmarks.astype(np.float32) * np.float32(HALF)
    pixels[..., :2] += HALF
    return pixels


def to_crop(points: Array) -> Array:
    """Pixels of the crop [..., 3] → crop coordinates."""
    coordinates = points / np.float32(HALF)
    coordinates[..., :2] -= 1
    return coordinates


def smoothstep(value: Array, low: float | Array, high: float | Array) -> Array:
    """0 up to `low`, 1 from `high`, smooth between; any shapes that go together."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def blur(values: Array, sigma: float) -> Array:
    """A picture [h, w] or [h, w, C] softened by a Gaussian of so many pixels; its border goes on."""
    return cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)


def bell(distance: Array, width: float) -> Array:
    """1 at 0, exp(-1) at `width`."""
    return np.exp(-((distance / width) ** 2)).astype(np.float32)


def downwards(across: Array, points: Array) -> Array:
    """The unit vector of a photo at right angles to `across` [2], on the chin's side of landmarks [478, 3]."""
    down = np.array([-across[1], across[0]], np.float32)
    return down if down @ (points[topo.CHIN, :2] - points[topo.FOREHEAD_TOP, :2]) >= 0 else -down


def sheet(rows: int, columns: int) -> NDArray[np.int64]:
    """Triangles of a rows x columns sheet of vertices: int64 [F, 3]."""
    at = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, :-1], at[1:, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])


def fan(count: int) -> NDArray[np.int64]:
    """Triangles of a ring of `count` vertices around a last, middle one."""
    ring = np.arange(count)
    return np.stack([ring, (ring + 1) % count, np.full(count, count)], -1)


def panel_uv(panel: tuple[int, int], x: Array, y: Array) -> Array:
    """Pixels of the atlas [V, 2] for places within a panel."""
    return np.stack(np.broadcast_arrays(panel[0] + x, panel[1] + y), -1).reshape(-1, 2).astype(np.float32)


def inpaint(colour: Array, known: Array) -> Array:
    """Colours [h, w, 3] continued from where `known` [h, w] is 1 into where it is 0, smoothly."""
    total, weight = np.zeros_like(colour), np.zeros((*known.shape, 1), np.float32)
    for sigma in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        share = 4.0 ** -np.log2(sigma)
        total += share * cv2.GaussianBlur(colour * known[..., None], (0, 0), sigma)
        weight += share * cv2.GaussianBlur(known, (0, 0), sigma)[..., None]
    keep = known[..., None]
    return keep * colour + (1 - keep) * total / np.maximum(weight, 1e-6)

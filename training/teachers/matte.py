"""Head and shoulders cut from a photo by MediaPipe's selfie segmentation, with a soft matte."""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from edge.driving.models import find_segmenter
from edge.topology import FACE_OVAL

_SEEN = 256  # the segmenter sees the photo at this size; the guided filter brings back the full resolution


class Layers(NamedTuple):
    """A photo taken apart."""

    matte: np.ndarray
    """float32 [H, W], 0 background … 1 person."""
    background: np.ndarray
    """uint8 [H, W, 3]: the photo with the person filled in from what surrounds them."""


def cut_out(image: np.ndarray, points: np.ndarray) -> Layers:
    """Person and background of a head crop.

    Args:
        image: uint8 [H, W, 3], RGB, square.
        points: float32 [478, 2 or 3], landmarks in pixels of `image`.

    Returns:
        Layers: the soft matte and the filled background plate.

    Raises:
        InputError, MissingRuntimeError: the segmentation model is not at hand (`edge.driving.models.find_segmenter`).
    """
    size = image.shape[0]
    matte = cv2.resize(_person(image, points), (size, size), interpolation=cv2.INTER_LINEAR)
    matte = cv2.ximgproc.guidedFilter(image, matte, max(2, size // 85), 60.0)
    matte = np.clip((matte - 0.1) / 0.8, 0, 1)
    # A rim of the old background goes along with the person and fades out: it carries wisps of hair that
    # the cut missed, and hides the seam to the filled plate.
    away = cv2.distanceTransform((matte < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    rim = size / 80
    fade = np.clip(1 - away / rim, 0, 1)
    matte = np.maximum(matte, fade * fade * (3 - 2 * fade)).astype(np.float32)
    return Layers(matte, _fill(image, away > size / 34))


@lru_cache(maxsize=1)
def _segmenter() -> cv2.dnn.Net:
    """MediaPipe's selfie segmentation: RGB 0..1 [1, 3, 256, 256] → share of person [1, 1, 256, 256]."""
    return cv2.dnn.readNetFromTFLite(np.frombuffer(find_segmenter().read_bytes(), np.uint8))


def _person(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float32 [256, 256], 0..1: whose face this is, without other people and things beside them."""
    small = cv2.resize(image, (_SEEN, _SEEN), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    network = _segmenter()
    network.setInput(np.ascontiguousarray(small.transpose(2, 0, 1)[None]))
    share = network.forward().reshape(_SEEN, _SEEN)
    oval = points[FACE_OVAL, :2] * (_SEEN / image.shape[0])
    likely = (share > 0.5).astype(np.uint8)
    cv2.fillPoly(likely, [oval.round().astype(np.int32)], 1)
    _, labels = cv2.connectedComponents(likely)
    column, row = np.clip(oval.mean(0).round().astype(int), 0, _SEEN - 1)
    person = (labels == labels[row, column]).astype(np.uint8)
    # Half a person moves as a ghost: what is rather person than not moves whole.
    share = np.maximum(np.clip(2 * share - 0.5, 0, 1), cv2.morphologyEx(person, cv2.MORPH_CLOSE, _disc(9)))
    return np.where(cv2.dilate(person, _disc(5)) > 0, share, 0).astype(np.float32)


def _disc(size: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def _fill(image: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """The photo where `outside` is true, elsewhere its smooth continuation with the texture around mirrored in.

    What a turning head bares lies within a sixth of the frame of the old outline. There each pixel takes what lies as
    far beyond the outline in its own row: blinds, horizons and curtains go on, and nothing of the person comes back.
    """
    size = image.shape[0]
    smooth = _push_pull(image, outside)
    x = np.broadcast_to(np.arange(size, dtype=np.float32), (size, size))
    y = np.ascontiguousarray(x.T)
    # The nearest background to the left and to the right in each row, evened from row to row.
    left = np.maximum.accumulate(np.where(outside, x, -1.0), axis=1)
    right = np.minimum.accumulate(np.where(outside, x, float(size))[:, ::-1], axis=1)[:, ::-1]
    total, weight = np.zeros_like(smooth), np.zeros((size, size, 1), np.float32)
    trust = np.zeros((size, size), np.float32)
    for edge, there in ((left, left >= 0), (right, right < size)):
        edge = np.where(there, edge, x)
        near = there & ~outside
        even = _blur(edge * near, size / 48) / np.maximum(_blur(near.astype(np.float32), size / 48), 1e-3)
        mirrored = (2 * even - x).astype(np.float32)
        away = np.abs(x - even)
        # Beyond the frame the mirror goes on with the frame's own mirror image.
        colour = cv2.remap(image, mirrored, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        sure = cv2.remap(outside.astype(np.float32), mirrored, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        reached = near * (sure > 0.99) * np.clip(2 - away / (size / 6), 0, 1)
        share = (reached * np.exp(-away / (size / 24)))[..., None]  # the nearer side prevails
        total += share * colour
        weight += share
        trust = np.maximum(trust, reached)
    texture = np.where(weight > 1e-6, total / np.maximum(weight, 1e-6), smooth)
    trust = (_blur(trust, size / 128) * (weight[..., 0] > 1e-6))[..., None]
    filled = trust * texture + (1 - trust) * smooth
    return np.where(outside[..., None], image, np.clip(filled, 0, 255).round()).astype(np.uint8)


def _blur(values: np.ndarray, sigma: float) -> np.ndarray:
    return cv2.GaussianBlur(values, (0, 0), sigma)


def _push_pull(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The photo where `known` is true, elsewhere its smooth continuation from a pyramid: float32, 0..255."""
    weight = known.astype(np.float32)[..., None]
    levels = [(image.astype(np.float32) * weight, weight)]
    while min(levels[-1][0].shape[:2]) > 2:
        colour, weight = levels[-1]
        half = (colour.shape[1] // 2, colour.shape[0] // 2)
        colour = cv2.resize(colour, half, interpolation=cv2.INTER_AREA)
        weight = cv2.resize(weight, half, interpolation=cv2.INTER_AREA).reshape(half[1], half[0], 1)
        levels.append((colour, weight))
    colour, weight = levels[-1]
    filled = colour / np.maximum(weight, 1e-4)
    for colour, weight in reversed(levels[:-1]):
        below = cv2.resize(filled, colour.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        confidence = np.clip(weight * 2, 0, 1)
        filled = confidence * colour / np.maximum(weight, 1e-4) + (1 - confidence) * below
    inside = known[..., None].astype(np.float32)
    return np.clip(inside * image + (1 - inside) * filled, 0, 255)

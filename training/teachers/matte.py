"""Head and shoulders cut from a photo without a network: GrabCut from a landmark prior, then a soft matte."""

from typing import NamedTuple

import cv2
import numpy as np

from edge.topology import CHIN, FACE_OVAL, FOREHEAD_TOP, LEFT_CHEEK_EDGE, RIGHT_CHEEK_EDGE

_WORK = 256  # GrabCut sees the photo at this size; the guided filter brings back the full resolution.


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
    """
    size = image.shape[0]
    scale = _WORK / size
    matte = _grab(cv2.resize(image, (_WORK, _WORK), interpolation=cv2.INTER_AREA), points[:, :2] * scale)
    matte = cv2.resize(matte, (size, size), interpolation=cv2.INTER_LINEAR)
    radius = max(2, size // 85)
    matte = cv2.ximgproc.guidedFilter(image, matte, radius, 60.0)
    matte = np.clip((matte - 0.1) / 0.8, 0, 1)
    # A rim of the old background goes along with the person and fades out: it carries wisps of hair that
    # the cut missed, and hides the seam to the filled plate.
    away = cv2.distanceTransform((matte < 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    rim = size / 48
    fade = np.clip(1 - away / rim, 0, 1)
    matte = np.maximum(matte, fade * fade * (3 - 2 * fade)).astype(np.float32)
    return Layers(matte, _fill(image, away > 0.9 * rim))


SKULLS = (0.42, 0.54)
"""Half widths of the sure skull, in face widths. A wide one takes slices of wall along beside turned faces; a
narrow one loses dark hair before dark walls. The wide one is for heads that come out bald."""


def _grab(image: np.ndarray, points: np.ndarray, skull: float = SKULLS[0]) -> np.ndarray:
    """float32 [h, w], 0 or 1: GrabCut seeded with what a head and shoulders must and cannot cover."""
    size = image.shape[0]
    chin, top = points[CHIN], points[FOREHEAD_TOP]
    width = np.linalg.norm(points[LEFT_CHEEK_EDGE] - points[RIGHT_CHEEK_EDGE])
    height = np.linalg.norm(chin - top)
    width = max(width, 0.7 * height)
    up = (top - chin) / height
    centre = (chin + top) / 2
    angle = np.degrees(np.arctan2(up[0], -up[1]))

    def ellipse(mask: np.ndarray, at: np.ndarray, axes: tuple[float, float], value: int) -> None:
        cv2.ellipse(mask, (tuple(map(float, at)), (2 * axes[0], 2 * axes[1]), float(angle)), int(value), -1)

    mask = np.full((size, size), cv2.GC_BGD, np.uint8)
    # Shoulders and long hair may be anywhere below the chin; hair anywhere in a generous ellipse.
    mask[int(np.clip(centre[1], 0, size)) :] = cv2.GC_PR_BGD
    ellipse(mask, centre + up * 0.22 * height, (1.05 * width, 1.05 * height), cv2.GC_PR_BGD)
    ellipse(mask, centre + up * 0.12 * height, (0.68 * width, 0.80 * height), cv2.GC_PR_FGD)
    neck = chin - up * 0.1 * height
    cv2.rectangle(
        mask,
        (int(neck[0] - 0.3 * width), int(neck[1])),
        (int(neck[0] + 0.3 * width), size),
        cv2.GC_PR_FGD,
        -1,
    )
    shoulders = int(chin[1] + 0.45 * height)
    if shoulders < size:
        cv2.rectangle(
            mask,
            (int(centre[0] - 0.9 * width), shoulders),
            (int(centre[0] + 0.9 * width), size),
            cv2.GC_PR_FGD,
            -1,
        )
    oval = points[FACE_OVAL]
    sure = oval.mean(0) + (oval - oval.mean(0)) * 0.98
    cv2.fillPoly(mask, [sure.round().astype(np.int32)], cv2.GC_FGD)
    # The skull: without hair colours among the sure seeds, dark hair before a dark wall is lost.
    ellipse(mask, centre + up * 0.06 * height, (skull * width, 0.62 * height), cv2.GC_FGD)
    cv2.rectangle(
        mask,
        (int(neck[0] - 0.16 * width), int(chin[1])),
        (int(neck[0] + 0.16 * width), int(min(size, chin[1] + 0.3 * height))),
        cv2.GC_FGD,
        -1,
    )
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(cv2.cvtColor(image, cv2.COLOR_RGB2BGR), mask, None, *models, 5, cv2.GC_INIT_WITH_MASK)
    person = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
    # One person: the component that holds the face, without pin-holes.
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7))
    # Thin bits that touch the person go, but for hair and hats right over the skull.
    crown = np.zeros_like(person)
    ellipse(crown, centre + up * 0.15 * height, (0.5 * width, 0.95 * height), 1)
    person = np.maximum(cv2.morphologyEx(person, cv2.MORPH_OPEN, kernel), person & crown)
    # Above the brows a head is convex, hair and hat included: what its outline spans belongs to it.
    scalp = np.zeros_like(person)
    ellipse(scalp, centre + up * 0.15 * height, (0.85 * width, 1.0 * height), 1)
    rows, columns = np.mgrid[:size, :size]
    above = (columns - centre[0]) * up[0] + (rows - centre[1]) * up[1] > 0.2 * height
    outline = cv2.findNonZero(person & scalp & above)
    if outline is not None:
        hull = np.zeros_like(person)
        cv2.fillConvexPoly(hull, cv2.convexHull(outline), 1)
        person |= cv2.dilate(hull, kernel) & scalp
    person = cv2.morphologyEx(person, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9)))
    _, labels = cv2.connectedComponents(person)
    at = np.clip(centre.round().astype(int), 0, size - 1)
    person = (labels == labels[at[1], at[0]]).astype(np.uint8)
    holes = 1 - person
    _, labels, stats, _ = cv2.connectedComponentsWithStats(holes)
    small = [i for i in range(1, len(stats)) if stats[i, cv2.CC_STAT_AREA] < 0.004 * size * size]
    person[np.isin(labels, small)] = 1
    hair = np.zeros_like(person)
    ellipse(hair, centre + up * 0.15 * height, (0.6 * width, 0.72 * height), 1)
    cv2.fillPoly(hair, [oval.round().astype(np.int32)], 0)
    hair[~above] = 0
    if skull < SKULLS[-1] and hair.any() and person[hair > 0].mean() < 0.8:
        return _grab(image, points, SKULLS[-1])
    return person.astype(np.float32)


def _fill(image: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """The photo where `outside` is true, elsewhere its smooth continuation (push-pull pyramid)."""
    known = outside.astype(np.float32)[..., None]
    levels = [(image.astype(np.float32) * known, known)]
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
    return np.clip(known * image + (1 - known) * filled, 0, 255).round().astype(np.uint8)

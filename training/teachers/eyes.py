"""The mesh teacher's eyes: an eyeball behind each opening, and a lid that comes down over it.

A closed lid is a picture of its own, painted once from the photo: the skin around the opening is continued over it,
open lashes and eye line removed, the tone of the visible lid and its make-up brought down; then the photo's own lash
line, turned downwards. Everything lies in the lid's plane: x along the eye's axis, y across it, in photo pixels.
A lid half down is the same picture pushed together between fold and lash line.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge import topology as topo
from training.teachers.parts import (
    LEFT_EYE_PANEL,
    LEFT_IRIS_PANEL,
    LID_PANEL,
    PANEL,
    RIGHT_EYE_PANEL,
    RIGHT_IRIS_PANEL,
    Array,
    Part,
    Pose,
    bell,
    blur,
    downwards,
    fan,
    inpaint,
    panel_uv,
    sheet,
    smoothstep,
)

LID_ROWS, _SPAN_PX = 64, 72
"""Rows of a lid in the panel that both share, and its pixels from corner to corner."""
_ABOVE = 0.48
"""Of the eye's span: how far a lid's picture reaches above the axis."""


class Eye(NamedTuple):
    """One eye, as indices into the landmarks."""

    outer: int
    inner: int
    upper: Array
    lower: Array
    fold: Array
    brow: Array
    iris: int
    panel: tuple[int, int]
    iris_panel: tuple[int, int]
    lid_row: int


EYES = (
    Eye(
        topo.RIGHT_EYE_OUTER, topo.RIGHT_EYE_INNER, topo.RIGHT_UPPER_LID, topo.RIGHT_LOWER_LID, topo.RIGHT_FOLD,
        topo.RIGHT_BROW[5:], topo.RIGHT_IRIS_CENTRE, RIGHT_EYE_PANEL, RIGHT_IRIS_PANEL, 0,
    ),
    Eye(
        topo.LEFT_EYE_OUTER, topo.LEFT_EYE_INNER, topo.LEFT_UPPER_LID, topo.LEFT_LOWER_LID, topo.LEFT_FOLD,
        topo.LEFT_BROW[5:], topo.LEFT_IRIS_CENTRE, LEFT_EYE_PANEL, LEFT_IRIS_PANEL, LID_ROWS,
    ),
)  # fmt: skip


def eye_ring(eye: Eye) -> NDArray[np.int64]:
    """The eye's opening as a closed ring of 16 landmark indices."""
    return np.concatenate([[eye.outer], eye.upper, [eye.inner], eye.lower[::-1]])


def _panel_origin(points: Array, eye: Eye) -> Array:
    """Photo pixel that lies at the eye panel's corner (whole numbers, so that nothing is resampled)."""
    return np.round(points[eye_ring(eye), :2].mean(0) - PANEL / 2).astype(np.float32)


class _Iris(NamedTuple):
    centre: Array
    radius: float


def _iris(points: Array, eye: Eye) -> _Iris:
    """Where a photo's iris lies, in its pixels; never smaller than half of what irises measure."""
    centre = points[eye.iris, :2]
    radius = float(np.linalg.norm(points[eye.iris + 1 : eye.iris + 5, :2] - centre, axis=1).mean())
    return _Iris(centre, max(radius, 0.12 * float(np.linalg.norm(points[eye.inner, :2] - points[eye.outer, :2]))))


_LIMBUS = 1.12
"""The iris is drawn so much wider than it is: its soft rim comes along."""
_GLANCE = 0.3
"""Of the eye's span: how far an iris goes to each side."""


def paint_eyeball(image: NDArray[np.uint8], points: Array, eye: Eye) -> tuple[Array, Array]:
    """The white of the eye, and its iris, without lids: two float32 [128, 128, 4], 0..255.

    One panel pixel a photo pixel. What lids or the iris hide of the white is continued from what is seen; what
    lids hide of the iris is as the rest of it at the same distance from the pupil.
    """
    ring, (centre, radius) = points[eye_ring(eye), :2], _iris(points, eye)
    opaque = np.full((PANEL, PANEL, 1), 255.0, np.float32)

    def cut(origin: Array) -> tuple[Array, Array, Array]:
        """The photo from `origin` on, where the eye is open, and distances from the iris in its radii."""
        move = np.array([[1, 0, -origin[0]], [0, 1, -origin[1]]], np.float32)
        patch = cv2.warpAffine(image, move, (PANEL, PANEL), borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        opening = np.zeros((PANEL, PANEL), np.float32)
        cv2.fillPoly(opening, [np.round((ring - origin) * 16).astype(np.int32)], 1.0, shift=4)
        at = np.stack(np.meshgrid(np.arange(PANEL), np.arange(PANEL)), -1) + origin - centre
        return patch, opening, (np.linalg.norm(at, axis=-1) / radius).astype(np.float32)

    patch, opening, away = cut(_panel_origin(points, eye))
    # Lashes and the lids' shadows lie along the rim.
    white = cv2.erode(opening, np.ones((3, 3), np.uint8)) * (away > 1.2)
    if white.sum() < 12:
        white = opening * (away > 1.0)
    white = np.concatenate([inpaint(patch, white), opaque], -1)

    patch, opening, away = cut(_iris_origin(points, eye))
    seen = opening * (away < 1.35)
    rings = np.clip((away * 8).astype(int), 0, 10)
    mean = np.stack([np.median(patch[chosen], 0) if (chosen := (seen > 0) & (rings == ring)).sum() > 4 else
                     np.full(3, np.nan) for ring in range(11)])  # fmt: skip
    for channel in mean.T:
        known = ~np.isnan(channel)
        channel[:] = np.interp(np.arange(11), np.flatnonzero(known), channel[known]) if known.any() else 60.0
    whole = np.stack([np.interp(away * 8 - 0.5, np.arange(11), channel) for channel in mean.T], -1)
    seen = cv2.GaussianBlur(cv2.erode(opening, np.ones((3, 3), np.uint8)), (0, 0), 1.0)[..., None]
    iris = np.concatenate([seen * patch + (1 - seen) * whole, opaque], -1)
    return white.astype(np.float32), iris.astype(np.float32)


def _iris_origin(points: Array, eye: Eye) -> Array:
    """Photo pixel that lies at the iris panel's corner."""
    return np.round(points[eye.iris, :2] - PANEL / 2).astype(np.float32)


def pose_eyeball(source: Array, eye: Eye, driving: Array, pose: Pose) -> list[Part]:
    """The eye behind its opening: a white that rests, and the iris before it, where the gaze goes.

    Args:
        source: [478, 3], the photo's landmarks in pixels.
        eye: which.
        driving: [478, 3], the frame's.
        pose: photo pose → frame pose.
    """
    ring = source[eye_ring(eye)]
    centre, span = ring.mean(0), float(np.linalg.norm(source[eye.inner, :2] - source[eye.outer, :2]))
    across, down = (axis.reshape(-1) for axis in np.meshgrid(*[np.array([-0.75, 0.75]) * span] * 2))
    depth = centre[2] + 0.1 * span
    white = np.stack([centre[0] + across, centre[1] + 0.7 * down, np.full_like(across, depth)], -1).astype(np.float32)

    middle, radius = _iris(source, eye)
    gaze = pose.seen_at(driving[eye.iris], source[eye.iris, 2]) - source[eye.iris, :2]
    gaze = np.clip(gaze, -_GLANCE * span, _GLANCE * span)
    far = float(np.linalg.norm(gaze))
    turn = np.linspace(0, 2 * np.pi, 25)[:24]
    disc = np.concatenate([_LIMBUS * radius * np.stack([np.cos(turn), np.sin(turn)], -1), np.zeros((1, 2))])
    # An iris that looks away is seen from its side: narrower along its way.
    toward = gaze / max(far, 1e-6)
    flat = 1 - np.sqrt(max(1 - float(gaze @ gaze) / (0.45 * span) ** 2, 0.0))
    narrowed = disc - flat * (disc @ toward)[:, None] * toward
    iris = np.concatenate([middle + gaze + narrowed, np.full((25, 1), depth - 0.02 * span)], -1).astype(np.float32)
    rest = (middle + disc).astype(np.float32)
    return [
        Part(
            pose.forward(white),
            white[:, :2] - _panel_origin(source, eye) + np.array(eye.panel, np.float32),
            white[:, :2],
            sheet(2, 2),
            np.ones(4, np.float32),
        ),
        Part(
            pose.forward(iris),
            rest - _iris_origin(source, eye) + np.array(eye.iris_panel, np.float32),
            rest,
            fan(24),
            np.ones(25, np.float32),
        ),
    ]


class _Plane(NamedTuple):
    """A lid's plane on the photo: x from the outer corner (0) to the inner one (1), y down, in spans of the eye."""

    outer: Array
    across: Array
    down: Array
    span: float

    def to_plane(self, points: Array) -> Array:
        away = points[..., :2] - self.outer
        return np.stack([away @ self.across, away @ self.down], -1) / self.span

    def to_photo(self, x: Array, y: Array) -> Array:
        x, y = np.broadcast_arrays(x, y)
        return self.outer + self.span * (x[..., None] * self.across + y[..., None] * self.down)


def _plane(points: Array, eye: Eye) -> _Plane:
    axis = points[eye.inner, :2] - points[eye.outer, :2]
    span = float(np.linalg.norm(axis))
    across = axis / span
    return _Plane(points[eye.outer, :2], across, downwards(across, points), span)


class _Curves(NamedTuple):
    """Lines across a lid's plane at some x, as y in spans: the picture's top, fold, open and closed lash line."""

    top: Array
    fold: Array
    opened: Array
    closed: Array


_CLOSED_BELOW = 0.025
"""Of the span: a closed lid's lashes cover the rim of the lower lid, which is this thick."""


def _curves(points: Array, eye: Eye, plane: _Plane, x: Array) -> _Curves:
    """The lines at `x`; beyond the corners they run on, and the fold comes down to them."""
    corners = plane.to_plane(points[[eye.outer, eye.inner]])

    def line(middle: Array, ends: Array) -> Array:
        own = plane.to_plane(points[middle])
        own = np.concatenate([ends[:1], own, ends[1:]])
        return np.interp(x, own[:, 0], own[:, 1]).astype(np.float32)

    opened, lower = line(eye.upper, corners), line(eye.lower, corners)
    # The lower lid stands still at the corners: there the lines meet.
    closed = np.maximum(lower, opened) + _CLOSED_BELOW
    fold = line(eye.fold, corners + np.array([[-0.2, -0.08], [0.15, -0.05]]))
    fold = np.minimum(fold, opened - 0.05)
    fold = np.maximum(fold, 0.12 - _ABOVE)
    return _Curves(np.maximum(fold - 0.2, 0.03 - _ABOVE), fold, opened, closed)


_LID_X = ((np.arange(PANEL) - (PANEL - _SPAN_PX) / 2) / _SPAN_PX).astype(np.float32)
_LID_Y = (np.arange(LID_ROWS) / _SPAN_PX - _ABOVE).astype(np.float32)[:, None]
"""Where a lid's picture has its columns and rows, in the lid's plane."""


def paint_lid(image: NDArray[np.uint8], points: Array, eye: Eye) -> Array:
    """A closed lid: float32 [64, 128, 4], 0..255; opacity 0 where the photo's own skin stays."""
    plane, x, y = _plane(points, eye), _LID_X, _LID_Y
    lines = _curves(points, eye, plane, x)

    def look(y: Array) -> Array:
        """The photo's colours along rows of the lid's plane: [..., 128, 3]."""
        at = plane.to_photo(x[None], y).astype(np.float32)
        seen = cv2.remap(image, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return seen.astype(np.float32)

    photo = look(y)
    skin = _skin_over(photo, lines)
    # Of the visible lid six samples a column, lash line to fold, beside the skin that was continued there.
    strip = lines.opened + np.linspace(0.3, 1.0, 6, dtype=np.float32)[:, None] * (lines.fold - lines.opened)
    columns = np.broadcast_to(np.arange(PANEL, dtype=np.float32), strip.shape).copy()
    beside = cv2.remap(skin, columns, ((strip + _ABOVE) * _SPAN_PX).astype(np.float32), cv2.INTER_LINEAR)
    tone = _lid_tone(look(strip) / np.maximum(beside, 1.0))

    within = smoothstep(x, -0.32, -0.05) * (1 - smoothstep(x, 1.02, 1.2))
    down = np.clip((y - lines.fold) / np.maximum(lines.closed - lines.fold, 0.02), 0, 1)
    share = (smoothstep(down, 0.0, 0.5) * within)[..., None]
    lid = skin * (1 - share + share * tone)
    # A lid is round, and the fold above it stays as a soft line.
    fold = bell(y - lines.fold - 0.03, 0.022) * smoothstep(x, -0.1, 0.2) * (1 - smoothstep(x, 0.85, 1.1))
    lid *= ((1 + 0.05 * bell(down - 0.5, 0.25) * bell(x - 0.5, 0.3)) * (1 - 0.10 * fold))[..., None]
    pores = look(y + 0.62)  # of the cheek below
    lid += 0.7 * np.clip(pores - cv2.GaussianBlur(pores, (0, 0), 2.0), -10, 10)

    # Lashes: how dark the photo is above its own lash line, turned down below the closed one.
    below = y - lines.closed
    reach = np.clip(0.75 * (lines.opened - lines.fold), 0.05, 0.16)
    height = np.clip(below / 0.7, -0.02, None)
    lash = 1 - np.clip(1.1 * look(lines.opened - height).mean(-1) / np.maximum(skin.mean(-1), 1.0), 0, 1)
    lash *= smoothstep(below, -0.03, 0.0) * (1 - smoothstep(height, 0.6 * reach, reach)) * within
    root = 0.65 * bell(below, 0.028) * smoothstep(x, 0.0, 0.25) * (1 - smoothstep(x, 0.8, 1.0))
    lash = np.maximum(lash, root)
    ink = np.percentile(photo.reshape(-1, 3), 3, axis=0)

    # Opaque where something was taken away, and down to the closed lash line; lashes alone below it.
    cover = smoothstep(y, np.maximum(lines.fold - 0.1, lines.top), lines.fold + 0.02)
    brow = np.interp(x, *plane.to_plane(points[eye.brow]).T).astype(np.float32)
    cover = np.maximum(cover, _stray_lashes(photo, skin, lines, brow))
    cover *= (1 - smoothstep(y, lines.closed - 0.01, lines.closed + 0.03)) * within
    opacity = cover + (1 - cover) * lash
    colour = lid * (cover * (1 - lash))[..., None] + ink * lash[..., None]
    colour = np.where(opacity[..., None] > 1e-3, colour / np.maximum(opacity, 1e-3)[..., None], lid)
    return np.concatenate([np.clip(colour, 0, 255), 255 * opacity[..., None]], -1).astype(np.float32)


def _skin_over(photo: Array, lines: _Curves) -> Array:
    """The skin around an eye continued over it: eye, lashes and eye line are no skin, nor is a brow."""
    x, y, light = _LID_X, _LID_Y, photo.mean(-1)
    opening = (y > lines.opened - 0.05) & (y < lines.closed + 0.04) & (x > -0.06) & (x < 1.04)
    near = (y > lines.fold - 0.05) & (y < lines.closed + 0.16) & (x > -0.3) & (x < 1.15)
    brow = y < lines.top
    known = np.float32(~opening & ~(brow & (light < 0.85 * np.percentile(light[~opening & ~brow], 60))))
    skin = blur(inpaint(photo, known), 1.5)
    for threshold in (0.8, 0.87, 0.92):
        dark = near & (light < threshold * skin.mean(-1))
        hidden = cv2.dilate(np.float32(dark | opening), np.ones((3, 3), np.uint8))
        skin = blur(inpaint(photo, known * (1 - hidden)), 1.0)
    return np.where(hidden[..., None] > 0, blur(skin, 2.0), skin)


def _lid_tone(beside_skin: Array) -> Array:
    """A lid's own tone [128, 3] beside skin, from samples [S, 128, 3]: make-up, and the shadow of deep sockets.

    Lashes cross most samples, so the two brightest of a column count, evened along the lid.
    """
    samples = np.clip(beside_skin, 0.4, 1.1)
    brightest = samples.mean(-1).argsort(0)[-2:]
    tone = np.take_along_axis(samples, brightest[..., None], 0).mean(0)
    return 0.5 * blur(tone[None], 12.0)[0] + 0.5 * np.median(tone[(_LID_X > 0.1) & (_LID_X < 0.9)], 0)


def _stray_lashes(photo: Array, skin: Array, lines: _Curves, brow: Array) -> Array:
    """Long lashes above the fold, below the brow: thin, and darker than what lies around them. [64, 128], 0..1."""
    y = _LID_Y
    thin = cv2.morphologyEx(photo.mean(-1), cv2.MORPH_BLACKHAT, np.ones((9, 9), np.uint8))
    lash = smoothstep(thin / np.maximum(skin.mean(-1), 1.0), 0.04, 0.1)
    lash *= smoothstep(y, np.maximum(brow + 0.04, lines.top), lines.fold) * (y < lines.opened)
    lash = np.clip(2 * blur(cv2.dilate(lash, np.ones((3, 3), np.uint8)), 1.0), 0, 1)
    return lash * smoothstep(y, lines.top, lines.top + 0.06)


_LASHES = 0.24
"""Of the eye's span: how far a lid's picture reaches below its lash line."""
_COLUMNS = np.linspace(-0.29, 1.29, 17, dtype=np.float32)


def pose_lid(source: Array, eye: Eye, face: Array, driving: Array, pose: Pose) -> Part:
    """The lid that comes down over an eye; `face`, in the photo's pose, keeps lid and fold where they were.

    Skin, brows and glasses around an eye rest while it blinks: what shuts it is not the mesh but the lid's picture,
    whose edge runs where the frame's landmarks are. `source`, `driving` and `pose` are as in `pose_eyeball`.
    """
    plane = _plane(source, eye)

    def moved(points: Array) -> Array:
        """How far down landmarks went, in pixels."""
        return (pose.seen_at(driving[points], source[points, 2]) - source[points, :2]) @ plane.down

    come = moved(eye.upper)
    gap = np.maximum((source[eye.lower, :2] - source[eye.upper, :2]) @ plane.down, 0.02 * plane.span)
    # The middle of a lid says whether it shuts: near the corners there is nothing to shut.
    closure = float(np.clip(come[2:5].sum() / gap[2:5].sum(), 0, 1))
    shut = float(smoothstep(np.float32(closure), 0.02, 0.2))
    closing = np.maximum(come, 0)
    face[eye.upper, :2] -= shut * closing[:, None] * plane.down
    sinking = np.maximum(moved(eye.fold), 0)
    face[eye.fold, :2] -= shut * 0.8 * np.minimum(sinking, closing)[:, None] * plane.down

    lines = _curves(source, eye, plane, _COLUMNS)
    at = plane.to_plane(source[eye.upper])[:, 0]

    lashes = [eye.outer, *eye.upper, eye.inner]
    depth = np.interp(_COLUMNS, [0, *at, 1], source[lashes, 2]) - 0.02 * plane.span
    lid = plane.to_plane(pose.seen_at(driving[lashes], source[lashes, 2] - 0.02 * plane.span))
    edge = np.interp(_COLUMNS, lid[:, 0], lid[:, 1]) + closure * _CLOSED_BELOW
    fold_moved = (face[eye.fold, :2] - source[eye.fold, :2]) @ plane.down / plane.span
    fold_moved = np.interp(_COLUMNS, [-0.25, *at, 1.2], [0.0, *fold_moved, 0.0])
    fold = np.minimum(lines.fold + fold_moved, edge - 0.02)
    # Rows: above the fold, from it to the lash line, and the tips of the lashes, which point down as the lid does.
    share, beyond = np.array([0, 0.3, 0.6, 0.85, 1, 1])[:, None], np.array([0, 0, 0, 0, 0, _LASHES])[:, None]
    place = np.vstack([lines.top + fold_moved, fold + share * (edge - fold) + beyond * max(closure, 0.3)])
    picture = np.vstack([lines.top, lines.fold + share * (lines.closed - lines.fold) + beyond])
    flat = plane.to_photo(_COLUMNS[None], place)
    vertices = np.concatenate([flat, np.broadcast_to(depth, place.shape)[..., None]], -1).reshape(-1, 3)
    rows = np.clip((picture + _ABOVE) * _SPAN_PX, 0.5, LID_ROWS - 1.5)
    uv = panel_uv(LID_PANEL, ((PANEL - _SPAN_PX) / 2 + _COLUMNS * _SPAN_PX)[None], eye.lid_row + rows)
    return Part(
        pose.forward(vertices.astype(np.float32)),
        uv,
        vertices[:, :2].astype(np.float32),
        sheet(len(place), len(_COLUMNS)),
        np.full(len(vertices), shut, np.float32),  # used as opacity: an open lid draws nothing
    )

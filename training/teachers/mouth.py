"""The mesh teacher's mouth: what stands behind the lips when they part.

Teeth in two arches (the upper one hangs from the skull, the lower one goes with the jaw), a tongue that rises towards
the back, a dark throat, and the lips' own inner side, which turns inwards from their rim. A photo that shows its teeth
keeps them. Lengths are in mouth widths of the photo; proportions of teeth are those of anatomy (upper incisors 8.5 mm
wide and 10.5 mm tall, a mouth 52 mm).
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge import topology as topo
from training.teachers.parts import (
    MOUTH_PANEL,
    PANEL,
    TONGUE_PANEL,
    Array,
    Part,
    Pose,
    downwards,
    fan,
    panel_uv,
    sheet,
    smoothstep,
)

_MM = 1 / 52
_RING = np.concatenate(
    [
        [topo.RIGHT_INNER_MOUTH_CORNER],
        topo.INNER_UPPER_LIP,
        [topo.LEFT_INNER_MOUTH_CORNER],
        topo.INNER_LOWER_LIP[::-1],
    ]
)
"""The lips' inner rim: 20 landmarks, from the right corner over the upper lip and back along the lower one."""
_BORDER = np.concatenate(
    [
        [topo.RIGHT_MOUTH_CORNER],
        topo.UPPER_LIP_RINGS[2],
        [topo.LEFT_MOUTH_CORNER],
        topo.LOWER_LIP_RINGS[2][::-1],
    ]
)
"""The same rim one ring farther out, on the lips' front."""

_JAW = np.array([14, 152])
"""The lower lip's middle, and the chin."""

# Half an arch of teeth from the middle: widths as seen from the front (an arch turns its sides away), lengths.
_UPPER = np.array([[8.5, 10.5], [6.6, 9.9], [6.6, 10.2], [4.6, 9.6], [3.6, 9.2], [3.0, 8.8]]) * _MM
_LOWER = np.array([[5.2, 8.8], [5.4, 9.2], [5.6, 9.8], [4.6, 8.6], [3.6, 8.0]]) * _MM
_TOOTH_COLUMNS = 7


def _arch(teeth: Array, *, down: bool) -> tuple[Array, Array]:
    """Where an arch's columns lie across (mouth widths), and how far its biting edge falls short there."""
    across, short = [], []
    start = 0.0
    for number, (width, length) in enumerate(teeth):
        at = np.linspace(0, 1, _TOOTH_COLUMNS)
        round_off = 0.06 * np.abs(2 * at - 1) ** 6  # corners of a biting edge are round
        if number == 2:
            round_off = 0.07 * np.abs(2 * at - 0.9) ** 1.5  # an eyetooth is pointed
        across.append(start + width * at)
        short.append(teeth[0, 1] - length * (1 - round_off) if down else teeth[0, 1] - length * (1 - 0.6 * round_off))
        start += width
    across, short = np.concatenate(across), np.concatenate(short)
    return np.concatenate([-across[::-1], across]), np.concatenate([short[::-1], short])


class _Axes(NamedTuple):
    """A mouth's directions in the photo, to the person's left and down, and its width in pixels."""

    right: Array
    down: Array
    width: float


def _axes(source: Array) -> _Axes:
    across = source[topo.LEFT_MOUTH_CORNER, :2] - source[topo.RIGHT_MOUTH_CORNER, :2]
    right = across / np.linalg.norm(across)
    width = float(np.linalg.norm(source[topo.LEFT_MOUTH_CORNER] - source[topo.RIGHT_MOUTH_CORNER]))
    return _Axes(right, downwards(right, source), width)


def _two_rows(rim: Array) -> Array:
    """The lips' rim [20, ...] as two rows of eleven, right corner to left: upper lip, lower lip: [22, ...]."""
    return np.concatenate([rim[:11], rim[:1], rim[:10:-1], rim[10:11]])


def pose_mouth(
    source: Array, driving: Array, unposed: Array, pose: Pose, *, own_teeth: bool
) -> tuple[list[Part], float]:
    """All that shows through the lips' opening, and how far they are parted: 0 as in the photo, 1 clearly.

    Args:
        source: [478, 3], the photo's landmarks in pixels.
        driving: [478, 3], the frame's.
        unposed: [478, 3], the frame's expression in the photo's pose.
        pose: photo pose → frame pose.
        own_teeth: whether the photo shows the inside of the mouth itself.
    """
    ring, rest = unposed[_RING], source[_RING]
    axes = _axes(source)
    right, down, width = axes
    gap, was = (max(float((points[14, :2] - points[13, :2]) @ down) / width, 0.0) for points in (unposed, source))
    parted = float(smoothstep(np.float32(gap - was), 0.0, 0.1))

    def place(across: Array, along: Array, depth: Array, anchor: Array) -> Array:
        """Points given in mouth widths from an anchor, in the photo's pose."""
        across, along, depth = (
            np.asarray(v, np.float32).reshape(-1) for v in np.broadcast_arrays(across, along, depth)
        )
        xy = anchor[:2] + width * (across[:, None] * right + along[:, None] * down)
        return np.concatenate([xy, (anchor[2] + width * depth)[:, None]], 1).astype(np.float32)

    def part(vertices: Array, uv: Array, triangles: NDArray[np.int64], shade: Array) -> Part:
        lit = np.broadcast_to(shade, len(vertices)).astype(np.float32)
        return Part(pose.forward(vertices), uv, vertices[:, :2].astype(np.float32), triangles, lit)

    # What lies deep in a mouth gets the more light the wider it stands open.
    light = 0.55 + 0.45 * min(1.0, gap / 0.3)
    parts = [_throat(ring, rest, axes, pose, light)]
    enamel = 0.8 + 0.2 * min(1.0, gap / 0.15)

    lips_meet = (source[13] + source[14]) / 2
    # Teeth follow their arch, and stay behind lips that bend back more than that.
    behind = (_two_rows(rest).reshape(2, 11, 3).mean(0) - lips_meet) / width
    behind_x, behind_z = behind[:, :2] @ right, behind[:, 2] + 0.05
    # Teeth and tongue go with the bone, which lips leave by as much as they are pulled.
    jaw = lips_meet.copy()
    jaw[:2] += (pose.seen_at(driving[_JAW], source[_JAW, 2]) - source[_JAW, :2]).mean(0)

    # The tongue, from its tip behind the lower teeth to its back, which rises.
    back, columns = np.meshgrid(np.linspace(0, 1, 9), np.linspace(-1, 1, 13), indexing="ij")
    along = 0.04 - (0.08 + 0.45 * min(gap, 0.6)) * np.sin(0.5 * np.pi * back) + 0.12 * columns**2 * (0.4 + back)
    depth = (0.32 if own_teeth else 0.17) + 0.75 * back + 0.10 * columns**2
    tongue = place(columns * (0.30 + 0.06 * back), along, depth, jaw)
    uv = panel_uv(TONGUE_PANEL, (columns + 1) / 2 * (PANEL - 9) + 4, 4 + back * 86)
    parts.append(part(tongue, uv, sheet(9, 13), (light * (1 - 0.6 * back**1.5)).reshape(-1)))

    def teeth(
        sizes: Array, rows: tuple[int, int], anchor: Array, edge: float, depth: float, lit: float, *, up: bool
    ) -> None:
        across, short = _arch(sizes, down=up)
        reach = float(across[-1])
        root, tip = edge - sizes[0, 1], edge - short
        if not up:
            root, tip = edge + sizes[0, 1], edge + short
        bent = (across / reach) ** 2
        curve = (-0.055 if up else -0.02) * bent  # the line of a smile
        along = np.stack([np.broadcast_to(root, tip.shape), tip + curve])
        deep = np.maximum(depth + 0.30 * bent, np.interp(across, behind_x, behind_z))
        vertices = place(np.stack([across] * 2), along, np.stack([deep] * 2), anchor)
        column = (across / reach + 1) / 2 * (PANEL - 9) + 4
        first, last = rows[0] + 1.0, rows[1] - 2.0
        length = (sizes[0, 1] - short) / sizes[0, 1]
        line = np.stack([np.full_like(across, first), first + (last - first) * length])
        shade = lit * enamel * (1 - 0.55 * np.abs(across / reach) ** 2)
        uv = panel_uv(MOUTH_PANEL, np.stack([column] * 2), line)
        parts.append(part(vertices, uv, sheet(2, len(across)), np.concatenate([shade, shade])))

    teeth(_LOWER, (64, 128), jaw, -0.03, 0.25 if own_teeth else 0.10, 1.0 if own_teeth else 0.86, up=False)
    if own_teeth:
        parts += _own_teeth(ring, rest, axes, pose)
    else:
        teeth(_UPPER, (0, 64), lips_meet, 0.085, 0.06, 1.0, up=True)
    parts.append(_inner_lips(ring, rest, source[_BORDER], axes, pose, parted, own_teeth=own_teeth))
    return parts, parted


def _throat(ring: Array, rest: Array, axes: _Axes, pose: Pose, light: float) -> Part:
    """The dark behind everything, posed at the lips' own depth so that it fills their opening from every side."""
    middle = ring.mean(0, keepdims=True)
    wider = middle + (ring - middle) * 1.3
    wider[:, :2] += np.where(np.arange(20) <= 10, -3.0, 3.0)[:, None] * axes.down  # a slit has no height to grow by
    back = pose.forward(np.concatenate([wider, middle]))
    back[:, 2] += 1.2 * axes.width * pose.scale
    across = np.concatenate([np.full(len(ring), PANEL - 4.0), [4.0]])
    source = np.concatenate([rest, rest.mean(0, keepdims=True)])[:, :2].astype(np.float32)
    shade = np.full(len(back), light, np.float32)
    return Part(back, panel_uv(TONGUE_PANEL, across, np.float32(112.0)), source, fan(len(ring)), shade)


def _own_teeth(ring: Array, rest: Array, axes: _Axes, pose: Pose) -> list[Part]:
    """The photo's own teeth, carried by the skull, and gums above them for a lip that rises higher than in the photo.

    Lips close over them and a wider mouth widens them a little. A photo that already gapes shows tongue and jaw too:
    those go along with the lips.
    """
    right, down, width = axes
    # A hole's edge pixels reach a little under the lips: so does what fills it.
    over = 1.5 * np.repeat(np.array([[-1.0], [1.0]]), 11, 0) * down
    own, moved = _two_rows(rest), _two_rows(ring)
    own[:, :2] += over
    moved[:, :2] += over
    stretch = np.linalg.norm(ring[10] - ring[0]) / np.linalg.norm(rest[10] - rest[0])
    across = (own[:, :2] - rest[:, :2].mean(0)) @ right
    drawn = own.copy()
    drawn[:, :2] += (np.clip(stretch, 1, 1.4) - 1) * across[:, None] * right
    gaping = float(smoothstep(np.float32(np.linalg.norm(rest[5] - rest[15]) / width), 0.2, 0.4))
    drawn[11:] += gaping * (moved[11:] - drawn[11:])
    # One depth a column, so that a turned head does not shear the teeth.
    drawn[:, 2] = np.tile(drawn[:, 2].reshape(2, 11).mean(0), 2) + 0.02 * width
    flat = own[:, :2].astype(np.float32)
    gums = np.concatenate([drawn[:11], drawn[:11]])
    gums[:11, :2] -= 0.2 * width * down
    gums[11:, :2] += 2 * down
    gums[:, 2] += 0.01 * width
    column = np.linspace(4, PANEL - 5, 11)
    flesh = panel_uv(MOUTH_PANEL, np.stack([column] * 2), np.array([[1.0], [7.0]]))
    risen = smoothstep(np.float32((rest[5] - ring[5])[:2] @ down / width), 0.01, 0.06)
    shade = np.tile(risen * (0.85 - 0.35 * np.linspace(-1, 1, 11) ** 2), 2).astype(np.float32)
    return [
        Part(pose.forward(gums.astype(np.float32)), flesh, flat, sheet(2, 11), shade),
        Part(pose.forward(drawn.astype(np.float32)), flat, flat, sheet(2, 11), np.ones(22, np.float32)),
    ]


def _outwards(rest: Array) -> Array:
    """Unit vectors [20, 2] that point into the mouth at its corners, and nowhere else."""
    pull = np.zeros((20, 2), np.float32)
    axis = rest[10, :2] - rest[0, :2]
    pull[0], pull[10] = axis / np.linalg.norm(axis), -axis / np.linalg.norm(axis)
    return pull


def _inner_lips(
    ring: Array, rest: Array, border: Array, axes: _Axes, pose: Pose, parted: float, *, own_teeth: bool
) -> Part:
    """The lips' inner side: from their rim inwards and back, with the lips' own colours, ever darker.

    Where the photo shows a slit between closed lips, each lip keeps its half of it.
    """
    _, down, width = axes
    # The n-th point of the upper rim lies over the n-th from the end of the lower one.
    across = (-np.arange(20)) % 20
    room, slit = (np.maximum(np.abs((points[across] - points)[:, :2] @ down), 0) for points in (ring, rest))
    way = np.where(np.arange(20) <= 10, 1.0, -1.0)[:, None] * down
    # A photo's own teeth begin where its upper lip ends.
    turns = np.where(own_teeth & (np.arange(20) <= 10), 0.0, parted)
    slit = np.zeros(20) if own_teeth else slit / 2
    rim = np.minimum(slit, room / 2)
    # A hole's edge pixels reach a little under the lips: so does what fills it.
    under = 1.5 * (way + _outwards(rest))
    vertices, uv, shade = [ring.copy()], [rest[:, :2] - under], [np.ones(20)]
    vertices[0][:, :2] -= under
    for inward, deep, out, light in (
        (0.0, 0.0, 0.0, 1.0), (0.0, 0.002, 0.0, 1.0),
        (0.001, 0.003, 0.15, 1.2), (0.022, 0.03, 0.35, 1.0), (0.045, 0.09, 0.6, 0.6),
    ):  # fmt: skip
        kept = 0.0 if deep == 0 else rim
        step = kept + np.minimum(inward * turns * width, 0.42 * np.maximum(room - 2 * rim, 0))
        turned = ring.copy()
        turned[:, :2] += step[:, None] * way
        turned[:, 2] += (deep + 0.004) * width
        vertices.append(turned)
        kept = np.where(np.full(20, 0 < deep < 0.003), slit, 0.0)
        uv.append(rest[:, :2] + kept[:, None] * way + out * (border - rest)[:, :2])
        # Light comes from above: the upper lip's inner side lies in its own shade.
        dim = 1 - 0.18 * (np.arange(20) <= 10) * (inward > 0)
        shade.append(light * dim)

    def closed(rings: list[Array]) -> Array:
        """Rings one after another, each with its first point again at its end."""
        return np.concatenate([np.concatenate([one, one[:1]]) for one in rings]).astype(np.float32)

    return Part(
        pose.forward(closed(vertices)), closed(uv), closed([rest[:, :2]] * len(uv)), sheet(len(uv), 21), closed(shade)
    )


def paint_mouth(skin: Array, enamel: Array | None, blur: float) -> tuple[Array, Array]:
    """The inside of a mouth, painted as the photo is: as light, as colourful, as soft.

    Args:
        skin: RGB of the face, 0..1.
        enamel: RGB of the photo's own teeth, 0..1, where it shows them.
        blur: the photo's, in pixels of the panel.

    Returns:
        Two float32 [128, 128, 4], 0..255: teeth (upper in rows 0..63 from the gum down, lower in 64..127 from the gum
        up), and tongue (rows 0..95 from its tip to the back) with the throat below it (left: middle, right: rim).
    """
    light = float(np.clip(skin.mean() * 1.5, 0.03, 1.0))
    # The light that falls on the skin falls on the teeth: a third of the skin's tint goes into the enamel.
    tint = (skin / max(skin.mean(), 1e-3)) ** 0.35
    enamel = np.array([238, 229, 212], np.float32) * light * tint if enamel is None else 255 * enamel
    gum = np.array([176, 96, 92], np.float32) * light
    panel = np.full((PANEL, PANEL, 4), 255.0, np.float32)
    panel[:64, :, :3] = _teeth(_UPPER, enamel, gum)
    panel[64:, :, :3] = _teeth(_LOWER, enamel * 0.92, gum)

    deep = np.full((PANEL, PANEL, 4), 255.0, np.float32)
    x = np.linspace(-1, 1, PANEL, dtype=np.float32)
    tongue = np.array([188, 98, 94], np.float32) * light
    groove = 1 - 0.10 * np.exp(-((x / 0.10) ** 2))
    rows = np.linspace(0, 1, 96, dtype=np.float32)[:, None]
    rough = cv2.GaussianBlur(np.random.default_rng(0).normal(size=(96, PANEL)).astype(np.float32), (0, 0), 1.5)
    tip = 0.8 + 0.2 * smoothstep(rows, 0.0, 0.12)
    shine = 0.10 * np.exp(-(((rows - 0.16) / 0.10) ** 2)) * np.exp(-(((np.abs(x) - 0.3) / 0.2) ** 2))
    shade = (1 - 0.45 * np.abs(x) ** 3)[None] * (groove[None] + (1 - groove[None]) * (1 - smoothstep(rows, 0.05, 0.3)))
    deep[:96, :, :3] = tongue * (tip * shade * (1 + 0.10 * rough) + shine)[..., None]
    dark, rim = np.array([34, 12, 12], np.float32) * light, np.array([92, 42, 40], np.float32) * light
    ramp = smoothstep(x, -1.0, 1.0)[None, :, None]
    deep[96:, :, :3] = dark * (1 - ramp) + rim * ramp
    # A grey photo has a grey mouth; skin of any tone under any lamp is more colourful than a fifth.
    colourful = float(np.clip((skin.max() - skin.min()) / max(skin.max(), 1e-3) / 0.2, 0.0, 1.0))
    for picture, blocks in ((panel, (slice(0, 64), slice(64, 128))), (deep, (slice(0, 96), slice(96, 128)))):
        grey = picture[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
        picture[..., :3] = grey[..., None] + colourful * (picture[..., :3] - grey[..., None])
        for rows in blocks:
            part = np.ascontiguousarray(picture[rows, :, :3])
            picture[rows, :, :3] = cv2.GaussianBlur(part, (0, 0), 0.7 + blur, borderType=cv2.BORDER_REPLICATE)
    return panel, deep


def own_enamel(image: NDArray[np.uint8], points: Array) -> Array | None:
    """Teeth in a photo, RGB 0..1: the brightest of what stands between its lips, if that looks like teeth."""
    inside = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(inside, [np.round(points[_RING, :2] * 16).astype(np.int32)], 1, shift=4)
    pixels = image[inside > 0].astype(np.float32) / 255
    if len(pixels) < 40:
        return None
    light = pixels.mean(-1)
    bright = np.median(pixels[light >= np.percentile(light, 75)], 0)
    return bright.astype(np.float32) if bright.max() - bright.min() < 0.35 * bright.max() else None


def _teeth(sizes: Array, enamel: Array, gum: Array) -> Array:
    """An arch's picture, float32 [64, 128, 3]: gum at the top, biting edges at the bottom."""
    rows = np.linspace(0, 1, 64, dtype=np.float32)[:, None]
    across = np.abs(np.linspace(-1, 1, PANEL, dtype=np.float32)) * sizes[:, 0].sum()
    bounds = np.concatenate([[0], np.cumsum(sizes[:, 0])])
    which = np.clip(np.searchsorted(bounds, across, side="right") - 1, 0, len(sizes) - 1)
    within = ((across - bounds[which]) / sizes[which, 0]).astype(np.float32)  # 0..1 across a tooth
    side = np.abs(2 * within - 1)
    length = (sizes[which, 1] / sizes[0, 1]).astype(np.float32)
    bright = 1 - 0.16 * side**6 - 0.24 * np.exp(-((1 - side) / 0.09))  # round, and dark where two teeth meet
    bright = bright * (0.94 + 0.06 * np.exp(-(((within - 0.4) / 0.2) ** 2)))
    edge = smoothstep(rows / length, 0.86, 1.0)
    tone = (0.88 + 0.12 * smoothstep(rows, 0.2, 0.55)) * (1 - 0.12 * edge)
    colour = enamel * (bright * tone)[..., None]
    # Nearer the gum enamel is thin and warmer.
    colour *= 1 - (1 - smoothstep(rows, 0.15, 0.6))[..., None] * np.array([0.0, 0.03, 0.09], np.float32)
    line = 0.20 + 0.10 * side**2  # gums rise between teeth
    flesh = 1 - smoothstep(rows - line, -0.04, 0.04)
    return (colour * (1 - flesh[..., None]) + gum * flesh[..., None]).astype(np.float32)

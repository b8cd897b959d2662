"""The mesh teacher: a photo on its own face mesh. It needs no weights and works on any photo today.

The photo is taken apart into a soft cut-out of the person and a filled background. The cut-out is textured on
MediaPipe's 468-point mesh and, around it, on a net of head points that turn with the skull and come to rest
at the shoulders. A depth buffer keeps the near cheek before the far one. The mesh has holes where the eyes
and the mouth are: behind them lie eyeballs, teeth and a mouth cavity, and a lid slides down over each eye,
so that neither lips nor glasses are ever stretched.

All geometry is in pixels of the 512 x 512 crop; x right, y down, z away from the camera.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from edge import topology as topo
from edge.motion import fit_similarity
from edge.spec import FIELD, KEYPOINTS, NETWORK
from training.student.driver import Driver
from training.teachers import Identity, Rendering
from training.teachers.proxy import (
    EYES,
    HALF,
    LID_PANEL,
    MOUTH_PANEL,
    PANEL,
    Array,
    Eye,
    Proxy,
    build_proxy,
    eye_ring,
    panel_origin,
    smoothstep,
    to_pixels,
)
from training.teachers.raster import rasterise

VERSION = 2
"""Counted up with whatever draws another frame; a test compares three (tests/golden/make_frames.py)."""

_Frame = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Frame [3, 512, 512], motion field [64, 64, 2], occlusion [1, 64, 64]."""


class MeshTeacher:
    """Animates any photo that has landmarks (see the top of this file)."""

    name = "mesh"
    discriminator = None

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.version = str(VERSION)

    def prepare(self, source_image: torch.Tensor, source_landmarks: torch.Tensor) -> Identity:
        """Bind a photo.

        Args:
            source_image: float32 [3, 512, 512], RGB in 0..1, the face crop.
            source_landmarks: float32 [478, 3], crop coordinates.

        Returns:
            Identity; its appearance volume is the photo, [3, 1, 512, 512].
        """
        image = (source_image.permute(1, 2, 0).cpu().numpy() * 255).round().astype(np.uint8)
        points = to_pixels(source_landmarks.cpu().numpy())
        proxy = build_proxy(image, points, self.device)
        keypoints = torch.from_numpy(proxy.keypoint_weights @ source_landmarks.cpu().numpy()[topo.STABLE])
        return Identity(source_image, source_landmarks, keypoints, source_image[:, None], proxy)

    def driver(self, identity: Identity) -> Driver:
        """Landmarks → 2-D keypoints as an exact linear map."""
        weights = identity.binding.keypoint_weights
        full = np.zeros((KEYPOINTS, 2, topo.LANDMARKS, 3), np.float32)
        for axis in (0, 1):
            full[:, axis, topo.STABLE, axis] = weights
        return Driver(torch.from_numpy(full.reshape(KEYPOINTS * 2, -1)), torch.zeros(KEYPOINTS * 2))

    @torch.no_grad()
    def render(self, identity: Identity, landmarks: torch.Tensor, images: torch.Tensor | None = None) -> Rendering:
        """Animate by landmarks alone: float32 [N, 478, 3], crop coordinates, already retargeted to this person."""
        proxy: Proxy = identity.binding
        driving = landmarks.cpu().numpy()
        keypoints = torch.from_numpy(np.einsum("ks,nsd->nkd", proxy.keypoint_weights, driving[:, topo.STABLE])).float()
        drawn = _side_by_side(lambda points: _draw(proxy, points), to_pixels(driving), proxy.atlas.device)
        frames, fields, occlusions = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return Rendering(frames, keypoints, fields, occlusions)


def _side_by_side(draw: Callable[[Array], _Frame], poses: Array, device: torch.device) -> list[_Frame]:
    """`draw` of every pose. On a CPU one frame a core: small operations gain little from threads."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or len(poses) == 1:
        return [draw(points) for points in poses]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(draw, poses))
    finally:
        torch.set_num_threads(threads)


class _Part(NamedTuple):
    """A textured piece of geometry."""

    vertices: Array  # [V, 3] on the frame
    uv: Array  # [V, 2] pixels of the atlas
    source: Array  # [V, 2] pixels of the photo that it stands for (motion field)
    triangles: NDArray[np.int64]
    shade: Array  # [V]


def _sheet(rows: int, columns: int) -> NDArray[np.int64]:
    """Triangles of a rows x columns sheet of vertices: int64 [F, 3]."""
    at = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, :-1], at[1:, 1:]
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])


def _fan(count: int) -> NDArray[np.int64]:
    """Triangles of a ring of `count` vertices around a last, middle one."""
    ring = np.arange(count)
    return np.stack([ring, (ring + 1) % count, np.full(count, count)], -1)


def _panel_uv(panel: tuple[int, int], x: Array, y: Array) -> Array:
    return np.stack(np.broadcast_arrays(panel[0] + x, panel[1] + y), -1).reshape(-1, 2).astype(np.float32)


class _Pose(NamedTuple):
    """Photo pose → frame pose."""

    scale: float
    rotation: Array
    shift: Array

    def forward(self, points: Array) -> Array:
        return (self.scale * points @ self.rotation.T + self.shift).astype(np.float32)

    def backward(self, points: Array) -> Array:
        return ((points - self.shift) @ self.rotation / self.scale).astype(np.float32)


def _draw(proxy: Proxy, driving: Array) -> _Frame:
    """One frame [3, 512, 512], its motion field [64, 64, 2] and occlusion [1, 64, 64]."""
    fitted = fit_similarity(driving, reference=proxy.points)
    pose = _Pose(float(fitted.scale), fitted.rotation.astype(np.float32), fitted.translation.astype(np.float32))
    unposed = pose.backward(driving)  # the driving expression in the photo's own pose
    face, lids = unposed[:468].copy(), []
    for eye in EYES:
        lids.append(_lid(proxy, eye, face, unposed, pose))
    face[:, 2] += proxy.flatter
    surface = pose.forward(face)
    residual = unposed[topo.FACE_OVAL] - proxy.points[topo.FACE_OVAL]
    carried = proxy.net + proxy.spread @ residual
    net = carried + proxy.follow[:, None] * (pose.forward(carried) - carried)
    vertices = np.concatenate([surface, net])
    head = _Part(
        vertices,
        np.concatenate([proxy.points[:468, :2], proxy.net[:, :2]]),
        np.concatenate([proxy.points[:468, :2], proxy.net[:, :2]]),
        proxy.triangles,
        np.ones(len(vertices), np.float32),
    )
    inside = [_eyeball(proxy, eye, unposed, pose) for eye in EYES] + _mouth(proxy, unposed, pose)
    return _compose(proxy, head, inside, lids)


def _lid(proxy: Proxy, eye: Eye, face: Array, unposed: Array, pose: _Pose) -> _Part:
    """The lid that slides over an eye; `face`, in the photo's pose, keeps lid and fold where they were.

    Skin, brows and glasses around an eye rest while it blinks: only the part of a lid's motion that opens
    the eye wider moves the mesh, and what closes it is done by the sliding lid.
    """
    source = proxy.points
    axis = source[eye.inner] - source[eye.outer]
    span = float(np.linalg.norm(axis))
    across = axis[:2] / np.linalg.norm(axis[:2])
    down = np.array([-across[1], across[0]], np.float32)
    if down @ (source[topo.CHIN, :2] - source[topo.FOREHEAD_TOP, :2]) < 0:
        down = -down
    closing = np.maximum((unposed[eye.upper, :2] - source[eye.upper, :2]) @ down, 0)
    face[eye.upper, :2] -= closing[:, None] * down
    sinking = np.maximum((unposed[eye.fold, :2] - source[eye.fold, :2]) @ down, 0)
    face[eye.fold, :2] -= 0.8 * np.minimum(sinking, closing)[:, None] * down

    # Nine columns from corner to corner; rows: above the old lash line, along it, half way, new edge, lashes.
    edge = np.concatenate([[eye.outer], eye.upper, [eye.inner]])
    start = source[edge].copy()
    start[1:-1] += face[eye.upper] - source[eye.upper]  # a lid that rises takes its edge along
    fall = np.concatenate([[0], closing, [0]])
    hidden = smoothstep(fall, 0.01 * span, 0.06 * span)
    # Over the old lashes too, which are longest in the middle.
    lift = (0.06 + 0.12 * np.sin(np.linspace(0, np.pi, len(edge)))) * span * hidden
    rows = []
    for above, along in ((1.0, 0.0), (0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (-0.25, 1.0)):
        row = start.copy()
        row[:, :2] += (-above * lift + along * fall)[:, None] * down
        row[:, 2] -= 0.02 * span
        rows.append(row)
    vertices = pose.forward(np.concatenate(rows))
    columns = np.linspace(2, PANEL - 3, len(edge))
    top, bottom = eye.lid_rows
    v = top + (bottom - top - 1) * np.array([0.0, 0.17, 0.5, 0.88, 1.0])
    uv = _panel_uv(LID_PANEL, columns[None], v[:, None])
    shade = np.tile(hidden, 5).astype(np.float32)  # used as opacity: an open lid draws nothing
    return _Part(vertices, uv, np.concatenate(rows)[:, :2], _sheet(5, len(edge)), shade)


def _eyeball(proxy: Proxy, eye: Eye, unposed: Array, pose: _Pose) -> _Part:
    """The eye behind its opening; the iris follows the gaze, the corners rest."""
    source = proxy.points
    ring = source[eye_ring(eye)]
    centre, span = ring.mean(0), float(np.linalg.norm(source[eye.inner, :2] - source[eye.outer, :2]))
    ticks = np.linspace(-0.75, 0.75, 15) * span
    x, y = (axis.reshape(-1) for axis in np.meshgrid(ticks, ticks * 0.7))
    rest = np.stack([centre[0] + x, centre[1] + y, np.full_like(x, centre[2] + 0.1 * span)], -1).astype(np.float32)
    gaze = unposed[eye.iris, :2] - source[eye.iris, :2]
    gaze = gaze * min(1.0, 0.3 * span / (np.linalg.norm(gaze) + 1e-6))
    iris = source[eye.iris + 1 : eye.iris + 5, :2]
    radius = max(float(np.linalg.norm(iris - source[eye.iris, :2], axis=1).mean()), 0.12 * span)
    distance = np.linalg.norm(rest[:, :2] - source[eye.iris, :2], axis=1)
    moved = rest.copy()
    moved[:, :2] += (1 - smoothstep(distance, 1.1 * radius, 3.2 * radius))[:, None] * gaze
    uv = rest[:, :2] - panel_origin(source, eye) + np.array(eye.panel)
    return _Part(
        pose.forward(moved),
        uv.astype(np.float32),
        rest[:, :2],
        _sheet(15, 15),
        np.ones(len(rest), np.float32),
    )


def _mouth(proxy: Proxy, unposed: Array, pose: _Pose) -> list[_Part]:
    """Cavity, tongue, lower and upper teeth, back to front; each seen only through the lips' opening."""
    source = proxy.points
    ring_index = np.concatenate(
        [
            [topo.RIGHT_INNER_MOUTH_CORNER],
            topo.INNER_UPPER_LIP,
            [topo.LEFT_INNER_MOUTH_CORNER],
            topo.INNER_LOWER_LIP[::-1],
        ]
    )
    ring, rest = unposed[ring_index], source[ring_index]
    width = float(np.linalg.norm(source[topo.LEFT_MOUTH_CORNER] - source[topo.RIGHT_MOUTH_CORNER]))
    right = source[topo.LEFT_MOUTH_CORNER, :2] - source[topo.RIGHT_MOUTH_CORNER, :2]
    right = right / np.linalg.norm(right)
    down = np.array([-right[1], right[0]], np.float32)
    if down @ (source[topo.CHIN, :2] - source[topo.FOREHEAD_TOP, :2]) < 0:
        down = -down
    upper_lip = source[13] if proxy.open_mouth else (source[13] + source[14]) / 2
    gap = float((unposed[14, :2] - unposed[13, :2]) @ down)
    openness = float(np.clip(gap / (0.25 * width), 0, 1))

    def place(across: Array, along: Array, depth: Array, anchor: Array) -> Array:
        """Points given in mouth widths from an anchor, in the photo's pose."""
        across, along, depth = (
            np.asarray(v, np.float32).reshape(-1) for v in np.broadcast_arrays(across, along, depth)
        )
        xy = anchor[:2] + width * (across[:, None] * right + along[:, None] * down)
        return np.concatenate([xy, (anchor[2] + width * depth)[:, None]], 1).astype(np.float32)

    parts = []
    middle = ring.mean(0, keepdims=True)
    grown = middle + (ring - middle) * 1.3
    # Posed at the lips' own depth, so that it fills their opening from every side; then set behind the teeth.
    cavity = pose.forward(np.concatenate([grown, middle]))
    cavity[:, 2] += 0.6 * width * pose.scale
    rim = np.concatenate([np.full(len(grown), PANEL - 4.0), [4.0]])
    source_xy = np.concatenate([rest, rest.mean(0, keepdims=True)])[:, :2]
    shade = np.full(len(cavity), 0.75 + 0.25 * openness, np.float32)
    parts.append(_Part(cavity, _panel_uv(MOUTH_PANEL, rim, 112.0), source_xy, _fan(len(grown)), shade))

    # The jaw carries tongue and lower teeth: their anchor is the lower lip.
    jaw = unposed[14].copy()
    arch = np.linspace(-1, 1, 13)[None]
    columns = (arch + 1) / 2 * (PANEL - 9) + 4
    dim = (0.62 + 0.38 * min(1.0, 2.5 * openness)) * (1 - 0.3 * np.abs(arch) ** 2)

    def strip(
        anchor: Array,
        *,
        half: float,
        top: float,
        bottom: float,
        depth: float,
        bow: float,
        rows: tuple[int, int],
        light: float,
    ) -> None:
        along = np.array([[top], [bottom]]) + bow * arch**2
        vertices = place(np.repeat(half * arch, 2, 0), along, depth + 0.18 * np.repeat(arch, 2, 0) ** 2, anchor)
        uv = _panel_uv(MOUTH_PANEL, np.repeat(columns, 2, 0), np.array([[rows[0] + 1.0], [rows[1] - 2.0]]))
        lit = (light * np.repeat(dim, 2, 0)).reshape(-1).astype(np.float32)
        parts.append(_Part(pose.forward(vertices), uv, vertices[:, :2], _sheet(2, 13), lit))

    strip(
        jaw,
        half=0.30,
        top=-0.11 * openness - 0.01,
        bottom=0.12,
        depth=0.30,
        bow=0.05,
        rows=(72, 96),
        light=0.85,
    )
    strip(jaw, half=0.30, top=-0.035, bottom=0.14, depth=0.16, bow=-0.05, rows=(40, 72), light=0.75)
    if proxy.open_mouth:
        # The photo's own teeth, carried by the skull; lips close over them and a wider mouth widens them a
        # little. A photo that already gapes shows tongue and jaw too: those go along with the lips.
        own = np.concatenate([rest, rest.mean(0, keepdims=True)])
        stretch = np.linalg.norm(ring[10] - ring[0]) / np.linalg.norm(rest[10] - rest[0])
        across = (own[:, :2] - own[-1, :2]) @ right
        drawn = own.copy()
        drawn[:, :2] += (np.clip(1.02 * stretch, 1, 1.4) - 1) * across[:, None] * right
        gaping = float(np.linalg.norm(source[13] - source[14])) / width
        along = np.concatenate([np.zeros(10), [0], np.ones(9), [0.5]])[:, None]
        gaping = float(smoothstep(np.float32(gaping), 0.2, 0.4)) * along
        moved = np.concatenate([ring, ring.mean(0, keepdims=True)])
        drawn = (drawn + gaping * (moved - drawn)).astype(np.float32)
        drawn[:, 2] += 0.08 * width
        parts.append(_Part(pose.forward(drawn), own[:, :2], own[:, :2], _fan(len(rest)), np.ones(len(own), np.float32)))
    else:
        strip(upper_lip, half=0.36, top=-0.12, bottom=0.07, depth=0.12, bow=-0.045, rows=(0, 40), light=1.0)
    return parts


def _sample(atlas: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Atlas colours at pixel positions: uv float32 [h, w, 2] → [4, h, w]."""
    limit = uv.new_tensor([atlas.shape[-1] - 1, atlas.shape[-2] - 1])
    grid = (uv / limit * 2 - 1)[None]
    return F.grid_sample(atlas, grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _merge(parts: list[_Part], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """One soup of vertices [V, 3], triangles [F, 3] and attributes [V, 5] (uv, source, shade)."""
    offset, triangles = 0, []
    for part in parts:
        triangles.append(part.triangles + offset)
        offset += len(part.vertices)
    attributes = [np.concatenate([p.uv, p.source, p.shade[:, None]], 1).astype(np.float32) for p in parts]
    return (
        torch.from_numpy(np.concatenate([p.vertices for p in parts])).to(device),
        torch.from_numpy(np.concatenate(triangles)).to(device),
        torch.from_numpy(np.concatenate(attributes)).to(device),
    )


def _compose(
    proxy: Proxy, head: _Part, inside: list[_Part], lids: list[_Part]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Background, then the head, what shows through its holes, and the lids."""
    device = proxy.atlas.device
    vertices, triangles, attributes = _merge([head], device)
    front = rasterise(vertices, triangles, height=NETWORK, width=NETWORK)
    covered = front.covered
    ticks = torch.arange(NETWORK, device=device, dtype=torch.float32)
    identity = torch.stack(torch.meshgrid(ticks, ticks, indexing="xy"), -1)
    position = torch.where(covered[..., None], front.interpolate(triangles, attributes[:, :2].contiguous()), identity)

    sampled = _sample(proxy.atlas, position)
    bare = proxy.swept * ~covered
    colour, opacity = sampled[:3], sampled[3] * (1 - bare)
    frame = opacity * colour + (1 - opacity) * proxy.plate
    # What does not move is the photo itself, whatever the cut-out missed.
    motion = (position - identity).square().sum(-1)
    rest = (1 - motion / 4).clamp_min(0) * (1 - bare)
    frame = frame + rest * (proxy.photo - frame)
    visible = torch.maximum((opacity > 0.5).float(), torch.maximum(proxy.still, (rest > 0.5).float()))
    position = torch.where((opacity > 0.5)[..., None], position, identity)
    for part in (inside[:1], inside[1:2], inside[2:]):
        _show_through(proxy, part, covered, frame, position, visible)

    for lid in lids:
        frame, visible = _lay_lid(proxy, frame, visible, lid, front.depth)
    field, occlusion = _coarse_motion(position, visible)
    return frame.clamp(0, 1), field, occlusion


def _box(vertices: torch.Tensor) -> tuple[int, int, int, int] | None:
    """Pixels that vertices [V, 3] may touch: top, bottom, left, right; None when none of the frame."""
    low = (vertices[:, :2].amin(0).floor().long() - 1).clamp(0, NETWORK).tolist()
    high = (vertices[:, :2].amax(0).ceil().long() + 2).clamp(0, NETWORK).tolist()
    if high[0] - low[0] < 2 or high[1] - low[1] < 2:
        return None
    return low[1], high[1], low[0], high[0]


def _show_through(
    proxy: Proxy, parts: list[_Part], covered: torch.Tensor, frame: torch.Tensor, position: torch.Tensor,
    visible: torch.Tensor,
) -> None:  # fmt: skip
    """Eyeballs or mouth in place where the head leaves a hole; drawn at twice the size for clean edges."""
    vertices, triangles, attributes = _merge(parts, covered.device)
    place = _box(vertices)
    if place is None:
        return
    top, bottom, left, right = place
    box = (slice(top, bottom), slice(left, right))
    height, width = bottom - top, right - left
    fine = torch.cat([(vertices[:, :2] - vertices.new_tensor([left, top])) * 2 + 0.5, vertices[:, 2:]], 1)
    behind = rasterise(fine, triangles, height=2 * height, width=2 * width)
    through = behind.interpolate(triangles, attributes)
    painted = _sample(proxy.atlas, through[..., :2])[:3] * through[..., 4]
    filled = behind.covered.float()[None]
    painted, filled, source = (
        F.avg_pool2d(values[None], 2)[0] for values in (painted * filled, filled, through[..., 2:4].permute(2, 0, 1))
    )
    painted = painted / filled.clamp_min(0.25)
    # A soft edge: the share of head among the nine pixels around, where there is something behind.
    share = F.avg_pool2d(covered[box].float()[None, None], 3, 1, 1, count_include_pad=False)[0, 0] * covered[box]
    share = torch.where(filled[0] > 0.9, share, torch.ones_like(share))
    patch = (slice(None), *box)
    frame[patch] = share * frame[patch] + (1 - share) * painted
    hole = share < 0.5
    if reach := round(proxy.blur):
        # As soft as the photo: two means over a square are nearly a Gaussian, here and just around the hole.
        near = _soften(F.max_pool2d(hole.float()[None], 2 * reach + 1, 1, reach), reach)
        frame[patch] = near * _soften(frame[patch], reach) + (1 - near) * frame[patch]
    position[box] = torch.where(hole[..., None], source.permute(1, 2, 0), position[box])
    # Eyes are the photo's own; a mouth's inside is painted.
    visible[box] = torch.where(hole, torch.full_like(share, float(len(parts) == 1)), visible[box])


def _soften(picture: torch.Tensor, reach: int) -> torch.Tensor:
    """A picture [C, H, W], blurred over so many pixels to each side."""
    for _ in range(2):
        picture = F.avg_pool2d(picture[None], 2 * reach + 1, 1, reach, count_include_pad=False)[0]
    return picture


def _lay_lid(
    proxy: Proxy, frame: torch.Tensor, visible: torch.Tensor, lid: _Part, depth: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A lid over the frame, unless the nose stands before it."""
    if lid.shade.max() <= 0:
        return frame, visible
    vertices, triangles, attributes = _merge([lid], frame.device)
    place = _box(vertices)
    if place is None:
        return frame, visible
    top, bottom, left, right = place
    box = (slice(top, bottom), slice(left, right))
    shifted = vertices - vertices.new_tensor([left, top, 0])
    drawn = rasterise(shifted, triangles, height=bottom - top, width=right - left)
    values = drawn.interpolate(triangles, attributes)
    panel = _sample(proxy.atlas, values[..., :2])
    before = (drawn.depth <= depth[box] + 12) & drawn.covered
    alpha = panel[3] * values[..., 4] * before
    alpha = F.avg_pool2d(alpha[None, None], 3, 1, 1)[0, 0]
    patch = (slice(None), *box)
    frame[patch] = alpha * panel[:3] + (1 - alpha) * frame[patch]
    visible[box] = torch.minimum(visible[box], (alpha < 0.5).float())
    return frame, visible


def _coarse_motion(position: torch.Tensor, visible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [512, 512, 2] in pixels → field [64, 64, 2] in crop coordinates and occlusion [1, 64, 64]."""
    # Nine taps around each cell's centre; displacements are averaged, so rounding the taps costs nothing.
    cells = torch.linspace(0, NETWORK - 1, FIELD, device=position.device)
    taps = (cells[:, None] + torch.tensor([-2.0, 0.0, 2.0], device=position.device)).round().clamp(0, NETWORK - 1)
    index = taps.long().reshape(-1)
    own = torch.stack(torch.meshgrid(taps.reshape(-1), taps.reshape(-1), indexing="xy"), -1)
    moved = (position[index][:, index] - own).view(FIELD, 3, FIELD, 3, 2)
    seen = visible[index][:, index].view(FIELD, 3, FIELD, 3)
    share = seen.mean((1, 3))
    weight = torch.where(share[:, None, :, None] > 0, seen, torch.ones_like(seen))[..., None]
    displacement = (moved * weight).sum((1, 3)) / weight.sum((1, 3))
    centres = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), -1)
    return (centres + displacement) / HALF - 1, share[None]

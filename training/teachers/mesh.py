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

import numpy as np
import torch
import torch.nn.functional as F

from edge import topology as topo
from edge.motion import fit_similarity
from edge.spec import FIELD, NETWORK
from training.student.driver import RigidDriver
from training.teachers import Identity, Rendering
from training.teachers.eyes import EYES, pose_eyeball, pose_lid
from training.teachers.mouth import pose_mouth
from training.teachers.parts import HALF, MARGIN, Array, Part, Pose, to_crop, to_pixels
from training.teachers.proxy import Proxy, build_proxy
from training.teachers.raster import Fragments, rasterise

VERSION = 6
"""Counted up with whatever draws another frame or places a keypoint elsewhere; a test compares three frames
(tests/golden/make_frames.py)."""

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
        keypoints = to_crop(proxy.keypoints)
        return Identity(source_image, source_landmarks, torch.from_numpy(keypoints), source_image[:, None], proxy)

    def driver(self, identity: Identity) -> RigidDriver:
        """Keypoints are fixed to the head, which is posed as `render` poses it."""
        return RigidDriver(identity.source_landmarks[torch.from_numpy(topo.STABLE)].cpu().float(), identity.keypoints)

    @torch.no_grad()
    def render(self, identity: Identity, landmarks: torch.Tensor, images: torch.Tensor | None = None) -> Rendering:
        """Animate by landmarks alone: float32 [N, 478, 3], crop coordinates, already retargeted to this person."""
        proxy: Proxy = identity.binding
        driving = landmarks.cpu().numpy()
        keypoints = self.driver(identity).posed(landmarks.cpu().float())
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


def _draw(proxy: Proxy, driving: Array) -> _Frame:
    """One frame [3, 512, 512], its motion field [64, 64, 2] and occlusion [1, 64, 64]."""
    fitted = fit_similarity(driving, reference=proxy.points)
    pose = Pose(float(fitted.scale), fitted.rotation.astype(np.float32), fitted.translation.astype(np.float32))
    unposed = pose.backward(driving)  # the driving expression in the photo's own pose
    face, lids = unposed[:468].copy(), []
    for eye in EYES:
        lids.append(pose_lid(proxy.points, eye, face, driving, pose))
    face[:, 2] += proxy.flatter
    surface = pose.forward(face)
    residual = unposed[topo.FACE_OVAL] - proxy.points[topo.FACE_OVAL]
    carried = proxy.net + proxy.spread @ residual
    net = carried + proxy.follow[:, None] * (pose.forward(carried) - carried)
    vertices = np.concatenate([surface, net])
    head = Part(
        vertices,
        np.concatenate([proxy.points[:468, :2], proxy.net[:, :2]]),
        np.concatenate([proxy.points[:468, :2], proxy.net[:, :2]]),
        proxy.triangles,
        np.ones(len(vertices), np.float32),
    )
    eyes = [pose_eyeball(proxy.points, eye, driving, pose) for eye in EYES]
    mouth, parted = pose_mouth(proxy.points, driving, unposed, pose, own_teeth=proxy.open_mouth)
    return _compose(proxy, head, eyes, mouth, parted, lids)


def _sample(atlas: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """Atlas colours at positions from the photo's corner: uv float32 [h, w, 2] → [4, h, w]."""
    limit = uv.new_tensor([atlas.shape[-1] - 1, atlas.shape[-2] - 1])
    grid = ((uv + MARGIN) / limit * 2 - 1)[None]
    return F.grid_sample(atlas, grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


def _merge(parts: list[Part], device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
    proxy: Proxy, head: Part, eyes: list[list[Part]], mouth: list[Part], parted: float, lids: list[Part]
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
    opacity = sampled[3] * (1 - bare)
    painted, cover = _even_edges(
        proxy, front, vertices, triangles, attributes[:, :2], torch.cat([opacity * sampled[:3], opacity[None]]),
        _boxes([*eyes, mouth], device),
    )  # fmt: skip
    frame = painted[:3] + (1 - painted[3]) * proxy.plate
    # What does not move is the photo itself, whatever the cut-out missed.
    motion = (position - identity).square().sum(-1)
    rest = (1 - motion / 4).clamp_min(0) * (1 - bare)
    frame = frame + rest * (proxy.photo - frame)
    # What continues the photo beyond its frame is painted.
    within = ((position >= 0) & (position <= NETWORK - 1)).all(-1)
    visible = torch.maximum(((opacity > 0.5) & within).float(), torch.maximum(proxy.still, (rest > 0.5).float()))
    position = torch.where(((opacity > 0.5) & within)[..., None], position, identity)
    for eye in eyes:
        _show_through(proxy, eye, cover, frame, position, visible)
    _show_through(proxy, mouth, cover, frame, position, visible, shaded=parted, painted=True)

    for lid in lids:
        frame, visible = _lay_lid(proxy, frame, visible, lid, front.depth)
    field, occlusion = _coarse_motion(position, visible)
    return frame.clamp(0, 1), field, occlusion


_STEP_PX = 5.0
"""A leap in depth from pixel to pixel that is an outline and no slope."""


def _even_edges(
    proxy: Proxy, front: Fragments, vertices: torch.Tensor, triangles: torch.Tensor, uv: torch.Tensor,
    painted: torch.Tensor, holes: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The head's picture [4, H, W], colours times opacity, and what of each pixel it covers [H, W], evenly at outlines.

    These are where one part hides another, and rims within `holes` [H, W]: four samples a pixel. Only triangles near
    them are drawn again, at twice the size.
    """
    device, depth = vertices.device, torch.where(front.covered | holes, front.depth, torch.nan)
    edge, cover = torch.zeros_like(front.covered), front.covered.float()
    for near, far, gap in (
        (edge[1:], edge[:-1], depth[1:] - depth[:-1]), (edge[:, 1:], edge[:, :-1], depth[:, 1:] - depth[:, :-1]),
    ):  # fmt: skip
        leap = gap.abs() > _STEP_PX
        near |= leap
        far |= leap
    at = edge.nonzero()
    if not len(at):
        return painted, cover
    corners = vertices[triangles][..., :2]
    low, high = (corners.amin(1).floor() - 1).long(), (corners.amax(1).ceil() + 1).long()
    low, high = low.clamp(0, NETWORK - 1), high.clamp(0, NETWORK - 1)
    counted = F.pad(edge.int().cumsum(0).cumsum(1), (1, 0, 1, 0))
    (left, top), (right, bottom) = low.T, high.T + 1
    touched = counted[bottom, right] - counted[top, right] - counted[bottom, left] + counted[top, left] > 0
    near = triangles[touched]
    # Only the box around all outlines is drawn, and of it only these triangles.
    corner, end = at.amin(0), at.amax(0) + 1
    drawn = _drawn_fine(vertices, near, (int(corner[0]), int(end[0]), int(corner[1]), int(end[1])))
    inside = 2 * (at - corner)
    four = torch.tensor([0, 1, drawn.width, drawn.width + 1], device=device)
    samples = (inside[:, 0] * drawn.width + inside[:, 1])[:, None] + four
    found = torch.searchsorted(drawn.pixel, samples).clamp_max(len(drawn.pixel) - 1)
    hit = drawn.pixel[found] == samples
    first, second, third = uv[near[drawn.triangle[found]]].unbind(2)
    along, across = drawn.weights[found].split(1, -1)
    place = first + along * (second - first) + across * (third - first)
    sampled = _sample(proxy.atlas, place)
    # Samples that fall through a hole have no say in the colour: what stands in holes is drawn later.
    share = hit / hit.sum(1, keepdim=True).clamp_min(1)
    row, column = at.T
    even = torch.cat([sampled[3] * sampled[:3], sampled[3:]]) * share
    painted = painted.clone()
    painted[:, row, column] = torch.where(hit.any(1), even.sum(-1), painted[:, row, column])
    cover[row, column] = hit.float().mean(1)
    return painted, cover


def _drawn_fine(vertices: torch.Tensor, triangles: torch.Tensor, box: tuple[int, int, int, int]) -> Fragments:
    """Triangles within a box of pixels (top, bottom, left, right), four samples a pixel."""
    top, bottom, left, right = box
    fine = torch.cat([(vertices[:, :2] - vertices.new_tensor([left, top])) * 2 + 0.5, vertices[:, 2:]], 1)
    return rasterise(fine, triangles, height=2 * (bottom - top), width=2 * (right - left))


def _box(vertices: torch.Tensor) -> tuple[int, int, int, int] | None:
    """Pixels that vertices [V, 3] may touch: top, bottom, left, right; None when none of the frame."""
    low = (vertices[:, :2].amin(0).floor().long() - 1).clamp(0, NETWORK).tolist()
    high = (vertices[:, :2].amax(0).ceil().long() + 2).clamp(0, NETWORK).tolist()
    if high[0] - low[0] < 2 or high[1] - low[1] < 2:
        return None
    return low[1], high[1], low[0], high[0]


def _boxes(holes: list[list[Part]], device: torch.device) -> torch.Tensor:
    """The parts of a frame that eyes and mouth may show in: bool [H, W]."""
    within = torch.zeros(NETWORK, NETWORK, dtype=torch.bool, device=device)
    for parts in holes:
        if place := _box(torch.from_numpy(np.concatenate([part.vertices for part in parts]))):
            top, bottom, left, right = place
            within[top:bottom, left:right] = True
    return within


def _show_through(
    proxy: Proxy, parts: list[Part], cover: torch.Tensor, frame: torch.Tensor, position: torch.Tensor,
    visible: torch.Tensor, *, shaded: float = 0.0, painted: bool = False,
) -> None:  # fmt: skip
    """Eyeballs or mouth in place where the head leaves a hole; drawn at twice the size for clean edges.

    `cover`: what of each pixel the head covers; `shaded`: how much the hole's rim shades what lies behind; `painted`:
    it is not the photo's own.
    """
    vertices, triangles, attributes = _merge(parts, cover.device)
    place = _box(vertices)
    if place is None:
        return
    top, bottom, left, right = place
    box = (slice(top, bottom), slice(left, right))
    behind = _drawn_fine(vertices, triangles, place)
    through = behind.interpolate(triangles, attributes)
    colour = _sample(proxy.atlas, through[..., :2])[:3] * through[..., 4]
    filled = behind.covered.float()[None]
    colour, filled, source = (
        F.avg_pool2d(values[None], 2)[0] for values in (colour * filled, filled, through[..., 2:4].permute(2, 0, 1))
    )
    colour = colour / filled.clamp_min(0.25)
    if shaded:
        colour = colour * (1 - shaded * _OCCLUSION * _occluded(cover[box], proxy.occlusion))
    share = torch.where(filled[0] > 0.9, cover[box], torch.ones_like(cover[box]))
    patch = (slice(None), *box)
    frame[patch] = share * frame[patch] + (1 - share) * colour
    hole = share < 0.5
    if reach := round(proxy.blur):
        # As soft as the photo: two means over a square are nearly a Gaussian, here and just around the hole.
        near = _soften(F.max_pool2d(hole.float()[None], 2 * reach + 1, 1, reach), reach)
        frame[patch] = near * _soften(frame[patch], reach) + (1 - near) * frame[patch]
    position[box] = torch.where(hole[..., None], source.permute(1, 2, 0), position[box])
    visible[box] = torch.where(hole, torch.full_like(share, float(not painted)), visible[box])


_OCCLUSION = 0.62
"""How much of their light lips take from what lies directly behind them."""


def _occluded(cover: torch.Tensor, reach: int) -> torch.Tensor:
    """Share of the sky over each pixel that lips cover [H, W]: light comes from above, so it is looked for there."""
    size = 2 * reach + 1
    around = F.pad(cover[None, None], (reach, reach, reach + reach // 2, reach - reach // 2), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(around, size, 1), 3, 1, 1, count_include_pad=False)[0, 0]


def _soften(picture: torch.Tensor, reach: int) -> torch.Tensor:
    """A picture [C, H, W], blurred over so many pixels to each side."""
    for _ in range(2):
        picture = F.avg_pool2d(picture[None], 2 * reach + 1, 1, reach, count_include_pad=False)[0]
    return picture


def _lay_lid(
    proxy: Proxy, frame: torch.Tensor, visible: torch.Tensor, lid: Part, depth: torch.Tensor
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
    drawn = _drawn_fine(vertices, triangles, place)
    values = drawn.interpolate(triangles, attributes)
    panel = _sample(proxy.atlas, values[..., :2])
    behind = depth[box].repeat_interleave(2, 0).repeat_interleave(2, 1)
    alpha = panel[3] * values[..., 4] * ((drawn.depth <= behind + 12) & drawn.covered)
    laid = F.avg_pool2d(torch.cat([alpha * panel[:3], alpha[None]])[None], 2)[0]
    patch = (slice(None), *box)
    frame[patch] = laid[:3] + (1 - laid[3]) * frame[patch]
    visible[box] = torch.minimum(visible[box], (laid[3] < 0.5).float())
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

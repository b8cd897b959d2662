"""A photo taken apart for the mesh teacher: cut-out, background, head net, and panels behind its holes."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from edge import topology as topo
from edge.spec import NETWORK
from training.teachers.eyes import EYES, paint_eyeball, paint_lid
from training.teachers.matte import cut_out
from training.teachers.mouth import own_enamel, paint_mouth
from training.teachers.parts import LID_PANEL, MARGIN, MOUTH_PANEL, PANEL, TONGUE_PANEL, Array, smoothstep
from training.teachers.raster import rasterise

_SPACING = 20  # pixels between the net's points around the face


class Proxy(NamedTuple):
    """A person as textured geometry, in the pose of the photo."""

    atlas: torch.Tensor
    """float32 [1, 4, 80 + 512 + 256, 80 + 512 + 80]: RGB and opacity; the photo's cut-out, continued to three
    sides, and panels below it."""
    photo: torch.Tensor
    """float32 [3, 512, 512]."""
    plate: torch.Tensor
    """float32 [3, 512, 512]: the filled background."""
    still: torch.Tensor
    """float32 [512, 512]: 1 where the background plate is the photo itself."""
    swept: torch.Tensor
    """float32 [512, 512]: 1 where the head lies in the photo; what it leaves bare shows the background. Fades to 0
    below the jaw: neck and shoulders that the head's skin leaves bare are still there."""
    points: Array
    """[478, 3]: the photo's landmarks in pixels."""
    flatter: Array
    """[468]: added to the mesh's z, so that its rim is no steeper than a photo can show."""
    net: Array
    """[E, 3]: head points around the face."""
    follow: Array
    """[E]: how far a net point follows the skull, 1 to 0."""
    spread: Array
    """[E, 36]: how far it follows each point of the face's outline."""
    triangles: torch.Tensor
    """int64 [F, 3] over the 468 face points and then the net."""
    keypoints: Array
    """[K, 3]: points fixed to the head, twelve around the skull and eight on the face."""
    open_mouth: bool
    """Whether the photo itself shows the inside of the mouth."""
    blur: float
    """Of the photo, as the deviation of a Gaussian in pixels: what is painted into it is as soft."""
    occlusion: int
    """Pixels from the lips' rim over which they shade what stands behind them."""


def _face_size(points: Array) -> tuple[float, float]:
    """Height (hairline to chin) and width (cheek to cheek) of a face in pixels, both in 3-D."""
    height = float(np.linalg.norm(points[topo.CHIN] - points[topo.FOREHEAD_TOP]))
    width = float(np.linalg.norm(points[topo.LEFT_CHEEK_EDGE] - points[topo.RIGHT_CHEEK_EDGE]))
    return height, width


def _face_axes(points: Array) -> tuple[Array, Array]:
    """Unit vectors in the image: to the person's left, and down to the chin."""
    right = points[topo.LEFT_CHEEK_EDGE, :2] - points[topo.RIGHT_CHEEK_EDGE, :2]
    down = points[topo.CHIN, :2] - points[topo.FOREHEAD_TOP, :2]
    right = right + np.array([down[1], -down[0]])  # both diagonals together: steady under yaw and pitch
    right /= np.linalg.norm(right)
    return right.astype(np.float32), np.array([-right[1], right[0]], np.float32)


def place_keypoints(points: Array) -> Array:
    """Twelve points around the skull and eight on the face of landmarks [478, 3]: float32 [K, 3]."""
    height, width = _face_size(points)
    right, down = _face_axes(points)
    centre = points[topo.FACE_OVAL].mean(0)
    anchors = []
    for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        offset = np.cos(angle) * 0.75 * width * right + np.sin(angle) * 0.8 * height * down
        anchors.append([*(centre[:2] + offset - 0.1 * height * down), centre[2] + 0.2 * height])
    for across, along, depth in (
        (0, -0.4, -0.1), (0, -0.1, -0.25), (0, 0.1, -0.4), (-0.3, 0.05, 0.0),
        (0.3, 0.05, 0.0), (-0.2, 0.35, -0.05), (0.2, 0.35, -0.05), (0, 0.5, -0.1),
    ):  # fmt: skip
        anchors.append([*(centre[:2] + across * width * right + along * height * down), centre[2] + depth * height])
    return np.array(anchors, np.float32)


def _mesh_triangles() -> NDArray[np.int64]:
    """MediaPipe's 852 triangles over 468 points, holes at both eyes and the mouth: int64 [852, 3]."""
    from mediapipe.tasks.python import vision

    edges = vision.FaceLandmarksConnections.FACE_LANDMARKS_TESSELATION
    return np.array([[edges[i + k].start for k in range(3)] for i in range(0, len(edges), 3)])


def build_proxy(image: NDArray[np.uint8], points: Array, device: torch.device) -> Proxy:
    """Cut out the person, spread the net around the face, paint the panels."""
    height, width = _face_size(points)
    _, down = _face_axes(points)
    layers = cut_out(image, points)
    matte = layers.matte.copy()
    face = np.zeros((NETWORK, NETWORK), np.uint8)
    cv2.fillPoly(face, [points[topo.FACE_OVAL, :2].round().astype(np.int32)], 1)
    matte = np.maximum(matte, cv2.erode(face, np.ones((9, 9), np.uint8)).astype(np.float32))
    # Colours of the cut-out alone, so that cut-out over background gives the photo back.
    opacity = matte[..., None]
    colour = (image - (1 - opacity) * layers.background) / np.maximum(opacity, 0.02)
    colour = np.clip(colour, 0, 255)
    still = cv2.erode((np.abs(image.astype(int) - layers.background).max(-1) < 3).astype(np.float32), np.ones((3, 3)))

    net, triangles = _spread_net(points)
    flatter = _flatter_rim(points)
    oval = points[topo.FACE_OVAL] + flatter[topo.FACE_OVAL, None] * np.array([0, 0, 1], np.float32)
    away = np.linalg.norm(net[:, None, :2] - oval[None, :, :2], axis=-1)
    nearest = away.min(1)
    # Depth: from the face's outline back to the skull's middle, where its silhouette lies.
    blend = np.exp(-((away / (0.1 * height)) ** 2)) + 1e-6
    blend /= blend.sum(1, keepdims=True)
    rim = blend @ oval[:, 2]
    back = points[topo.NOSE_BRIDGE, 2] + 0.62 * height
    net[:, 2] = rim + np.maximum(back - rim, 0) * smoothstep(nearest, 0, 0.4 * height)
    # The skull carries what is near it; the neck carries less and less; shoulders rest.
    centre = (points[topo.CHIN, :2] + points[topo.FOREHEAD_TOP, :2]) / 2 - 0.1 * height * down
    across = np.array([down[1], -down[0]])
    offset = net[:, :2] - centre
    radius = np.hypot(offset @ across / width, offset @ down / height)
    low = (net[:, :2] - points[topo.CHIN, :2]) @ down / height
    follow = (1 - smoothstep(radius, 1.0, 1.7)) * (1 - smoothstep(low, -0.12, 0.42))
    follow *= smoothstep((NETWORK - 1 - net[:, 1]) / height, 0.0, 0.2)  # the picture's lower edge holds the body
    spread = blend * np.exp(-((nearest / (0.16 * height)) ** 2))[:, None]
    moving = (follow > 1e-3) | (spread.sum(1) > 1e-2)
    outline = moving[np.clip(triangles - len(_FACE), 0, None)] | (triangles < len(_FACE))
    triangles = triangles[outline.any(1)]

    open_mouth = bool(np.linalg.norm(points[13] - points[14]) / np.linalg.norm(points[61] - points[291]) > 0.05)
    skin_mask = cv2.erode(face, np.ones((25, 25), np.uint8)) > 0
    skin = np.median(image[skin_mask], 0) / 255 if skin_mask.any() else np.full(3, 0.5)
    panels = np.zeros((2 * PANEL, NETWORK, 4), np.float32)

    def lay(panel: tuple[int, int], painted: Array, row: int = 0) -> None:
        top = panel[1] - NETWORK + row
        panels[top : top + len(painted), panel[0] : panel[0] + PANEL] = painted

    for eye in EYES:
        white, iris = paint_eyeball(image, points, eye)
        lay(eye.panel, white)
        lay(eye.iris_panel, iris)
        lay(LID_PANEL, paint_lid(image, points, eye), eye.lid_row)
    blur = _blur_px(image, points)
    mouth_px = float(np.linalg.norm(points[61] - points[291]))
    teeth, tongue = paint_mouth(
        skin, own_enamel(image, points) if open_mouth else None, blur * PANEL / max(mouth_px, 1.0)
    )
    lay(MOUTH_PANEL, teeth)
    lay(TONGUE_PANEL, tongue)
    photo = _continue(np.concatenate([colour, 255 * opacity], -1).astype(np.float32), points)
    panels = np.pad(panels, ((0, 0), (MARGIN, MARGIN), (0, 0)))
    atlas = torch.from_numpy(np.concatenate([photo, panels]) / 255).permute(2, 0, 1)[None].contiguous()
    mesh = torch.from_numpy(np.concatenate([_mesh_triangles(), triangles]))
    at_rest = torch.from_numpy(np.concatenate([points[:468], net]).astype(np.float32))
    at_rest[: len(_FACE), 2] += torch.from_numpy(flatter)
    # The mesh has holes at eyes and mouth: an eye of the photo must not stay behind either.
    swept = np.maximum(rasterise(at_rest, mesh, height=NETWORK, width=NETWORK).covered.cpu().numpy(), face)
    below = (np.stack(np.meshgrid(np.arange(NETWORK), np.arange(NETWORK)), -1) - points[topo.CHIN, :2]) @ down / height
    return Proxy(
        atlas=atlas.to(device),
        photo=torch.from_numpy(image).permute(2, 0, 1).float().div(255).to(device),
        plate=torch.from_numpy(layers.background).permute(2, 0, 1).float().div(255).to(device),
        still=torch.from_numpy(still).to(device),
        swept=torch.from_numpy(swept * (1 - smoothstep(below, -0.1, 0.1))).to(device),
        points=points,
        flatter=flatter,
        net=net,
        follow=follow,
        spread=spread.astype(np.float32),
        triangles=mesh.to(device),
        keypoints=place_keypoints(points),
        open_mouth=open_mouth,
        blur=blur,
        occlusion=max(1, round(0.06 * mouth_px)),
    )


def _continue(cut: Array, points: Array) -> Array:
    """A cut-out [512, 512, 4] continued by its mirror image to both sides, and above by a rounded crown.

    Returns: float32 [592, 672, 4].
    """
    wide = cv2.copyMakeBorder(cut, MARGIN, 0, MARGIN, MARGIN, cv2.BORDER_REFLECT_101)
    row = cut[:4, :, 3].mean(0) > 128
    if not row.any():
        wide[:MARGIN, :, 3] = 0
    else:
        # What the frame cuts off is the cap of a head: as high as a skull, as wide as the cut.
        left, right = np.flatnonzero(row)[[0, -1]]
        height, _ = _face_size(points)
        top = float(np.clip(points[topo.FOREHEAD_TOP, 1] - 0.45 * height, -0.85 * MARGIN, -0.1 * (right - left)))
        x = np.arange(wide.shape[1]) - MARGIN
        y = np.arange(MARGIN)[:, None] - MARGIN
        half = max((right - left) / 2, 1.0)
        cap = top * np.sqrt(np.clip(1 - np.abs((x - left - half) / half) ** 2.5, 0, 1))
        wide[:MARGIN, :, 3] *= smoothstep(y - cap, -3.0, 3.0) * (cap < 0)
    return wide


_FACE = np.arange(468)
_STEEPEST = 1.5
"""Depth that the mesh's rim may gain per pixel towards the ears: a steeper one shows a few pixels as a broad patch."""


def _flatter_rim(points: Array) -> Array:
    """What brings the face's rim forward, two rings wide, where the mesh drops too steeply: [468], added to z."""
    triangles = _mesh_triangles()
    edges = np.concatenate([triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2))])
    rim = np.zeros(len(_FACE), bool)
    rim[topo.FACE_OVAL] = True
    rim[edges[rim[edges[:, 0]], 1]] = True
    z = points[: len(_FACE), 2].copy()
    reach = _STEEPEST * np.linalg.norm(points[edges[:, 0], :2] - points[edges[:, 1], :2], axis=1)
    for _ in range(3):  # from the inside out: two rings, and one more along them
        limit = np.full_like(z, np.inf)
        np.minimum.at(limit, edges[:, 1], z[edges[:, 0]] + reach)
        z = np.where(rim, np.minimum(z, limit), z)
    return (z - points[: len(_FACE), 2]).astype(np.float32)


def _spread_net(points: Array) -> tuple[Array, NDArray[np.int64]]:
    """Points around the face and the triangles between them and the face's outline.

    Returns:
        net float32 [E, 3] (z still 0) and int64 [F, 3] over face points 0..467 and then the net.
    """
    oval = points[topo.FACE_OVAL, :2]
    ticks = np.linspace(0, NETWORK - 1, NETWORK // _SPACING + 1)
    before = np.linspace(-MARGIN, 0, MARGIN // _SPACING + 1)[:-1]
    wide = np.concatenate([before, ticks, NETWORK - 1 - before[::-1]])
    grid = np.stack(np.meshgrid(wide, np.concatenate([before, ticks])), -1).reshape(-1, 2)
    contour = oval.astype(np.float32).reshape(-1, 1, 2)
    signed = np.array([cv2.pointPolygonTest(contour, (float(x), float(y)), True) for x, y in grid])
    grid = grid[signed < -0.45 * _SPACING]
    everything = np.concatenate([oval, grid])
    simplices = Delaunay(everything).simplices
    middle = everything[simplices].mean(1)
    outside = [cv2.pointPolygonTest(contour, (float(x), float(y)), False) < 0 for x, y in middle]
    simplices = simplices[outside]
    rename = np.concatenate([topo.FACE_OVAL, len(_FACE) + np.arange(len(grid))])
    net = np.concatenate([grid, np.zeros((len(grid), 1))], 1).astype(np.float32)
    return net, rename[simplices]


def _blur_px(image: NDArray[np.uint8], points: Array) -> float:
    """How far a photo is blurred, as the deviation of a Gaussian in pixels of the crop; 0 for what cameras call sharp.

    From the share of the face's contrast that is finer than three pixels: 0.1 in most sharp portraits, 0.03, 0.012
    and 0.004 for the same blurred over two, four and eight pixels.
    """
    oval = np.clip(points[topo.FACE_OVAL, :2], 0, NETWORK - 1)
    (left, top), (right, bottom) = oval.min(0).astype(int), oval.max(0).astype(int)
    grey = cv2.cvtColor(image[top : bottom + 1, left : right + 1], cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = float((grey - cv2.GaussianBlur(grey, (0, 0), 1.5)).std() / max(float(grey.std()), 1.0))
    return float(np.clip(0.06 / max(fine, 1e-3) - 0.7, 0.0, 8.0))

"""A photo taken apart for the mesh teacher: cut-out, background, head net, and panels behind its holes."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import Delaunay

from edge import topology as topo
from edge.spec import KEYPOINTS, NETWORK
from training.teachers.matte import cut_out
from training.teachers.raster import rasterise

Array = NDArray[np.float32]


_SPACING = 20  # pixels between the net's points around the face
PANEL = 128  # the atlas is the photo with one row of square panels below it
HALF = (NETWORK - 1) / 2
_RIGHT_EYE_PANEL, _LEFT_EYE_PANEL, MOUTH_PANEL, LID_PANEL = ((i * PANEL, NETWORK) for i in range(4))


class Eye(NamedTuple):
    """One eye, as indices into the landmarks."""

    outer: int
    inner: int
    upper: Array
    lower: Array
    fold: Array
    iris: int
    panel: tuple[int, int]
    lid_rows: tuple[int, int]


EYES = (
    Eye(
        topo.RIGHT_EYE_OUTER, topo.RIGHT_EYE_INNER, topo.RIGHT_UPPER_LID, topo.RIGHT_LOWER_LID, topo.RIGHT_FOLD,
        topo.RIGHT_IRIS_CENTRE, _RIGHT_EYE_PANEL, (0, 56),
    ),
    Eye(
        topo.LEFT_EYE_OUTER, topo.LEFT_EYE_INNER, topo.LEFT_UPPER_LID, topo.LEFT_LOWER_LID, topo.LEFT_FOLD,
        topo.LEFT_IRIS_CENTRE, _LEFT_EYE_PANEL, (64, 120),
    ),
)  # fmt: skip


class Proxy(NamedTuple):
    """A person as textured geometry, in the pose of the photo."""

    atlas: torch.Tensor
    """float32 [1, 4, 512 + 128, 512]: RGB and opacity; the photo's cut-out, and panels below it."""
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
    keypoint_weights: Array
    """[K, 32]: keypoints as blends of the stable landmarks."""
    open_mouth: bool
    """Whether the photo itself shows the inside of the mouth."""
    blur: float
    """Of the photo, as the deviation of a Gaussian in pixels: what is painted into it is as soft."""


def to_pixels(landmarks: Array) -> Array:
    """Crop coordinates [..., 478, 3] → pixels of the crop, z in the same unit."""
    pixels = landmarks.astype(np.float32) * np.float32(HALF)
    pixels[..., :2] += HALF
    return pixels


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


def smoothstep(value: Array, low: float, high: float) -> Array:
    """0 up to `low`, 1 from `high`, smooth between; any shape."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return (t * t * (3 - 2 * t)).astype(np.float32)


def keypoint_weights(points: Array) -> Array:
    """Keypoints as fixed blends of the stable landmarks: float32 [K, 32], rows sum to 1.

    A blend of landmarks whose weights sum to 1 moves rigidly when they do; so twelve points around
    the skull and eight on the face are carried exactly by a linear map.
    """
    height, width = _face_size(points)
    right, down = _face_axes(points)
    stable = points[topo.STABLE].astype(np.float64)
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
    # Least weights w with sum(w) = 1 and w · stable = anchor, in units of the face's height.
    scale = height
    rows = np.concatenate([stable / scale, np.ones((len(stable), 1))], 1)
    wanted = np.concatenate([np.array(anchors) / scale, np.ones((KEYPOINTS, 1))], 1)
    return (wanted @ np.linalg.pinv(rows)).astype(np.float32)


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

    gap = np.linalg.norm(points[13] - points[14]) / np.linalg.norm(points[61] - points[291])
    skin_mask = cv2.erode(face, np.ones((25, 25), np.uint8)) > 0
    skin = np.median(image[skin_mask], 0) / 255 if skin_mask.any() else np.full(3, 0.5)
    panels = np.zeros((PANEL, NETWORK, 4), np.float32)
    for eye in EYES:
        panels[:, eye.panel[0] : eye.panel[0] + PANEL] = _eye_panel(image, points, eye)
        top, bottom = eye.lid_rows
        panels[top : bottom + 8, LID_PANEL[0] :] = _lid_panel(image, points, eye, bottom - top)
    blur = _blur_px(image, points)
    mouth_px = float(np.linalg.norm(points[61] - points[291]))
    panels[:, MOUTH_PANEL[0] : MOUTH_PANEL[0] + PANEL] = _mouth_panel(skin, blur * PANEL / max(mouth_px, 1.0))
    photo = np.concatenate([colour, 255 * opacity], -1).astype(np.float32)
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
        keypoint_weights=keypoint_weights(points),
        open_mouth=bool(gap > 0.05),
        blur=blur,
    )


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
    grid = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
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


def _inpaint(colour: Array, known: Array) -> Array:
    """Colours [h, w, 3] continued from where `known` [h, w] is 1 into where it is 0, smoothly."""
    total, weight = np.zeros_like(colour), np.zeros((*known.shape, 1), np.float32)
    for sigma in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
        share = 4.0 ** -np.log2(sigma)
        total += share * cv2.GaussianBlur(colour * known[..., None], (0, 0), sigma)
        weight += share * cv2.GaussianBlur(known, (0, 0), sigma)[..., None]
    keep = known[..., None]
    return keep * colour + (1 - keep) * total / np.maximum(weight, 1e-6)


def eye_ring(eye: Eye) -> NDArray[np.int64]:
    """The eye's opening as a closed ring of 16 landmark indices."""
    return np.concatenate([[eye.outer], eye.upper, [eye.inner], eye.lower[::-1]])


def _eye_panel(image: NDArray[np.uint8], points: Array, eye: Eye) -> Array:
    """The eyeball without its lids: float32 [128, 128, 4], 0..255, one panel pixel a photo pixel."""
    ring = points[eye_ring(eye), :2]
    origin = panel_origin(points, eye)
    patch = cv2.warpAffine(
        image, np.array([[1, 0, -origin[0]], [0, 1, -origin[1]]], np.float32), (PANEL, PANEL),
        borderMode=cv2.BORDER_REPLICATE,
    ).astype(np.float32)  # fmt: skip
    known = np.zeros((PANEL, PANEL), np.float32)
    cv2.fillPoly(known, [np.round((ring - origin) * 16).astype(np.int32)], 1.0, shift=4)
    return np.concatenate([_inpaint(patch, known), np.full((PANEL, PANEL, 1), 255.0)], -1)


def panel_origin(points: Array, eye: Eye) -> Array:
    """Photo pixel that lies at the eye panel's corner (whole numbers, so that nothing is resampled)."""
    return np.round(points[eye_ring(eye), :2].mean(0) - PANEL / 2).astype(np.float32)


def _lid_panel(image: NDArray[np.uint8], points: Array, eye: Eye, rows: int) -> Array:
    """Skin of an upper lid with its lashes: float32 [rows + 8, 128, 4], columns outer to inner corner.

    The skin between lid and fold is all that the photo shows of it; its colours are smoothed along the lid.
    """
    edge = points[np.concatenate([[eye.outer], eye.upper, [eye.inner]]), :2]
    fold = points[np.concatenate([[eye.outer], eye.fold, [eye.inner]]), :2]
    ticks = np.linspace(0, len(edge) - 1, PANEL)
    lower = points[np.concatenate([[eye.outer], eye.lower, [eye.inner]]), :2]
    edge, fold, lower = (
        np.stack([np.interp(ticks, np.arange(len(c)), c[:, k]) for k in (0, 1)], -1) for c in (edge, fold, lower)
    )
    blurred = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32)
    # From the lid itself up to the brow's bone, and a little from below the eye: lashes and folds are
    # darker than skin, so the brighter samples of each column count.
    rise, opening = fold - edge, lower - edge
    places = [edge + share * rise for share in (0.7, 1.0, 1.4, 1.8)] + [lower + share * opening for share in (0.5, 0.8)]
    samples = np.stack(
        [
            cv2.remap(blurred, *np.float32(at.T[:, None]), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
            for at in places
        ]
    )
    order = samples.mean(-1).argsort(0)[..., None]
    skin = np.take_along_axis(samples, order, 0)[2:5].mean(0)
    middle = np.median(skin[16:-16], 0)
    skin = 0.5 * cv2.GaussianBlur(skin[None], (0, 0), 14, borderType=cv2.BORDER_REPLICATE)[0] + 0.5 * middle
    skin *= 0.95
    depth = np.linspace(0, 1, rows)[:, None]
    shade = 0.93 + 0.11 * np.sin(np.pi * np.clip(depth * 0.9 + 0.05, 0, 1))  # a lid is round
    shade = shade * (1 - 0.14 * np.linspace(-1, 1, PANEL) ** 2)
    lid = skin[None] * shade[..., None]
    corner = 1 - 0.5 * np.abs(np.linspace(-1, 1, PANEL)) ** 2
    lash = (smoothstep(np.broadcast_to(depth, (rows, PANEL)), 0.82, 0.95) * 0.5 * corner)[..., None]
    lid = lid * (1 - lash)
    panel = np.zeros((rows + 8, PANEL, 4), np.float32)
    panel[:rows, :, :3], panel[rows:, :, :3] = lid, lid[-1]
    # The lid fades in over the old lash line and fades out below the new one and towards the corners.
    fade = smoothstep(np.broadcast_to(depth, (rows, PANEL)), 0.0, 0.10) * (
        1 - smoothstep(np.broadcast_to(depth, (rows, PANEL)), 0.96, 1.0)
    )
    panel[:rows, :, 3] = 255 * fade
    return panel


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


def _mouth_panel(skin: Array, blur: float) -> Array:
    """The inside of a mouth, painted as the photo is: as light, as colourful, as soft. Float32 [128, 128, 4].

    Rows 0..39 upper teeth, 40..71 lower teeth, 72..95 tongue, 96..127 cavity (left: middle, right: rim).

    Args:
        skin: RGB of the face, 0..1.
        blur: the photo's, in pixels of the panel.
    """
    panel = np.full((PANEL, PANEL, 4), 255.0, np.float32)
    light = float(np.clip(skin.mean() * 1.5, 0.03, 1.0))
    # The light that falls on the skin falls on the teeth: a third of the skin's tint goes into the enamel.
    tint = (skin / max(skin.mean(), 1e-3)) ** 0.35
    x = np.linspace(-1, 1, PANEL, dtype=np.float32)
    enamel = np.array([240, 232, 216], np.float32) * light * tint

    def teeth(rows: int, edges: Array, *, up: bool) -> Array:
        y = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
        y = 1 - y if not up else y  # 0 at the gum, 1 at the biting edge
        distance = np.abs(x[:, None] - np.concatenate([-edges, [0], edges])[None]).min(1)
        gaps = 1 - 0.22 * np.exp(-((distance / 0.022) ** 2))
        roundness = 1 - 0.45 * np.abs(x) ** 2.2
        gum = smoothstep(np.broadcast_to(y, (rows, PANEL)), 0.0, 0.3)
        bright = gaps * roundness * (0.86 + 0.14 * y)
        colour = enamel * bright[..., None]
        return colour * gum[..., None] + (1 - gum[..., None]) * np.array([150, 82, 78], np.float32) * light

    panel[0:40, :, :3] = teeth(40, np.array([0.24, 0.44, 0.64, 0.82], np.float32), up=True)
    panel[40:72, :, :3] = teeth(32, np.array([0.16, 0.33, 0.52, 0.72, 0.9], np.float32), up=False) * 0.8
    tongue = np.array([165, 84, 82], np.float32) * light
    shade = (1 - 0.5 * x**2)[None, :, None] * np.linspace(0.55, 0.95, 24)[:, None, None]
    panel[72:96, :, :3] = tongue * shade
    dark, rim = np.array([38, 14, 14], np.float32) * light, np.array([96, 44, 42], np.float32) * light
    ramp = smoothstep(x, -1.0, 1.0)[None, :, None]
    panel[96:128, :, :3] = dark * (1 - ramp) + rim * ramp
    # A grey photo has a grey mouth; skin of any tone under any lamp is more colourful than a fifth.
    colourful = float(np.clip((skin.max() - skin.min()) / max(skin.max(), 1e-3) / 0.2, 0.0, 1.0))
    grey = panel[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32)
    panel[..., :3] = grey[..., None] + colourful * (panel[..., :3] - grey[..., None])
    for rows in (slice(0, 40), slice(40, 72), slice(72, 96), slice(96, 128)):
        part = np.ascontiguousarray(panel[rows, :, :3])
        panel[rows, :, :3] = cv2.GaussianBlur(part, (0, 0), 0.8 + blur, borderType=cv2.BORDER_REPLICATE)
    return panel
